"""What the paper reports of its own backbones (LeDex, tables 2 to 5; method.md, 4): pass@1 and pass@10, percent.

Here to stand beside a run of the same backbone, never to be mixed with its figures. The paper gives no intervals and
no seeds. Not covered: its ablations and CodeLlama-13B.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Figure = tuple[float, float | None]  # pass@1, pass@10
BENCHMARKS = ("mbpp", "humaneval", "mbppplus", "humanevalplus")


@dataclass(frozen=True)
class Published:
    """One row: figures in the order of BENCHMARKS."""

    stage: Literal["prompt", "sft", "sft+rl"]
    mode: Literal["initial", "explain"]
    figures: tuple[Figure, Figure, Figure, Figure]


PUBLISHED: dict[str, tuple[Published, ...]] = {
    "StarCoder-15B": (
        Published("prompt", "initial", ((37.70, 69.60), (30.34, 63.21), (34.90, 60.85), (26.16, 56.77))),
        Published("prompt", "explain", ((40.37, 71.60), (33.96, 67.20), (39.23, 64.67), (30.09, 60.72))),
        Published("sft", "initial", ((47.41, 70.27), (35.05, 66.93), (43.28, 62.48), (30.01, 59.77))),
        Published("sft", "explain", ((57.11, 76.70), (47.37, 77.16), (53.83, 72.19), (43.54, 72.61))),
        Published("sft+rl", "initial", ((48.62, 70.68), (39.45, 70.16), (44.94, 63.92), (35.05, 64.41))),
        Published("sft+rl", "explain", ((58.19, 77.96), (51.67, 80.79), (54.29, 71.93), (46.26, 74.24))),
    ),
    "CodeLlama-7B": (
        Published("prompt", "explain", ((43.42, 72.09), (40.13, 74.95), (42.46, 67.41), (32.49, 66.58))),
        Published("sft", "explain", ((57.98, 77.92), (52.98, 82.22), (51.55, 70.94), (47.62, 75.54))),
        Published("sft+rl", "explain", ((57.92, 78.97), (55.84, 84.14), (52.90, 71.80), (50.04, 78.25))),
    ),
}
SPELLINGS = {
    "StarCoder-15B": ("bigcode/starcoder", "starcoder-15b"),
    "CodeLlama-7B": ("codellama-7b", "codellama-7b-hf"),
}


def backbone_of(model: str) -> str:
    """The paper's name of a model, by its hub id (at any revision) or path; "" for those that have no figures here.

    A model's relatives (an instruct or Python version, a fine-tuned one) are other models.
    """
    name = model.partition("@")[0].lower().rstrip("/")
    for backbone, spellings in SPELLINGS.items():
        if any(name == s or name.endswith("/" + s) for s in spellings):
            return backbone
    return ""

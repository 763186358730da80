"""What several tests of actors use: the learner's side of an engine, and how far two policies are apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from actors.weight_source import ModuleSource
from ledex_ray.config import ModelConfig, RolloutConfig

SETTINGS = RolloutConfig(max_num_seqs=16, kv_cache_gb=0.25, deadline_seconds=120.0, ready_seconds=300.0)
MODEL = ModelConfig(dtype="float32", max_length=256)


class Learner:
    """A transformers model that stands where a learner rank does: a source of weights, and their log-probabilities."""

    def __init__(self, path: Path, dtype: torch.dtype = torch.float32) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
        self.source = ModuleSource(self.model)

    def step(self, seed: int) -> None:
        """Changes every weight, as an optimizer step would, only more."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.mul_(1 + 0.2 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype))

    @torch.no_grad()
    def log_probs(self, sequences: Sequence[Sequence[int]], temperature: float) -> list[NDArray[np.float32]]:
        """[L - 1] for each sequence."""
        found = []
        for ids in sequences:
            ids_BL = torch.tensor([list(ids)])
            log_probs_LV = (self.model(ids_BL).logits[0].float() / temperature).log_softmax(-1)
            found.append(log_probs_LV[:-1].gather(-1, ids_BL[0, 1:, None])[:, 0].numpy())
        return found


def gap(a: Sequence[Any], b: Sequence[Any]) -> float:
    """The largest difference of two lists of log-probabilities."""
    return max(float(np.abs(np.asarray(x) - np.asarray(y)).max()) for x, y in zip(a, b, strict=True))


PROBE = tuple(tuple((17 * i + 31 * k) % 5000 + 10 for k in range(12 + i)) for i in range(4))

"""The planner against the peak resident memory of a real rank, within 15 %, for three CPU configurations."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ledex_ray.config import LearnerConfig, LoraConfig, Recipe
from ledex_ray.planner import learner_plan, read_shape

pytestmark = pytest.mark.acceptance

RANK = """
import json, resource, sys
import numpy as np
from actors.learner_rank import LearnerRank, LearnerSpec
from ledex_ray.config import LearnerConfig, ModelConfig, OptimizerConfig
from ledex_ray.episodes import SupervisedExample

job = json.loads(sys.argv[1])
rank = LearnerRank(LearnerSpec(
    learner=LearnerConfig(**job["learner"]), model=ModelConfig(), precision=job["precision"],
    model_path=job["model"], reference_path=job["model"], optimizer=OptimizerConfig(), total_steps=10, seed=0,
))
rank.build(*rank.endpoint())
random = np.random.default_rng(0)
length, mask = 256, np.arange(256) > 0
batch = [
    SupervisedExample(str(i), random.integers(10, 40000, length).astype(np.int32), mask)
    for i in range(2 * job["learner"]["tokens_per_micro_batch"] // length)
]
for _ in range(2):
    rank.sft_step(batch)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""

CONFIGURATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "bf16": ("bfloat16", {"tokens_per_micro_batch": 2048}),
    "fp32": ("float32", {"tokens_per_micro_batch": 1024, "zero_stage": 2}),
    "lora, checkpointed": (
        "bfloat16",
        {"tokens_per_micro_batch": 2048, "lora": {"rank": 16}, "gradient_checkpointing": True},
    ),
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_plan_is_within_15_percent_of_the_measured_peak(name: str, smollm2: Path) -> None:
    precision, settings = CONFIGURATIONS[name]
    job = {"learner": settings, "precision": precision, "model": str(smollm2)}
    done = subprocess.run(
        [sys.executable, "-c", RANK, json.dumps(job)],
        env=os.environ
        | {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    measured = int(done.stdout.strip().splitlines()[-1])
    lora = LoraConfig(**settings["lora"]) if "lora" in settings else None
    recipe = Recipe(learner=LearnerConfig(**{**settings, "lora": lora}))
    planned = learner_plan(recipe, read_shape(smollm2), stage="sft", precision=precision, device="cpu").bytes
    print(f"{name}: planned {planned >> 20} MiB, measured {measured >> 20} MiB")
    assert planned == pytest.approx(measured, rel=0.15)

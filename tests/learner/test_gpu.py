"""What needs a GPU: the numbers of the CPU suite on CUDA, flash attention, offload, and the planner's peak there.

Nobody has run these yet (docs/hardware.md). They need one CUDA device, two where they say so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.learner import LearnerGroup
from ledex_ray.config import LearnerConfig, ModelConfig, OptimizerConfig, PPOConfig, Recipe
from tests.learner.batches import episodes, examples

pytestmark = pytest.mark.gpu

OPTIMIZER = OptimizerConfig(lr=1e-3, eps=1e-3, clip_grad_norm=0.5)


@pytest.fixture(autouse=True)
def cuda(ray_session: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)


def losses(path: Path, gpus: float, dtype: str, **settings: Any) -> tuple[list[float], dict[str, float]]:
    ranks = settings.pop("ranks", 1)
    ppo = PPOConfig(optimizer=OPTIMIZER, minibatch_episodes=16, critic_warmup=0)
    learner = LearnerGroup(
        LearnerConfig(gpus=gpus, ranks=ranks, tokens_per_micro_batch=256, **settings),
        ModelConfig(dtype=dtype),
        path,
        OPTIMIZER,
        total_steps=10,
        seed=0,
        ppo=ppo,
    )
    try:
        found = [learner.sft_step(examples(8, seed=seed, words=5000))["loss"] for seed in range(3)]
        return found, learner.ppo_update(episodes(8, words=5000), 0)
    finally:
        learner.shutdown()


@pytest.mark.parametrize("settings", [{"zero_stage": 1}, {"zero_stage": 3}, {"zero_stage": 3, "offload": True}])
def test_fp32_on_the_gpu_equals_fp32_on_the_cpu(settings: dict[str, Any], tiny_llama: Path) -> None:
    on_cpu, cpu_update = losses(tiny_llama, 0, "float32")
    on_gpu, gpu_update = losses(tiny_llama, 1, "float32", **settings)
    assert on_gpu == pytest.approx(on_cpu, abs=1e-4)
    assert gpu_update["policy_loss"] == pytest.approx(cpu_update["policy_loss"], abs=1e-4)


def test_two_ranks_on_two_gpus_equal_one(tiny_llama: Path) -> None:
    import torch

    if torch.cuda.device_count() < 2:
        pytest.skip("one CUDA device")
    one, _ = losses(tiny_llama, 1, "float32", zero_stage=2)
    two, _ = losses(tiny_llama, 1, "float32", zero_stage=2, ranks=2)
    assert two == pytest.approx(one, abs=1e-5)


def test_flash_attention_leaves_packed_neighbours_bit_equal(smollm2: Path) -> None:
    pytest.importorskip("flash_attn")
    import torch

    from ledex_ray.packing import pack
    from ledex_ray.policy import RowTensors, Trunk, load_lm

    lm = load_lm(smollm2, "bfloat16", device="cuda").cuda()
    assert lm.config._attn_implementation == "flash_attention_2"
    trunk, head = Trunk(lm), lm.get_output_embeddings()
    masks = [np.ones(length, dtype=bool) for length in (19, 33)]
    random = np.random.default_rng(0)
    first, other, last = (random.integers(1, 9000, n).astype(np.int32) for n in (19, 19, 33))
    with torch.no_grad():
        before, after = (
            head(trunk.hidden(RowTensors.of(pack([sequence, last], masks), "cuda"))) for sequence in (first, other)
        )
    assert torch.equal(before[18:], after[18:])


def test_the_plan_is_within_15_percent_of_the_peak_on_a_gpu(smollm2: Path) -> None:
    import torch

    from actors.learner_rank import LearnerRank, LearnerSpec
    from ledex_ray.planner import learner_plan, read_shape

    config = LearnerConfig(gpus=1, tokens_per_micro_batch=16384)
    rank = LearnerRank(
        LearnerSpec(
            learner=config,
            model=ModelConfig(),
            precision="bfloat16",
            model_path=str(smollm2),
            reference_path=str(smollm2),
            optimizer=OPTIMIZER,
            total_steps=10,
            seed=0,
        )
    )
    rank.build(*rank.endpoint())
    for seed in range(2):
        rank.sft_step(examples(400, seed=seed, words=40000, longest=400))
    free, total = torch.cuda.mem_get_info()
    planned = learner_plan(
        Recipe(learner=config), read_shape(smollm2), stage="sft", precision="bfloat16", device="gpu"
    ).bytes
    assert planned == pytest.approx(total - free, rel=0.15)

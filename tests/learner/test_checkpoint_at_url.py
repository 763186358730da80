"""Ranks whose nodes share no disk: what they save at a URL is all that is left when the nodes are lost."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from actors import checkpoint
from actors.node_copies import outgoing_model
from actors.places import RemotePath
from ledex_ray.config import LearnerConfig, ModelConfig, OptimizerConfig
from tests.learner.batches import examples
from tests.learner.hosts import RankHost

OPTIMIZER = OptimizerConfig(lr=1e-3, warmup_steps=2, schedule="cosine")
STEPS: list[tuple[Any, ...]] = [("sft_step", examples(6, seed=seed, words=5000)) for seed in range(3)]


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "then"), [(1, 2), (3, 2), (3, 1)])
def test_two_nodes_that_are_lost_are_followed_from_the_url(
    stage: int, then: int, tiny_llama: Path, tmp_path: Path, ray_session: None
) -> None:
    """Two ranks with a disk each save; `then` ranks load it on empty disks, and go on as the two did."""
    root = RemotePath.parse((tmp_path / "url").as_uri())
    with outgoing_model(root / "model") as folder:
        shutil.copytree(tiny_llama, folder)
    directory = checkpoint.new_directory(root / "checkpoints")
    calls: list[tuple[Any, ...]] = [
        STEPS[0],
        ("save", str(directory)),
        *STEPS[1:],
        ("export_model", str(root / "trained")),
    ]
    saved = on_nodes(spec(root, 2, stage), tmp_path / "lost", calls)
    assert all(results[1] for results in saved)  # each rank sends files
    records = [record for results in saved for record in results[1]]
    assert len({record.path for record in records}) == len(records)
    checkpoint.commit(directory, records, {"step": 1}, world_size=2, keep=1)
    assert checkpoint.newest(root / "checkpoints") is not None
    assert checkpoint.read(root / "trained") is not None

    calls = [("load", str(directory), 2, "call"), *STEPS[1:]]
    resumed = on_nodes(spec(root, then, stage), tmp_path / "new", calls)
    for ours, theirs in zip(resumed[0][1:], saved[0][2:4], strict=True):
        assert abs(ours["loss"] - theirs["loss"]) <= (0.0 if then == 2 else 1e-5)
        assert ours["lr"] == theirs["lr"]
    held = {path.relative_to(tmp_path).parts[2] for path in tmp_path.glob("*/disk-*/**/*") if path.is_file()}
    assert held == {"models"}  # shards do not pile up on the nodes


def test_a_rank_needs_its_own_shards_and_what_is_not_sharded() -> None:
    names = ["policy/mp_rank_00_model_states.pt", "policy/zero_to_fp32.py", "rank_00001.pkl", "rank_00011.pkl"]
    names += [f"policy/{bf16}zero_pp_rank_{n}_mp_rank_00_optim_states.pt" for n in (0, 1, 11) for bf16 in ("", "bf16_")]
    names += ["policy/zero_pp_rank_11_mp_rank_00_model_states.pt"]
    files = [checkpoint.FileRecord(name, 0, "") for name in names]
    assert [file.path for file in checkpoint.needed_by(files, 1)] == [*names[:3], *names[6:8]]


def spec(root: RemotePath, ranks: int, stage: int) -> dict[str, Any]:
    return {
        "learner": LearnerConfig(ranks=ranks, zero_stage=stage, tokens_per_micro_batch=128, threads=1),
        "model": ModelConfig(),
        "precision": "float32",
        "model_path": str(root / "model"),
        "reference_path": str(root / "model"),
        "optimizer": OPTIMIZER,
        "total_steps": 10,
        "seed": 0,
    }


def on_nodes(spec: dict[str, Any], folder: Path, calls: list[tuple[Any, ...]]) -> list[list[Any]]:
    """By rank the results of these calls, each rank in a process with a disk of its own."""
    import ray

    actor: Any = ray.remote(num_cpus=0)(RankHost)
    ranks = spec["learner"].ranks
    common = {"WORLD_SIZE": str(ranks), "LOCAL_RANK": "0", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    environments = [
        {"env_vars": common | {"RANK": str(rank), "LEDEX_WORK": str(folder / f"disk-{rank}")}} for rank in range(ranks)
    ]
    hosts = [actor.options(runtime_env=environment).remote() for environment in environments]
    try:
        address, port = ray.get(hosts[0].endpoint.remote(), timeout=120)
        seen = ray.get([host.run.remote(spec, address, port, calls) for host in hosts], timeout=500)
        return [one["results"] for one in seen]
    finally:
        for host in hosts:
            ray.kill(host)

"""A very small random Llama for numbers, and processes in which rank after rank is built."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.learner.hosts import RankHost


def save_small_llama(folder: Path, seed: int) -> Path:
    """Two layers, grouped-query attention, 96 words, float32; weights large enough for gradients worth comparing."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def small_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_llama(tmp_path_factory.mktemp("small_llama"), seed=0)


@pytest.fixture(scope="session")
def other_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same architecture with other weights: a reference whose KL is not zero."""
    return save_small_llama(tmp_path_factory.mktemp("other_llama"), seed=1)


@pytest.fixture(scope="session")
def ranks(ray_session: None) -> Iterator[Callable[..., dict[str, Any]]]:
    """run(n, spec, calls) -> what rank 0 of n saw. The processes are shared by all tests of a session."""
    import ray

    hosts: dict[int, tuple[list[Any], tuple[str, int]]] = {}

    def run(n: int, spec: dict[str, Any], calls: list[tuple[Any, ...]]) -> dict[str, Any]:
        if n not in hosts:
            actor: Any = ray.remote(num_cpus=0)(RankHost)
            members: list[Any] = [
                actor.options(
                    runtime_env={
                        "env_vars": {
                            "RANK": str(rank),
                            "LOCAL_RANK": "0",
                            "WORLD_SIZE": str(n),
                            "DS_ACCELERATOR": "cpu",
                            "OMP_NUM_THREADS": "1",
                        }
                    }
                ).remote()
                for rank in range(n)
            ]
            hosts[n] = members, ray.get(members[0].endpoint.remote(), timeout=120)
        members, (address, port) = hosts[n]
        seen = ray.get([m.run.remote(spec, address, port, calls) for m in members], timeout=300)
        return seen[0]

    yield run
    for members, _ in hosts.values():
        for member in members:
            ray.kill(member)

"""A very small random Llama for numbers, and processes in which rank after rank is built."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


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


class RankHost:
    """A process that builds one real LearnerRank after another and records the gradients before each step."""

    def endpoint(self) -> tuple[str, int]:
        import socket

        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            return "127.0.0.1", free.getsockname()[1]

    def run(self, spec: dict[str, Any], address: str, port: int, calls: list[tuple[Any, ...]]) -> dict[str, Any]:
        """Results of the calls, full gradients of each step, full weights before the first."""
        import deepspeed
        import torch
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_grad

        from actors.learner_rank import LearnerRank, LearnerSpec

        torch.set_num_threads(1)
        rank = LearnerRank(LearnerSpec(**spec))
        rank.build(address, port)
        gradients: list[dict[str, Any]] = []

        def record(model: Any) -> None:
            step = model.engine.step

            def recorded() -> None:
                found = {}
                for name, p in model.module.named_parameters():
                    if p.requires_grad:
                        gradient = safe_get_full_grad(p)
                        found[name] = None if gradient is None else gradient.float().clone().numpy()
                gradients.append(found)
                step()

            model.engine.step = recorded

        for _, model in rank._models():
            record(model)
        weights = {}
        for name, p in rank.policy.module.named_parameters():
            if p.requires_grad:
                weights[name] = safe_get_full_fp32_param(p).clone().numpy()
        results = [getattr(rank, method)(*arguments) for method, *arguments in calls]
        for _, model in rank._models():
            model.engine.destroy()
        del rank
        assert deepspeed.comm.is_initialized()
        return {"results": results, "gradients": gradients, "weights": weights}


@pytest.fixture(scope="session")
def ranks(ray_session: None) -> Iterator[Callable[..., dict[str, Any]]]:
    """run(n, spec, calls) -> what rank 0 of n saw. The processes are shared by all tests of a session."""
    import ray

    hosts: dict[int, tuple[list[Any], tuple[str, int]]] = {}

    def run(n: int, spec: dict[str, Any], calls: list[tuple[Any, ...]]) -> dict[str, Any]:
        if n not in hosts:
            actor = ray.remote(num_cpus=0)(RankHost)
            members = [
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
        return seen[0]  # type: ignore[no-any-return]

    yield run
    for members, _ in hosts.values():
        for member in members:
            ray.kill(member)

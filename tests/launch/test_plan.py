"""`ledex plan` refuses what `ledex run`, Ray or an engine would refuse later."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from launch.plan import plan
from ledex_ray.errors import BadInput

QWEN_7B = Path(__file__).parents[1] / "cluster" / "models" / "qwen_coder_7b.json"


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A directory with the configuration alone, as the hub gives it."""
    shutil.copy(QWEN_7B, tmp_path / "config.json")
    return f"model={tmp_path}"


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("rollout.weight_transfer=ipc", "key 'rollout.weight_transfer': cannot be, got 'ipc with rollout.gpus=1"),
        ("model.max_length=100000", "key 'model.max_length': is more than model.name=.* got 100000; expected at most"),
        ("rollout.tensor_parallel=3", "key 'rollout.tensor_parallel': does not divide .* got 3; .* divisor of 28"),
        ("evaluation.sampling.max_tokens=4096", "key 'evaluation.sampling.max_tokens': leaves no room for a prompt"),
        ("rollout.gpus=2", "override: key 'rollout.gpus', got 2"),
    ],
)
def test_what_a_run_would_refuse_is_refused(model: str, override: str, told: str) -> None:
    plan("qwen_coder_7b", [model], gpus=8, gpu_memory=80, nodes=1)
    with pytest.raises(BadInput, match=told):
        plan("qwen_coder_7b", [model, override], gpus=8, gpu_memory=80, nodes=1)


def test_weights_that_nothing_sends_may_be_sent_in_any_way(model: str) -> None:
    plan("qwen_coder_7b", [model, "stages=[sft]", "rollout.weight_transfer=ipc"], gpus=8, gpu_memory=80, nodes=1)


def test_a_recipe_for_the_cpu_is_planned_on_gpus_and_the_keys_are_told(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plan("qwen_coder_7b", [model, "learner.gpus=0"], gpus=8, gpu_memory=80, nodes=1)
    assert "the recipe puts learner on the CPU; this is with learner.gpus=1\n" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["./nowhere/at/all", "~/nowhere-at-all", "/nowhere", "a/b/c"])
def test_a_path_that_is_none_is_not_asked_for_on_the_hub(name: str) -> None:
    with pytest.raises(BadInput, match=f"^recipe key 'model.name': {name}: no such directory; expected"):
        plan("quickstart", [f"model={name}"])


def test_a_model_in_the_users_home_is_found(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    plan("qwen_coder_7b", [f"model=~/{tmp_path.name}"], gpus=8, gpu_memory=80, nodes=1)


def test_a_file_and_a_directory_without_a_configuration_are_told(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"key 'model\.name': .*config\.json: is no readable model configuration"):
        plan("quickstart", [f"model={tmp_path}"])
    (tmp_path / "model.gguf").touch()
    with pytest.raises(BadInput, match=r"key 'model\.name': .*: a file, not a directory"):
        plan("quickstart", [f"model={tmp_path / 'model.gguf'}"])

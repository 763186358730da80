"""What is refused, or warned of, before the first stage begins: problems, reward, judge, models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import transformers

from launch.input_checks import models
from launch.pipeline import run_recipe
from launch.rundir import RunDirectory
from launch.stages import FOLDERS
from ledex_ray.config import Recipe
from ledex_ray.errors import BadInput
from ledex_ray.problems import Problem
from ledex_ray.recipes import recipe_from_tree
from reward.judge import JudgeConfig, ready_problems


def synthesized(recipe: Recipe) -> None:
    """Leaves a run of the recipe whose synthesis has finished."""
    run = RunDirectory.open(recipe)
    run.finish(FOLDERS["synthesize"], {})
    run.close()


def altered(model: Path, folder: Path, **fields: Any) -> Path:
    """A copy of a model under another configuration."""
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))
    return folder


def written(file: Path, row: dict[str, Any]) -> Path:
    file.write_text(json.dumps(row) + "\n")
    return file


def test_each_problem_set_is_read_once_before_the_stages_begin(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def counted(spec: str, config: JudgeConfig) -> list[Problem]:
        read.append(spec)
        return ready_problems(spec, config)

    monkeypatch.setattr("launch.input_checks.ready_problems", counted)
    recipe = recipe_from_tree({"stages": ["ppo", "evaluate"], "evaluation": {"models": {"none": "/nowhere"}}})
    synthesized(recipe)
    with pytest.raises(BadInput, match="/nowhere"):  # found after the problem sets
        run_recipe(recipe)
    assert sorted(read) == ["bundled@heldout", "bundled@train", "bundled@validation"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"evaluation": {"models": {"sft": "owner/name"}}}, "uses a run's own label"),
        ({"evaluation": {"models": {"a b": "owner/one", "a_b": "owner/two"}}}, "has 'a b' as well"),
        ({"problems": {"validation": "bundled@heldout"}}, "holds problem .* of the heldout split"),
        ({"sandbox": {"python": "/nowhere/python"}}, "sandbox.python: not an executable file, got '/nowhere/python'"),
    ],
)
def test_what_the_evaluation_would_refuse_is_refused_before_anything_is_trained(
    runs_dir: Path, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(BadInput, match=told):
        run_recipe(recipe_from_tree({"stages": ["synthesize", "sft", "evaluate"], **changes}))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "stages"),
    [
        ("model.name", ["sft"]),
        ("synthesis.teacher", ["synthesize"]),
        ("evaluation.models.short", ["evaluate"]),
    ],
)
def test_prompts_longer_than_a_model_that_is_asked_takes_are_refused(
    runs_dir: Path, tiny_llama: Path, tmp_path: Path, key: str, stages: list[str]
) -> None:
    long, short = str(tiny_llama), str(altered(tiny_llama, tmp_path / "short", max_position_embeddings=512))
    names = {"model.name": long, "synthesis.teacher": long, "evaluation.models.short": long, key: short}
    tree: dict[str, Any] = {"model": {"name": names["model.name"], "max_length": 1024}, "stages": stages}
    tree |= {"synthesis": {"teacher": names["synthesis.teacher"]}}
    tree |= {"evaluation": {"models": {"short": names["evaluation.models.short"]}}}
    recipe = recipe_from_tree(tree)
    if stages == ["sft"]:
        synthesized(recipe)
    with pytest.raises(BadInput, match=f"model.max_length': is more than {key}={short} takes, got 1024; .* 512"):
        run_recipe(recipe)
    unasked = [s for s in ("synthesize", "evaluate") if s not in stages]
    assert dict(models(recipe, unasked)).get(key) == (short if key == "model.name" else None)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Granite", "Cohere", "Gemma2"])
def test_a_model_with_scaled_or_capped_logits_is_refused_where_it_would_be_trained(
    runs_dir: Path, tiny_llama: Path, tmp_path: Path, kind: str
) -> None:
    config = getattr(transformers, f"{kind}Config")(max_position_embeddings=2048)
    if kind == "Granite":
        config.logits_scaling = 8.0
    folder = altered(tiny_llama, tmp_path / kind)
    config.save_pretrained(folder)
    recipe = recipe_from_tree({"model": {"name": str(folder)}, "stages": ["sft"]})
    synthesized(recipe)
    with pytest.raises(
        BadInput, match=r"recipe key 'model.name': this model's logits are no linear map.*is (8\.0|0\.0625|30\.0)\)"
    ):
        run_recipe(recipe)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Qwen2", "Llama"])
def test_a_model_saved_without_its_tokenizer_is_refused_before_anything_starts(
    runs_dir: Path, tmp_path: Path, kind: str
) -> None:
    getattr(transformers, f"{kind}Config")().save_pretrained(tmp_path / kind)
    (tmp_path / kind / "model.safetensors").touch()
    recipe = recipe_from_tree({"model": {"name": str(tmp_path / kind)}, "stages": ["synthesize"]})
    with pytest.raises(
        BadInput, match=f"{kind}: its tokenizer (turns text into nothing|cannot be loaded).*tokenizer.json"
    ):
        run_recipe(recipe)
    assert not list(runs_dir.iterdir())


def test_an_arm_that_compares_with_reference_solutions_needs_some(runs_dir: Path, tmp_path: Path) -> None:
    problems = written(
        tmp_path / "own.jsonl", {"id": "1", "text": "Do it.", "tests": ["assert f(1)"], "entry_point": "f"}
    )
    tree = {"problems": {"train": f"jsonl:{problems}"}, "reward": {"arm": "codebleu_only"}, "stages": ["ppo"]}
    synthesized(recipe := recipe_from_tree(tree))
    with pytest.raises(
        BadInput, match=r"reward\.arm': compares with canonical_solutions, and no training problem has any"
    ):
        run_recipe(recipe)


def test_a_validation_set_without_reference_solutions_is_warned_of_before_anything_starts(
    runs_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    problems = written(
        tmp_path / "own.jsonl", {"id": "1", "text": "Do it.", "tests": ["assert f(1)"], "entry_point": "f"}
    )
    for spec, warned in ((f"jsonl:{problems}", True), ("bundled@validation", False)):
        caplog.clear()
        tree = {"problems": {"validation": spec}, "model": {"name": "./nowhere"}, "stages": ["ppo"]}
        synthesized(recipe := recipe_from_tree({"run": f"warned-{warned}", **tree}))
        with pytest.raises(BadInput, match="no such directory"):
            run_recipe(recipe)
        assert ("PPO will keep its last model" in caplog.text) == warned


def test_folders_of_packages_that_are_not_there_are_refused(runs_dir: Path) -> None:
    with pytest.raises(BadInput, match=r"sandbox\.packages: no such folder on this machine, got '/nowhere/packages'"):
        run_recipe(recipe_from_tree({"sandbox": {"packages": ["/nowhere/packages"]}}))


@pytest.mark.parametrize(
    ("floor", "told"),
    [("none", "no such directory"), ("B", "sandbox.floor': this machine reaches isolation tier none, the floor is B")],
)
def test_reference_solutions_are_judged_under_the_floor_of_the_recipe(
    runs_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, floor: str, told: str
) -> None:
    monkeypatch.setenv("LEDEX_CACHE", str(tmp_path / "cache"))
    without = {"A": "no bubblewrap", "B": "no Landlock", "C": "no root", "none": ""}
    monkeypatch.setattr("reward.judge.tiers.available_tiers", lambda: without)
    row = {"task_id": "Mbpp/1", "prompt": '"""\nDo it.\nassert f(1)\n"""\n', "entry_point": "f", "atol": 0}
    row |= {"canonical_solution": "def f(a):\n    return a\n", "base_input": [[1]], "plus_input": []}
    (tmp_path / "plus.jsonl").write_text(json.dumps(row) + "\n")
    recipe = recipe_from_tree(
        {
            "model": {"name": "./nowhere"},  # found after the problem sets
            "problems": {"train": f"evalplus:{tmp_path / 'plus.jsonl'}"},
            "sandbox": {"floor": floor},
            "stages": ["synthesize"],
        }
    )
    with pytest.raises(BadInput, match=told):
        run_recipe(recipe)

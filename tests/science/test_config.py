"""A recipe that is wrong is refused with the key, the value and what is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ledex_ray.config import Recipe
from ledex_ray.errors import BadInput
from ledex_ray.recipes import differing_keys, dump_recipe, load_recipe, recipe_from_tree, recipe_hash


def _file(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("sft: {epocs: 2}", ["sft.epocs", "did you mean 'sft.epochs'"]),
        ("synthesis: {solve: {temprature: 1}}", ["synthesis.solve.temprature", "synthesis.solve.temperature"]),
        ("ppo: {kl_coef: -1}", ["ppo.kl_coef", "-1", "greater than or equal to 0"]),
        ("learner: {zero_stage: 4}", ["learner.zero_stage", "4", "1, 2 or 3"]),
        ("sft: {batch_size: many}", ["sft.batch_size", "'many'", "integer"]),
        ("ppo: {kl_placement: loss}", ["ppo", "k2 or k3"]),
        ("ppo: {algorithm: grpo, sampling: {n: 1}}", ["ppo.sampling.n", "at least 2"]),
        ("{ppo: {algorithm: rloo}, reward: {separated: true}}", ["reward.separated", "ppo or reinforce++", "rloo"]),
        ("{ppo: {filter_groups: true, sampling: {n: 1}}}", ["ppo.filter_groups", "ppo.sampling.n"]),
        ("{ppo: {kl_target: 0.1, kl_coef: 0}}", ["ppo.kl_target", "ppo.kl_coef"]),
        ("evaluation: {modes: [direct, resample]}", ["evaluation", "resample", "needs explain"]),
        ("synthesis: {solve: {n: 4, temperature: 0}}", ["synthesis.solve", "n must be 1, not 4"]),
        ("evaluation: {k: [1], sampling: {n: 1, temperature: 0}}", ["evaluation", "nothing to resample"]),
        (
            "evaluation: {k: [1], sampling: {n: 1, temperature: 0}, modes: [explain], bug_refinements: 2}",
            ["evaluation.bug_refinements", "temperature 0"],
        ),
        ("evaluation: {k: [50]}", ["evaluation", "50"]),
        ("run: ../escape", ["run", "../escape"]),
        ("rollout: {gpus: 2}", ["rollout.gpus", "2", "less than or equal to 1"]),
        ("learner: {gpus: 1.5}", ["learner.gpus", "1.5", "less than or equal to 1"]),
        ("{rollout: {gpus: 0.5, actors: 2}, learner: {gpus: 0.5}}", ["share of a GPU", "rollout.actors must be 1"]),
        ("{rollout: {gpus: 0.5}, learner: {gpus: 0.5, ranks: 2}}", ["share of a GPU", "learner.ranks must be 1"]),
        ("synthesis: {teacher: t, endpoint: {url: 'https://h/v1?key=secret'}}", ["synthesis.endpoint.url", "'?'"]),
        ("sft: {kinds: []}", ["sft.kinds", "[]", "a list that is not empty"]),
        ("problems: {train: 3}", ["'problems.train'", "3", "text or a list"]),
        ("learner: {lora: 3}", ["'learner.lora'", "a section of keys"]),
        ("ppo: {optimizer: {lr: .inf}}", ["ppo.optimizer.lr", "inf", "a finite number"]),
        ("ppo: {optimizer: {betas: [0.9, 1]}}", ["ppo.optimizer.betas.1", "less than 1"]),
        ("stages: [ppo, sft]", ["stages", "in this order"]),
        ("stages: [sft, sft]", ["stages", "in this order"]),
        ("- a list", ["mine.yaml", "mapping"]),
        ("a: [unclosed", ["mine.yaml", "YAML"]),
        ("run: 2024-13-45", ["mine.yaml", "YAML", "month must be in 1..12"]),
    ],
)
def test_a_wrong_recipe_names_what_is_wrong(tmp_path: Path, text: str, parts: list[str]) -> None:
    with pytest.raises(BadInput) as refused:
        load_recipe(_file(tmp_path, text))
    message = str(refused.value)
    assert all(part in message for part in ["mine.yaml", *parts]), message


def test_a_key_in_the_place_of_its_variables_name_is_refused_and_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="environment variable's name") as refused:
        load_recipe(_file(tmp_path, "synthesis: {teacher: t, endpoint: {key_variable: sk-proj-secret}}"))
    assert "secret" not in str(refused.value)
    load_recipe(_file(tmp_path, "synthesis: {teacher: t, endpoint: {key_variable: ''}}"))


def test_overrides_reach_nested_keys_and_scientific_numbers(tmp_path: Path) -> None:
    recipe = load_recipe(_file(tmp_path, "run: a"), ["ppo.optimizer.lr=1e-6", "model=some/model", "evaluation.k=[1]"])
    assert recipe.ppo.optimizer.lr == 1e-6
    assert recipe.model.name == "some/model"
    assert recipe.evaluation.k == (1,)


@pytest.mark.parametrize(
    ("override", "tree"),
    [
        ("run=2024-05-01", {"run": "2024-05-01"}),
        ("run=1e3", {"run": "1e3"}),
        ("run=yes", {"run": "yes"}),
        ("run='007'", {"run": "007"}),
        ("model=123", {"model": {"name": "123"}}),
        ("model.name=''", {"model": {"name": ""}}),
        ("synthesis.teacher=1.5", {"synthesis": {"teacher": "1.5"}}),
        ("synthesis.teacher=null", {}),
        ("synthesis.teacher=", {}),
        ("problems.train=12", {"problems": {"train": "12"}}),
        ("problems.train=[a, b]", {"problems": {"train": ["a", "b"]}}),
        ("evaluation.models.qwen2.5=runs/mine", {"evaluation": {"models": {"qwen2.5": "runs/mine"}}}),
        ("evaluation.models.a=12", {"evaluation": {"models": {"a": "12"}}}),
    ],
)
def test_where_text_is_taken_an_override_keeps_its_own(tmp_path: Path, override: str, tree: dict[str, Any]) -> None:
    assert load_recipe(_file(tmp_path, "run: a"), [override]) == recipe_from_tree({"run": "a"} | tree)


def test_a_key_without_a_value_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"^override: key 'model.name', got nothing; expected text$"):
        load_recipe(_file(tmp_path, "run: a"), ["model="])
    with pytest.raises(BadInput, match=r"mine.yaml: key 'sft', got nothing; expected a section of keys$"):
        load_recipe(_file(tmp_path, "sft:"))


@pytest.mark.parametrize("override", ["sft.epochs", "=3", "run.x.y=1", "sft.epochs=2024-13-45", "run=[a"])
def test_a_wrong_override_is_refused(tmp_path: Path, override: str) -> None:
    with pytest.raises(BadInput, match="override"):
        load_recipe(_file(tmp_path, "run: a"), [override])


def test_a_wrong_override_is_told_from_a_wrong_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"^override: key 'sft.epochs', got 0; expected greater than"):
        load_recipe(_file(tmp_path, "sft: {epochs: 2}"), ["sft.epochs=0"])
    with pytest.raises(BadInput, match=r"mine.yaml: key 'sft.epochs', got 0"):
        load_recipe(_file(tmp_path, "sft: {epochs: 0}"), ["ppo.epochs=2"])
    mended = _file(tmp_path, "sft: {epochs: 0}")
    assert load_recipe(mended, ["sft.epochs=1"]).sft.epochs == 1
    with pytest.raises(BadInput, match=r"^override: key 'ppo.epochs', got 0"):
        load_recipe(mended, ["sft.epochs=1", "ppo.epochs=0"])


def test_the_file_gives_the_run_its_name(tmp_path: Path) -> None:
    assert load_recipe(_file(tmp_path, "")).run == "mine"


def test_a_dumped_recipe_reads_back_equal(tmp_path: Path) -> None:
    recipe = recipe_from_tree({"run": "x", "ppo": {"iterations": 7}})
    assert load_recipe(_file(tmp_path, dump_recipe(recipe))) == recipe


def test_the_hash_knows_the_experiment_and_not_its_name() -> None:
    base = Recipe()
    assert recipe_hash(base) == recipe_hash(base.model_copy(update={"run": "other"}))
    changed = recipe_from_tree({"sft": {"epochs": 3}})
    assert recipe_hash(base) != recipe_hash(changed)
    assert differing_keys(base, changed) == ["sft.epochs: 2 -> 3"]


def test_a_missing_recipe_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nowhere"):
        load_recipe(tmp_path / "nowhere.yaml")

"""Another model: its layout, and its engines in the place of the run's own, which come back when asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from actors import watchdog
from launch.evaluator import Candidate, Evaluator
from launch.fleet import Fleet, other_model
from launch.rundir import RunDirectory
from ledex_ray.placement import Demand, unmet
from ledex_ray.recipes import recipe_from_tree


@pytest.mark.parametrize(
    ("layout", "name", "asked"),
    [("plain", "mine", "plain"), ("plain", "teacher", "auto"), ("chat", "mine", "auto"), ("auto", "mine", "auto")],
)
def test_another_model_is_asked_in_the_layout_of_the_recipe_and_a_teacher_in_its_own(
    layout: str, name: str, asked: str
) -> None:
    recipe = recipe_from_tree({"model": {"layout": layout}, "synthesis": {"teacher": "teacher"}})
    model = other_model(recipe, name)
    assert (model.name, model.layout, model.max_length) == (name, asked, recipe.model.max_length)


@pytest.mark.slow
def test_a_recipe_of_cpu_engines_asks_for_a_node_that_has_torch(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch, ray_session: None
) -> None:
    cluster = [{"sandbox": 16.0}]
    left: list[str] = []

    def room(demands: Sequence[Demand], deadline_seconds: float) -> None:
        left.extend(demand.name for demand in unmet(demands, cluster))

    monkeypatch.setattr("launch.fleet.make_room", room)
    recipe = recipe_from_tree({"model": {"name": str(tiny_llama)}, "stages": ["synthesize"]})
    Fleet(recipe).close()
    assert left == ["the encoder, CPU engines and CPU ranks"]
    cluster.append({"CPU": 4.0})
    Fleet(recipe).close()
    assert len(left) == 1


@pytest.mark.slow
def test_own_engines_have_ended_while_another_model_is_served(
    tiny_llama: Path, runs_dir: Path, ray_session: None
) -> None:
    model = {"name": str(tiny_llama), "dtype": "float32", "layout": "plain", "max_length": 256}
    recipe = recipe_from_tree({"model": model, "rollout": {"max_num_seqs": 4, "kv_cache_gb": 0.25}})
    run = RunDirectory.open(recipe)
    with Fleet(recipe) as fleet:
        (own,) = fleet.rollout.engines
        evaluator = Evaluator(run, fleet, {})
        with evaluator._serving(Candidate("other", "prompt", tiny_llama, 0, other=str(tiny_llama))):
            other = evaluator.engines
            assert other is not None and len(other.infos()) == 1
            assert watchdog.whereabouts(own).state == "DEAD"
        assert evaluator.engines is None and len(fleet.rollout.infos()) == 1
    run.close()

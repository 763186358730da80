"""What recipes ask a cluster for, what nodes hold of it, and what is said where they do not hold it."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.capacity import make_room
from ledex_ray.config import Recipe
from ledex_ray.errors import BadInput
from ledex_ray.placement import Demand, check_weight_transfer, describe_nodes, phases, unmet
from ledex_ray.recipes import recipe_from_tree

BIG = Demand("learner", ({"GPU": 1},) * 4)


def _recipe(**tree: Any) -> Recipe:
    return recipe_from_tree(tree)


def _asked(recipe: Recipe) -> dict[str, list[str]]:
    return {stage: [str(demand) for demand in demands] for stage, demands in phases(recipe).items()}


def test_the_learner_needs_a_place_beside_the_engines_which_outlive_their_stage() -> None:
    asked = _asked(_recipe(rollout={"actors": 2, "gpus": 1}, learner={"ranks": 4, "gpus": 1}))
    engines, learner, sandbox = "rollout (2 x GPU 1)", "learner (4 x GPU 1)", "sandbox (1 x sandbox 1)"
    assert asked == {
        "synthesize": [sandbox, engines],
        "sft": [engines, learner],
        "ppo": [sandbox, engines, learner],
        "evaluate": [sandbox, engines],
    }


def test_a_stage_alone_starts_no_engine_that_it_does_not_use() -> None:
    recipe = _recipe(rollout={"gpus": 1}, learner={"gpus": 1, "ranks": 2})
    assert [d.name for d in phases(recipe, ["sft"])["sft"]] == ["learner"]


def test_a_teacher_stands_beside_the_policys_engines() -> None:
    recipe = _recipe(rollout={"gpus": 1}, synthesis={"teacher": "some/model"})
    assert [d.name for d in phases(recipe)["synthesize"]] == ["sandbox", "rollout", "teacher"]


def test_a_teacher_at_an_endpoint_needs_no_place_here() -> None:
    recipe = _recipe(rollout={"gpus": 1}, synthesis={"teacher": "some-model", "endpoint": {}})
    assert [d.name for d in phases(recipe)["synthesize"]] == ["sandbox", "rollout"]


def test_other_models_are_measured_in_the_place_of_the_runs_own_engines() -> None:
    recipe = _recipe(rollout={"gpus": 1}, evaluation={"models": {"a": "some/model", "b": "other/model"}})
    assert [str(d) for d in phases(recipe)["evaluate"][1:]] == ["rollout (1 x GPU 1)"]


@pytest.mark.parametrize(
    ("transfer", "engines", "ranks", "expected"),
    [
        ("auto", 1, 0, "both 1"),
        ("auto", 0.5, 1, "both a share"),
        ("nccl", 0, 0, "learner.gpus=1: nccl"),
        ("ipc", 1, 1, "ipc stays"),
        ("auto", 1, 1, ""),
        ("auto", 0.5, 0.5, ""),
        ("auto", 0, 0, ""),
        ("auto", 0, 1, ""),
        ("nccl", 1, 1, ""),
        ("gloo", 1, 0, ""),
    ],
)
def test_weights_that_could_not_reach_the_engines_are_refused(
    transfer: str, engines: float, ranks: float, expected: str
) -> None:
    recipe = _recipe(rollout={"gpus": engines, "weight_transfer": transfer}, learner={"gpus": ranks})
    with pytest.raises(BadInput, match=expected) if expected else nullcontext():
        check_weight_transfer(recipe)


def test_a_wide_engine_wants_one_node_unless_the_recipe_spreads_it() -> None:
    wide = {"gpus": 1, "tensor_parallel": 4}
    (one,) = phases(_recipe(stages=["evaluate"], rollout=wide))["evaluate"][1:]
    (spread,) = phases(_recipe(stages=["evaluate"], rollout=wide | {"placement": "SPREAD"}))["evaluate"][1:]
    assert [dict(b) for b in one.bundles] == [{"GPU": 4}]
    assert [dict(b) for b in spread.bundles] == [{"GPU": 1}] * 4 and spread.strategy == "SPREAD"
    two_nodes = [{"GPU": 2}, {"GPU": 2}]
    assert unmet([one], two_nodes) and not unmet([spread], two_nodes)


def test_cpu_recipes_ask_for_sandboxes_alone() -> None:
    assert {d.name for demands in phases(_recipe()).values() for d in demands} == {"sandbox"}


def test_what_is_left_over_is_told_by_name_and_number() -> None:
    (left,) = unmet([BIG, Demand("sandbox", ({"sandbox": 1},))], [{"GPU": 3, "CPU": 8}, {"sandbox": 4}])
    assert str(left) == "learner (1 x GPU 1)"
    assert (
        describe_nodes([{"CPU": 0}, {"GPU": 8, "CPU": 48}, {"GPU": 8, "CPU": 48}])
        == "1 x [nothing]; 2 x [CPU 48, GPU 8]"
    )


@given(st.lists(st.integers(1, 8), max_size=6), st.lists(st.integers(1, 8), max_size=5))
def test_what_is_placed_fits_and_what_is_left_over_fits_nowhere(bundles: list[int], nodes: list[int]) -> None:
    demand = Demand("d", tuple({"GPU": b} for b in bundles))
    left = [bundle["GPU"] for d in unmet([demand], [{"GPU": n} for n in nodes]) for bundle in d.bundles]
    assert sum(bundles) - sum(left) <= sum(nodes)
    if sum(bundles) > sum(nodes):
        assert left
    if all(b == 1 for b in bundles):
        assert sum(left) == max(0, sum(bundles) - sum(nodes))


@pytest.mark.slow
def test_a_demand_that_no_node_can_hold_is_refused_by_name_within_a_minute(ray_session: None) -> None:
    with pytest.raises(BadInput, match=r"has no place for learner \(4 x GPU 1\): it has 1 x \[CPU 2, sandbox 2\]"):
        make_room([Demand("sandbox", ({"sandbox": 1},)), BIG], deadline_seconds=600)


@pytest.mark.slow
def test_places_in_use_are_waited_for_until_the_deadline_and_given_back(ray_session: None) -> None:
    import ray

    both = Demand("sandbox", ({"sandbox": 1},) * 2)
    make_room([both], deadline_seconds=60)
    make_room([both], deadline_seconds=60)  # the first check kept nothing
    held = ray.util.placement_group([{"sandbox": 2}])
    ray.get(held.ready(), timeout=60)
    with pytest.raises(BadInput, match=r"has its places for sandbox \(2 x sandbox 1\) in use"):
        make_room([both], deadline_seconds=1)
    ray.util.remove_placement_group(held)
    make_room([both], deadline_seconds=60)

"""What a recipe asks a cluster for, and whether given nodes can hold it. Arithmetic alone, no Ray.

A bundle is one actor's resources: it lies on one node. `unmet` fills nodes greedily, the largest bundle first; what it
calls unmet might in rare mixes of sizes still fit, what it places certainly does. Not covered: memory (planner.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from ledex_ray.config import Recipe
from ledex_ray.errors import BadInput

Resources = Mapping[str, float]
ROUNDING = 1e-6
TRACE = 0.001
"""CPUs asked for by an actor that must lie on a node with some: a cluster's head and sandbox nodes offer none."""


@dataclass(frozen=True)
class Demand:
    """Actors of one kind, all needed at once. PACK: as few nodes as can be; SPREAD: as many."""

    name: str
    bundles: tuple[Resources, ...]
    strategy: Literal["PACK", "SPREAD"] = "PACK"

    def __str__(self) -> str:
        counts = Counter(describe_resources(bundle) for bundle in self.bundles)
        return f"{self.name} ({', '.join(f'{count} x {what}' for what, count in counts.items())})"


def describe_resources(resources: Resources) -> str:
    """As "GPU 8, sandbox 16"; "nothing" for none."""
    return ", ".join(f"{name} {amount:g}" for name, amount in sorted(resources.items()) if amount) or "nothing"


def describe_nodes(nodes: Iterable[Resources]) -> str:
    """As "1 node with nothing, 2 with CPU 48, GPU 8"."""
    counts = Counter(describe_resources(node) for node in nodes)
    return "; ".join(f"{count} x [{what}]" for what, count in counts.items()) or "no nodes"


def phases(recipe: Recipe, stages: Collection[str] | None = None) -> dict[str, tuple[Demand, ...]]:
    """By stage (synthesize, sft, ppo, evaluate), what must be there at the same time. `stages`: of which, default all.

    Rollout engines outlive their stage, so the learner needs a place beside them. Those of other models that are
    evaluated take the place of the run's own.
    """
    chosen = [s for s in recipe.stages if s != "report" and (stages is None or s in stages)]
    sandbox = Demand("sandbox", ({"sandbox": 1},) * (recipe.sandbox.actors or 1), "SPREAD")
    rollout = _engines(recipe, "rollout")
    found: dict[str, tuple[Demand, ...]] = {}
    engines_are_up = False
    for stage in chosen:
        demands = [sandbox] if stage != "sft" else []
        engines_are_up = engines_are_up or stage != "sft"
        demands += rollout if engines_are_up else []
        if stage == "synthesize" and recipe.synthesis.teacher is not None and recipe.synthesis.endpoint is None:
            demands += _engines(recipe, "teacher")
        if stage in ("sft", "ppo") and recipe.learner.gpus:
            ranks = ({"GPU": recipe.learner.gpus},) * recipe.learner.ranks
            demands.append(Demand("learner", ranks, recipe.learner.placement))
        found[stage] = tuple(demands)
    return found


def engine_bundles(recipe: Recipe) -> tuple[tuple[Resources, ...], Literal["PACK", "SPREAD"]]:
    """The bundles of one engine: one on a node of its own kind, or a worker each (rollout.placement PACK, SPREAD)."""
    rollout = recipe.rollout
    if rollout.placement == "NODE":
        return ({"GPU": rollout.gpus * rollout.tensor_parallel},), "PACK"
    return ({"GPU": rollout.gpus},) * rollout.tensor_parallel, rollout.placement


def unmet(demands: Iterable[Demand], nodes: Iterable[Resources]) -> list[Demand]:
    """What of the demands finds no place on the nodes, each demand with the bundles left over."""
    free = [dict(node) for node in nodes]
    wanted = [(demand, bundle) for demand in demands for bundle in demand.bundles]
    left: dict[str, list[Resources]] = {}
    by_name = {demand.name: demand for demand, _ in wanted}
    for demand, bundle in sorted(wanted, key=lambda pair: -sum(pair[1].values())):
        fitting = [node for node in free if all(node.get(k, 0) + ROUNDING >= v for k, v in bundle.items())]
        if not fitting:
            left.setdefault(demand.name, []).append(bundle)
            continue
        tightest = min(fitting, key=lambda node: sum(node.get(k, 0) for k in bundle))
        for name, amount in bundle.items():
            tightest[name] -= amount
    return [Demand(name, tuple(bundles), by_name[name].strategy) for name, bundles in left.items()]


def _engines(recipe: Recipe, name: str) -> list[Demand]:
    if not recipe.rollout.gpus:
        return []
    bundles, strategy = engine_bundles(recipe)
    return [Demand(name, tuple(bundles) * recipe.rollout.actors, strategy)]


def check_weight_transfer(recipe: Recipe) -> None:
    """Raises BadInput where PPO's weights could not get from the learner to the engines."""
    transfer, engines, ranks = recipe.rollout.weight_transfer, recipe.rollout.gpus, recipe.learner.gpus
    shared = 0 < engines < 1 and 0 < ranks < 1
    expected = ""
    if transfer == "nccl" and (engines < 1 or ranks < 1):
        expected = "rollout.gpus=1 and learner.gpus=1: nccl goes from whole GPUs to others"
    elif transfer == "ipc" and not shared:
        expected = "rollout.gpus and learner.gpus between 0 and 1: ipc stays on the one GPU that both have a share of"
    elif transfer == "auto" and engines > 0 and not shared and (engines < 1 or ranks < 1):
        expected = "both 1, or both a share of one GPU: weights go from whole GPUs to others, or stay on one"
    if expected:
        given = f"{transfer} with rollout.gpus={engines:g} and learner.gpus={ranks:g}"
        raise BadInput("recipe key 'rollout.weight_transfer'", "cannot be", given=given, expected=expected)

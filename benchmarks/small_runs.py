"""Small PPO runs: seeded bugs to be put right, one synthesis for many trainings, one set of actors for all of them.

What benchmarks and tests of the loop share. Not covered: what any of them measures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from launch.debug_ppo import DebugPPO
from launch.fleet import Fleet
from launch.ppo import training
from launch.rundir import RunDirectory
from launch.synthesize import synthesize
from launch.tracking import Tracker
from ledex_ray.config import Recipe


def small_tree(model: Path, run: str, /, **sections: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe in which hardly anything is sampled before PPO: its wrong solutions are seeded bugs.

    `sections` are laid over those here, key by key.
    """
    own: dict[str, Mapping[str, Any]] = {
        "model": {"name": str(model), "max_length": 512},
        "sandbox": {"floor": "C"},
        "rollout": {"max_num_seqs": 16, "kv_cache_gb": 0.25},
        "synthesis": {
            "solve": {"n": 1, "max_tokens": 8},
            "refine": {"n": 1, "max_tokens": 8},
            "max_wrong_per_problem": 1,
            "seeded_bugs": 2,
        },
        "tracking": {"wandb": "disabled"},
        "ppo": {"critic_warmup": 0},
    }
    laid_over = {name: {**own.get(name, {}), **sections.get(name, {})} for name in {**own, **sections}}
    return {"run": run, "stages": ["synthesize", "ppo"], **laid_over}


def synthesized(fleet: Fleet, recipe: Recipe | None = None) -> Path:
    """The run directory of a recipe (default: the fleet's own), with its synthesis finished."""
    run = RunDirectory.open(recipe or fleet.recipe)
    try:
        if not run.done("synthesis"):
            synthesize(run, fleet)
    finally:
        run.close()
    return run.root


def open_beside(base: Path, fleet: Fleet, recipe: Recipe) -> RunDirectory:
    """The run of another recipe, on the fleet's actors and with the synthesis of the run directory `base`."""
    run = RunDirectory.open(recipe)
    if not (run.root / "synthesis").exists():
        (run.root / "synthesis").symlink_to(base.resolve() / "synthesis")
    fleet.recipe = recipe
    return run


@contextmanager
def trained_beside(base: Path, fleet: Fleet, recipe: Recipe) -> Iterator[DebugPPO]:
    """The training of another recipe, as `open_beside`, from the base model on; closed afterwards."""
    run = open_beside(base, fleet, recipe)
    fleet.serve(fleet.model_path, 0)
    try:
        with Tracker(run) as tracker, training(run, fleet, tracker) as algorithm:
            yield algorithm
    finally:
        run.close()

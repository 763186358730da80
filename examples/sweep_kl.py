"""A sweep of the KL coefficient with Ray Tune: one PPO training a value, all from the same finished SFT.

    ledex run quickstart run=base stages='[synthesize,sft]'
    python -m examples.sweep_kl base --kl 0.01 0.05 0.2 --iterations 8

Each trial is a run of its own (`base-kl-0.05`, ...) that borrows the base run's synthesis and SFT. On one machine
trials take turns, as they do on GPUs; on CPU nodes Tune starts as many as --at-a-time and the sandboxes allow.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray import tune

from actors.local_ray import start_ray
from launch.console import configure_logging, console
from launch.debug_ppo import DebugPPO, DebugPPOConfig
from launch.rundir import runs_folder
from ledex_ray.errors import BadInput
from ledex_ray.recipes import load_recipe

BORROWED = ("synthesis", "sft")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="name of a run whose synthesis and SFT are finished")
    parser.add_argument("--kl", type=float, nargs="+", default=[0.01, 0.05, 0.2])
    parser.add_argument("--iterations", type=int, default=8)
    parser.add_argument("--at-a-time", type=int, default=1, help="trials at a time; 0 for as many as there is room for")
    arguments = parser.parse_args()
    configure_logging()
    try:
        base = runs_folder() / arguments.base
        recipe = load_recipe(base / "recipe.yaml", [f"ppo.iterations={arguments.iterations}"])
        if recipe.learner.gpus and arguments.at_a_time != 1:
            parser.error(
                "--at-a-time: 1 on GPUs: a trial's learner takes its own after all trials' engines have theirs"
            )
        start_ray()
    except BadInput as error:
        console.print(f"sweep_kl: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(2)
    tree = recipe.model_dump(mode="json")
    for result in sweep(base, tree, arguments.kl, arguments.at_a_time):
        found = result.metrics or {}
        coefficient = (result.config or {})["ledex"]["ppo"]["kl_coef"]
        if result.error is not None:
            console.print(f"kl_coef {coefficient:<6} failed: {result.error}", markup=False)
            continue
        kl = f"{found['kl']:.4f}" if "kl" in found else "not measured"  # at 0 there is no reference model
        console.print(f"kl_coef {coefficient:<6} reward {found['reward']:+.3f}  kl {kl}", markup=False)


def sweep(base: Path, tree: Mapping[str, Any], coefficients: Sequence[float], at_a_time: int = 1) -> tune.ResultGrid:
    """The result of one training a coefficient, by the recipe `tree`, from the finished stages of the run `base`."""
    for coefficient in coefficients:
        borrow(base, base.parent / _name(base.name, coefficient))
    searched = {
        **tree,
        "run": tune.sample_from(lambda config: _name(base.name, config["ledex"]["ppo"]["kl_coef"])),
        "ppo": {**tree["ppo"], "kl_coef": tune.grid_search(list(coefficients))},
    }
    tuner = tune.Tuner(
        DebugPPO,
        param_space=DebugPPOConfig.param_space(searched),
        tune_config=tune.TuneConfig(metric="reward", mode="max", max_concurrent_trials=at_a_time or None),
        run_config=tune.RunConfig(
            name=f"{base.name}-kl",
            storage_path=str((base.parent / "tune").resolve()),
            stop={"training_iteration": tree["ppo"]["iterations"]},
        ),
    )
    return tuner.fit()


def borrow(base: Path, root: Path) -> None:
    """Gives the run directory `root` the finished stages of another one."""
    root.mkdir(exist_ok=True)
    for stage in BORROWED:
        if (base / stage).exists() and not (root / stage).exists():
            (root / stage).symlink_to((base / stage).resolve(), target_is_directory=True)


def _name(base: str, coefficient: float) -> str:
    return f"{base}-kl-{coefficient:g}"


if __name__ == "__main__":
    main()

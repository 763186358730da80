"""The learning claim (method.md, section 8): over fixed seeds, does SFT teach debugging, and does PPO raise the reward?

For each seed: the recipe as it is, and the ablation that is trained on correct solutions alone with the same number of
tokens. All models are then measured together on the held-out problems and on one fixed bug set; a claim leaves out
the problems that training gives away (contamination.json). Resumes where it was; every run made is listed in the
result file, with commit, seeds and recipe hash.

    python -m benchmarks.learning --seeds 0 1 --out benchmarks/results/learn_cpu.json
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import linregress, t

from launch.console import configure_logging, log
from launch.evaluate import STAGE, Candidate, evaluate_models
from launch.fleet import Fleet
from launch.pipeline import run_recipe
from launch.rundir import RunDirectory, read_parts, runs_folder, write_atomically
from ledex_ray.comparison import SeededDifference, seeded_difference
from ledex_ray.config import Recipe
from ledex_ray.evaluation import Sample
from ledex_ray.passk import Tally, tally_of
from ledex_ray.recipes import load_recipe, recipe_hash
from ledex_ray.tables import read_records

ABLATION = "correct-only"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=Path("launch/recipes/learn_cpu.yaml"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/learn_cpu.json"))
    parser.add_argument("overrides", nargs="*", help="dotted recipe overrides, for a trial of the script itself")
    arguments = parser.parse_args()
    configure_logging()
    recipes = {seed: _for_seed(arguments.recipe, seed, arguments.overrides) for seed in arguments.seeds}
    roots = train_supervised(recipes)
    for stage in ("sft", "ppo"):  # what supervised training shows is kept before the longer half begins
        if stage == "ppo":
            for seed, recipe in recipes.items():
                run_recipe(_named(recipe, seed), only="ppo")
        evaluation = evaluate_all(recipes[arguments.seeds[0]], roots, with_ppo=stage == "ppo")
        result = {
            "recipe": str(arguments.recipe),
            "recipe_hash": recipe_hash(recipes[arguments.seeds[0]]),
            "overrides": arguments.overrides,
            "commit": subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip(),
            "seeds": arguments.seeds,
            "runs": [root.name for root in roots.values()],
            "given_away": sorted(given_away(evaluation)),
            "claims": claims(_unseen(evaluation), arguments.seeds),
            "reward_slopes": {s: reward_slope(roots["sft", s]) for s in arguments.seeds if stage == "ppo"},
            "evaluation": json.loads((evaluation / "evaluation.json").read_text()),
        }
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(arguments.out, json.dumps(result, indent=1))
        log.info("written to %s", arguments.out)


def train_supervised(recipes: dict[int, Recipe]) -> dict[tuple[str, int], Path]:
    """The run directory of each (kind of model, seed) after SFT; all start from the same synthesis."""
    roots: dict[tuple[str, int], Path] = {}
    first: Path | None = None
    for seed, recipe in recipes.items():
        for kind, variant in (("sft", recipe), (ABLATION, _ablation(recipe))):
            named = _named(variant, seed, "" if kind == "sft" else f"-{ABLATION}")
            root = runs_folder() / named.run
            if first is not None and not (root / "synthesis" / "DONE.json").exists():
                partial = root / "synthesis.partial"
                shutil.rmtree(partial, ignore_errors=True)
                shutil.copytree(first / "synthesis", partial)
                partial.rename(root / "synthesis")
            for stage in ("synthesize", "sft"):
                root = run_recipe(named, only=stage).root
            first = first or root
            roots[kind, seed] = root
    return roots


def evaluate_all(recipe: Recipe, roots: dict[tuple[str, int], Path], *, with_ppo: bool) -> Path:
    """The evaluation folder with every model in it, on one fixed bug set."""
    run = RunDirectory.open(recipe.model_copy(update={"run": f"{recipe.run}-evaluation"}))
    try:
        with Fleet(run.recipe, pins=run.pins) as fleet:  # also when it was finished: by now there may be more models
            models = [Candidate("prompt", "prompt", fleet.model_path, 0)]
            for (kind, seed), root in roots.items():
                for folder, label in [("sft", kind), *([("ppo", "sft+rl")] if kind == "sft" and with_ppo else [])]:
                    stage, path = "sft+rl" if folder == "ppo" else "sft", (root / folder / "model").resolve()
                    models.append(Candidate(f"{label} s{seed}", stage, path, 1_000_000 + len(models)))
            evaluate_models(run, fleet, models)
        return run.root / STAGE
    finally:
        run.close()


def claims(samples: Sequence[Sample], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Differences pooled over seeds, each with its interval and the seeds' own estimates."""
    samples = [s for s in samples if s.status != "INFRA"]
    found = []
    for a, b in (("prompt", "sft"), (ABLATION, "sft"), ("sft", "sft+rl"), ("prompt", "sft+rl")):
        for name, tally, k in (
            ("explain pass@1", _explained, 1),
            ("fixed bugs, explain, repair rate", _fixed, None),
            ("initial pass@1", _first, 1),
        ):
            if not any(s.label == _label(b, seeds[0]) for s in samples):
                continue  # not trained yet
            left = [tally(samples, _label(a, seed)) for seed in seeds]
            right = [tally(samples, _label(b, seed)) for seed in seeds]
            found.append({"from": a, "to": b, "figure": name, **_row(seeded_difference(left, right, k=k, seed=0))})
    return found


def given_away(evaluation: Path) -> set[str]:
    """Ids of the held-out problems that a training problem repeats, nearly repeats or solves."""
    return {row["evaluated"] for row in json.loads((evaluation / "contamination.json").read_text())}


def reward_slope(root: Path) -> dict[str, float]:
    """Least-squares slope of the mean reward an iteration, with its 95 % t interval."""
    every = np.array([row["reward"] for row in read_parts(root / "ppo" / "metrics")])
    rewards = every[np.isfinite(every)]
    fit = linregress(np.arange(len(rewards)), rewards)
    half = float(t.ppf(0.975, len(rewards) - 2) * fit.stderr)
    return {
        "slope": float(fit.slope),
        "low": float(fit.slope) - half,
        "high": float(fit.slope) + half,
        "n": len(rewards),
    }


def _unseen(evaluation: Path) -> list[Sample]:
    known = given_away(evaluation)
    return [s for s in read_records(evaluation / "samples.parquet", Sample) if s.problem_id not in known]


def _for_seed(path: Path, seed: int, overrides: Iterable[str]) -> Recipe:
    return load_recipe(path, [*overrides, f"sft.seed={seed}", f"ppo.seed={seed}"])


def _named(recipe: Recipe, seed: int, suffix: str = "") -> Recipe:
    return recipe.model_copy(update={"run": f"{recipe.run}-s{seed}{suffix}"})


def _ablation(recipe: Recipe) -> Recipe:
    sft = recipe.sft.model_copy(update={"kinds": ("solve",)})
    return recipe.model_copy(update={"sft": sft, "stages": ("synthesize", "sft")})


def _label(kind: str, seed: int) -> str:
    return kind if kind == "prompt" else f"{kind} s{seed}"


def _first(samples: Sequence[Sample], label: str) -> Tally:
    return tally_of((s.problem_id, s.passed) for s in samples if (s.label, s.mode) == (label, "initial"))


def _explained(samples: Sequence[Sample], label: str) -> Tally:
    own = [s for s in samples if s.label == label]
    repaired = {s.parent_id for s in own if (s.mode, s.bugs) == ("explain", "own") and s.passed}
    return tally_of((s.problem_id, s.passed or s.id in repaired) for s in own if s.mode == "initial")


def _fixed(samples: Sequence[Sample], label: str) -> Tally:
    chosen = (s for s in samples if (s.label, s.mode, s.bugs) == (label, "explain", "fixed"))
    return tally_of((s.problem_id, s.passed) for s in chosen)


def _row(found: SeededDifference) -> dict[str, Any]:
    estimate = found.pooled
    return {
        "difference": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "by_seed": list(found.by_seed),
        "shown": found.shown,
    }


if __name__ == "__main__":
    main()

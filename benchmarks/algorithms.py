"""Does each algorithm learn? PPO, GRPO and RLOO, and one of them asynchronously, on a small task that tests verify.

    python -m benchmarks.algorithms gather      (about ten minutes for each variant and seed on two cores)
    python -m benchmarks.algorithms gather --variant ppo-paper --variant ppo-codebleu_only     (other arms)
    python -m benchmarks.algorithms summary

The task is that of one_line_bugs.py: a bug in a function of one line is to be put right. The success rate is that of
the evaluation problems' fixed prompts, sampled at temperature 1, before the training and after it, under the last
policy. The reward is that of the tests alone, or of the arm that the variant names. `gather` does one variant and seed
after another, all variants of a seed first. Each leaves a file of its own in `--out`, and what is there is not done
again: it can be interrupted at any time (a training goes on from its last checkpoint) and continued days later.
`summary` pools the seeds: rises in points with 95 % intervals (problems are resampled), each seed's own, what
asynchronous training loses against synchronous, and what other arms lose against the paper's.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.one_line_bugs import write_task
from launch.console import configure_logging, log
from launch.rundir import read_parts, runs_folder, write_atomically
from ledex_ray.comparison import SeededDifference, seeded_difference
from ledex_ray.config import PPOConfig, Recipe
from ledex_ray.errors import BadInput
from ledex_ray.passk import Tally, mean_pass_at_k, pooled, tally_of
from ledex_ray.recipes import load_recipe, recipe_hash
from reward.compose import ARMS

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console(width=140)

RECIPE = Path(__file__).with_suffix(".yaml")
OUT = Path("benchmarks/results/algorithms")
ASYNCHRONOUS, PAPER = "async", "paper"
VARIANTS = ("ppo", "grpo", "rloo", "ppo-async")
SEEDS = (0, 1, 2)
ANSWERS = 8  # to each evaluation prompt
RISE, LOSS = 0.10, 0.05  # what a rise has to reach, and what asynchronous training may lose

Results = dict[str, dict[int, dict[str, Any]]]
"""variant -> seed -> what its file holds."""


@app.command()
def gather(
    overrides: Annotated[list[str] | None, typer.Argument(help="Of the recipe, e.g. ppo.iterations=2.")] = None,
    out: Annotated[Path, typer.Option(help="Where each variant and seed leaves its file.")] = OUT,
    variant: Annotated[list[str] | None, typer.Option(help="As ppo, grpo-async, rloo-paper.")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Seeds; default 0 1 2.")] = None,
    at_most: Annotated[int | None, typer.Option(help="Stop after so many.")] = None,
) -> None:
    """Trains and measures what has no file yet."""
    configure_logging()
    wanted = [(v, s) for s in seed or SEEDS for v in variant or VARIANTS]
    task = runs_folder() / "algorithms-task"
    task_hash = write_task(task)
    left = []
    for name, number in wanted:
        recipe = recipe_of(name, number, task, overrides or ())
        file = out / f"{name}-s{number}.json"
        if not file.exists():
            left.append((name, number, recipe, file))
        elif json.loads(file.read_text())["recipe_hash"] != experiment(recipe, task_hash):
            raise BadInput(str(file), "holds another experiment", expected="another --out, or the same recipe")
    for name, number, recipe, file in left[:at_most]:
        log.info("algorithms: %s, seed %d; %d are left", name, number, len(left))
        digest = experiment(recipe, task_hash)
        named = recipe.model_copy(update={"run": f"{recipe.run}-{name}-s{number}-{digest[:6]}"})
        result = {"variant": name, "seed": number, "recipe_hash": digest, "task_hash": task_hash, "commit": _commit()}
        result |= train_and_measure(named)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(result, indent=1))
        for folder in ("checkpoints", "model"):  # gigabytes
            shutil.rmtree(runs_folder() / named.run / "ppo" / folder, ignore_errors=True)
        log.info("algorithms: written to %s", file)


@app.command()
def summary(out: Annotated[Path, typer.Option(help="Where `gather` left its files.")] = OUT) -> None:
    """Prints what the files show, all seeds of a variant together."""
    results = read_results(out)
    table = Table("variant", "seeds", "before", "after", "rise, points", "by seed", "")
    for name, by_seed in results.items():
        rise = risen(by_seed)
        before, after = (mean_pass_at_k(pooled(_tallies(by_seed, when)), 1) for when in ("before", "after"))
        shown = ("yes" if rise.pooled.value >= RISE and rise.shown else "no") + f": at least {100 * RISE:.0f}"
        table.add_row(name, _seeds(by_seed), f"{before:.1%}", f"{after:.1%}", _points(rise), _each(rise), shown)
    console.print(table)
    for (other, name), difference in beside(results).items():
        line = f"{name} - {other}: {_points(difference)} points ({_each(difference)})"
        if parts_of(name)[1] and not parts_of(other)[1]:
            within = "within" if abs(difference.pooled.value) <= LOSS else "not within"
            line += f", {within} {100 * LOSS:.0f}"
        if len(difference.by_seed) > 1:  # the interval is over problems: it does not hold how much trainings differ
            line += f"; between seeds {100 * statistics.stdev(difference.by_seed):.1f}"
        console.print(line)


def recipe_of(variant: str, seed: int, task: Path, overrides: Iterable[str]) -> Recipe:
    """The recipe of one training. BadInput for an unknown variant; the engine and the learner share the cores."""
    algorithm, asynchronous, arm = parts_of(variant)
    own = [
        f"problems.train=jsonl:{task / 'train.jsonl'}",
        f"problems.validation=jsonl:{task / 'evaluation.jsonl'}",
        f"ppo.algorithm={algorithm}",
        f"ppo.seed={seed}",
    ]
    if asynchronous:
        half = max(1, (os.cpu_count() or 1) // 2)
        own += ["ppo.mode=asynchronous", f"rollout.threads={half}", f"learner.threads={half}"]
    if arm:
        own.append(f"reward.arm={arm}")
    return load_recipe(RECIPE, [*own, *overrides])


def parts_of(variant: str) -> tuple[str, bool, str]:
    """Algorithm, whether asynchronous, arm ("": the recipe's) of ALGORITHM[-async][-ARM]. BadInput if there is none."""
    algorithm, *rest = variant.split("-")
    asynchronous = rest[:1] == [ASYNCHRONOUS]
    arm = rest[asynchronous:]
    if algorithm not in ("ppo", "grpo", "rloo") or len(arm) > 1 or not set(arm) <= set(ARMS):
        expected = f"ppo, grpo or rloo, then perhaps -async, then perhaps one of -{', -'.join(ARMS)}"
        raise BadInput("--variant", "is unknown", given=variant, expected=expected)
    return algorithm, asynchronous, "".join(arm)


def experiment(recipe: Recipe, task_hash: str) -> str:
    """The recipe's hash without what may differ between its runs: seed, threads, where the task's files lie."""
    ppo = recipe.ppo.model_copy(update={"seed": 0})
    same = _with_problems(recipe.model_copy(update={"ppo": ppo}), task_hash, task_hash)
    return recipe_hash(_on_any_threads(same))


def train_and_measure(recipe: Recipe) -> dict[str, Any]:
    """The success rates around one training, by problem as [answers, right ones]; resumes where it was."""
    from benchmarks.small_runs import synthesized, trained_beside
    from launch.fleet import Fleet

    started = time.monotonic()
    shared = _on_any_threads(recipe.model_copy(update={"ppo": PPOConfig()}))
    shared = shared.model_copy(update={"run": f"algorithms-base-{recipe_hash(shared)[:6]}"})
    with Fleet(recipe) as fleet:
        base = synthesized(fleet, shared)
        with trained_beside(base, fleet, recipe) as algorithm:
            algorithm.resume()
            first = algorithm.progress.iteration
            stored = runs_folder() / recipe.run / "before.json"
            if not stored.exists():
                write_atomically(stored, json.dumps(success(algorithm)))
            while algorithm.progress.iteration < recipe.ppo.iterations:
                algorithm.train()
            after = success(algorithm)
    return {
        "before": json.loads(stored.read_text()),
        "after": after,
        "rewards": [row["reward"] for row in read_parts(runs_folder() / recipe.run / "ppo" / "metrics")],
        "minutes": round((time.monotonic() - started) / 60, 1),
        "resumed_after_iteration": first,
        "recipe": _with_problems(recipe, "jsonl:train.jsonl", "jsonl:evaluation.jsonl").model_dump(mode="json"),
    }


def _with_problems(recipe: Recipe, train: str, validation: str) -> Recipe:
    problems = recipe.problems.model_copy(update={"train": train, "validation": validation})
    return recipe.model_copy(update={"problems": problems})


def _on_any_threads(recipe: Recipe) -> Recipe:
    rollout, learner = (side.model_copy(update={"threads": None}) for side in (recipe.rollout, recipe.learner))
    return recipe.model_copy(update={"rollout": rollout, "learner": learner})


def success(algorithm: Any) -> dict[str, tuple[int, int]]:
    """The tally of the evaluation prompts under the policy as it is: answers that pass all tests."""
    algorithm.weights.publish()
    settings = algorithm.settings
    sampling = settings.sampling.model_copy(update={"n": ANSWERS, "temperature": 1.0})
    groups = algorithm.collector.collect(
        algorithm.validation, sampling, algorithm.weights.ref, settings.seed, execute=True
    )
    return tally_of((e.problem_id, e.verdict == "PASSED") for group in groups for e in group if e.verdict != "INFRA")


def read_results(out: Path) -> Results:
    """What was gathered, the variants in their usual order. BadInput where there is nothing, or two experiments."""
    results: Results = {}
    for file in sorted(out.glob("*.json")):
        row = json.loads(file.read_text())
        by_seed = results.setdefault(row["variant"], {})
        known = next(iter(by_seed.values()), row)["recipe_hash"]
        if row["recipe_hash"] != known:
            raise BadInput(str(file), "is of another experiment", given=row["recipe_hash"], expected=known)
        by_seed[row["seed"]] = row
    if not results:
        raise BadInput(str(out), "holds no result", expected="files that `gather` wrote")
    order = [*VARIANTS, *sorted(results)]
    return {name: results[name] for name in dict.fromkeys(order) if name in results}


def risen(by_seed: Mapping[int, Mapping[str, Any]]) -> SeededDifference:
    """Success after - before, seeds paired."""
    return seeded_difference(_tallies(by_seed, "before"), _tallies(by_seed, "after"), k=1, seed=0)


def beside(results: Results) -> dict[tuple[str, str], SeededDifference]:
    """(other, variant) -> success of the variant - the other's after training, over the seeds that both have.

    Asynchronous variants stand beside their synchronous ones, and arms beside the paper's.
    """
    found = {}
    for name in results:
        algorithm, asynchronous, arm = parts_of(name)
        others = [_named(algorithm, False, arm)] if asynchronous else []
        others += [_named(algorithm, asynchronous, PAPER)] if arm not in ("", PAPER) else []
        for other in others:
            both = sorted(results[name].keys() & results.get(other, {}).keys())
            if both:
                left, right = (_tallies({seed: results[n][seed] for seed in both}, "after") for n in (other, name))
                found[other, name] = seeded_difference(left, right, k=1, seed=0)
    return found


def _named(algorithm: str, asynchronous: bool, arm: str) -> str:
    return "-".join(filter(None, (algorithm, ASYNCHRONOUS if asynchronous else "", arm)))


def _tallies(by_seed: Mapping[int, Mapping[str, Any]], when: str) -> list[Tally]:
    return [{problem: (n, c) for problem, (n, c) in by_seed[seed][when].items()} for seed in sorted(by_seed)]


def _seeds(by_seed: Mapping[int, Any]) -> str:
    return " ".join(map(str, sorted(by_seed)))


def _points(found: SeededDifference) -> str:
    estimate = found.pooled
    return f"{100 * estimate.value:+.1f} [{100 * estimate.low:+.1f}, {100 * estimate.high:+.1f}]"


def _each(found: SeededDifference) -> str:
    return ", ".join(f"{100 * value:+.1f}" for value in found.by_seed)


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    try:
        app()
    except BadInput as error:
        console.print(f"algorithms: {error}", style="red", markup=False, soft_wrap=True)
        raise SystemExit(2) from None

"""An evaluation, judging while it samples, beside the same engine driven bare on the same prompts. In one run.

    python -m benchmarks.evaluation                    (about 10 minutes on two idle cores, 5 GB)
    python -m benchmarks.evaluation --problems mbpp@test --limit 40 --rounds 3

The evaluation is the real one (`launch.evaluator`: its Ray Data job, its sandboxes, its parts on disk), asked for first
samples alone; the bare side is an `AsyncLLM` in this process with the same settings that gets all prompts at once and
judges nothing. The sides take turns; printed are medians over the rounds after the first, and their ratio.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from actors.generation import GenerationRequest
from actors.precision import resolve_precision
from actors.rollout import engine_environment
from benchmarks.rollout import Bare
from launch.console import configure_logging
from launch.evaluator import Candidate, Evaluator
from launch.fleet import Fleet
from launch.problem_sets import heldout_problems
from launch.rundir import RunDirectory
from launch.synthesize import fitting, solve_item
from ledex_ray.config import Recipe
from ledex_ray.problems import Problem
from ledex_ray.recipes import recipe_from_tree

app = typer.Typer(add_completion=False)
console = Console(width=120)


@app.command()
def main(
    problems: Annotated[str, typer.Option(help="Problems to solve, as SPEC.")] = "humaneval",
    limit: Annotated[int, typer.Option(help="So many of them, taken evenly.")] = 16,
    samples: Annotated[int, typer.Option(help="Samples a problem.")] = 10,
    max_tokens: Annotated[int, typer.Option(help="New tokens a sample.")] = 192,
    rounds: Annotated[int, typer.Option(help="Turns of each side that count.")] = 2,
    model: Annotated[str, typer.Option(help="Packaged name, path or hub id.")] = "smollm2-135m",
    dtype: Annotated[str, typer.Option(help="auto, bfloat16 or float32.")] = "auto",
) -> None:
    """Prints tokens a second of both sides, and their ratio."""
    configure_logging()
    # Ray's default of 15 would put the actors behind the bare engine on a busy machine.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
    with tempfile.TemporaryDirectory(prefix="evaluation_") as folder:
        os.environ["LEDEX_RUNS"] = folder
        first = _recipe("turn-0", model, resolve_precision(dtype), problems, limit, samples, max_tokens)
        os.environ.update(engine_environment(first.rollout))  # before torch: for the bare engine in this process
        held = heldout_problems(first)
        with Fleet(first, ["evaluate"]) as fleet:
            requests = _requests(fleet, held)
            bare = Bare(fleet.model_path, first.rollout, first.model, fleet.rollout.transfer)
            try:
                bare_speeds, our_speeds, judged = [], [], []
                for turn in range(rounds + 1):
                    bare.forget()  # as the evaluation does, which loads the model's weights first
                    started = time.perf_counter()
                    bare_speed = bare.tokens(requests) / (time.perf_counter() - started)
                    speed, verdicts = _evaluate(first.model_copy(update={"run": f"turn-{turn}"}), fleet, held)
                    if turn:  # the first turn warms both up
                        bare_speeds.append(bare_speed)
                        our_speeds.append(speed)
                        judged.append(verdicts)
            finally:
                bare.shutdown()
    left, right = statistics.median(bare_speeds), statistics.median(our_speeds)
    table = Table(title=f"{model}, {first.model.dtype}: {len(held)} problems, {samples} samples, {max_tokens} tokens")
    for column in ("", "tokens/s", "verdicts/s"):
        table.add_column(column, justify="right")
    table.add_row("bare engine", f"{left:.0f}", "")
    table.add_row("evaluation", f"{right:.0f}", f"{statistics.median(judged):.1f}")
    console.print(table)
    console.print(f"evaluation / bare engine: {right / left:.2f}")


def _recipe(run: str, model: str, dtype: str, problems: str, limit: int, samples: int, max_tokens: int) -> Recipe:
    return recipe_from_tree(
        {
            "run": run,
            "stages": ["evaluate"],
            "model": {"name": model, "dtype": dtype, "max_length": 1024 + max_tokens},
            "problems": {"heldout": [problems], "limit": limit},
            "sandbox": {"floor": "C"},
            "evaluation": {
                "sampling": {"n": samples, "temperature": 0.8, "max_tokens": max_tokens},
                "k": [1],
                "modes": [],
                "bugs_per_problem": 0,
            },
            "tracking": {"wandb": "disabled"},
        }
    )


def _requests(fleet: Fleet, problems: Mapping[str, Problem]) -> list[GenerationRequest]:
    """What the evaluation asks of its engine, but for the seeds."""
    recipe = fleet.recipe
    items = [solve_item(p, fleet.renderer, recipe.evaluation.sampling, seed=0) for p in problems.values()]
    return [
        GenerationRequest(i.id, i.prompt_ids, i.n, i.temperature, i.top_p, i.max_tokens, number, i.stop)
        for number, i in enumerate(fitting(items, recipe.model.max_length)[0])
    ]


def _evaluate(recipe: Recipe, fleet: Fleet, problems: Mapping[str, Problem]) -> tuple[float, float]:
    """(tokens a second, verdicts a second) of one evaluation, from its start until all of it is on disk."""
    run = RunDirectory.open(recipe)
    try:
        evaluator = Evaluator(run, fleet, problems)
        started = time.perf_counter()
        evaluator.sample(Candidate("prompt", "prompt", Path(fleet.model_path), 0))
        seconds = time.perf_counter() - started
        rows = evaluator.parts.read()
    finally:
        run.close()
    return sum(row.n_tokens for row in rows) / seconds, len(rows) / seconds


if __name__ == "__main__":
    app()

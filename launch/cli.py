"""The `ledex` command. Exit codes: 0 done, 1 the run failed, 2 bad input or usage.

A command's module is imported when it is called, so `ledex --help` and `ledex judge` stay quick.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from actors.places import Place
from launch.console import configure_logging, console, log
from launch.doctor import doctor
from launch.fix import fix
from launch.inspect import inspect
from launch.judge import judge
from launch.plan import plan
from launch.recipe_names import packaged_recipes, read_recipe
from launch.rundir import find_run, locate, runs_place
from launch.score import score
from launch.submit import submit
from ledex_ray.config import Recipe
from ledex_ray.errors import BadInput, RunFailed
from ledex_ray.recipes import load_recipe

app = typer.Typer(
    name="ledex",
    help="Trains a code model to find, explain and fix its own bugs (LeDex), on a laptop's CPU or a GPU cluster.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
OURS = ("actors", "launch", "ledex_ray", "reward")

RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A YAML file, or the name of a packaged recipe such as quickstart.")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Dotted overrides, e.g. sft.epochs=1 run=mine.")
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Start NAME-2 instead of resuming NAME.")]


def _run(recipe: Recipe, stage: str | None, fresh: bool) -> None:
    from launch.pipeline import run_recipe
    from launch.summary import print_summary

    print_summary(run_recipe(recipe, stage, fresh))


@app.command()
def run(recipe: RecipeName, overrides: Overrides = None, fresh: Fresh = False) -> None:
    """Run or resume every stage of a recipe.

    Example: ledex run quickstart model=Qwen/Qwen2.5-Coder-0.5B-Instruct run=qwen
    """
    _run(read_recipe(recipe, overrides), None, fresh)


@app.command()
def synthesize(recipe: RecipeName, overrides: Overrides = None, fresh: Fresh = False) -> None:
    """Sample solutions, judge them, collect explanations and refinements, keep what is verified.

    Example: ledex synthesize quickstart run=more synthesis.solve.n=20
    """
    _run(read_recipe(recipe, overrides), "synthesize", fresh)


@app.command()
def sft(recipe: RecipeName, overrides: Overrides = None, fresh: Fresh = False) -> None:
    """Fine-tune on correct solutions and verified refinements. Needs a finished synthesis.

    Example: ledex sft quickstart          (with the overrides that its synthesis had, if any)
    """
    _run(read_recipe(recipe, overrides), "sft", fresh)


@app.command()
def ppo(recipe: RecipeName, overrides: Overrides = None, fresh: Fresh = False) -> None:
    """Train by PPO with the unit-test, CodeBLEU and explanation rewards. Needs a finished SFT.

    Example: ledex ppo quickstart
    """
    _run(read_recipe(recipe, overrides), "ppo", fresh)


@app.command()
def evaluate(recipe: RecipeName, overrides: Overrides = None, fresh: Fresh = False) -> None:
    """Measure every trained stage on held-out problems: pass@k, repair rates, baselines, intervals.

    Example: ledex evaluate benchmarks evaluation.models.mine=runs/quickstart/ppo/model
    """
    _run(read_recipe(recipe, overrides), "evaluate", fresh)


@app.command()
def report(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="RECIPE_OR_RUN [KEY=VALUE]... | RUN RUN...", help="One recipe or run, or runs to compare."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Where the comparison of several runs goes.", show_default="comparison.html"),
    ] = None,
) -> None:
    """Write the HTML report of a run from its files, or one page that compares several runs.

    Example: ledex report quickstart, or: ledex report paper hardened --out arms.html
    """
    runs = [name for name in names if "=" not in name.partition("://")[0]]  # a URL's options hold one too
    if len(runs) < 2:
        _report_one(names[0], names[1:], out)
        return
    if len(runs) < len(names):
        override = next(name for name in names if name not in runs)
        raise BadInput("override", "makes no sense for several runs", given=override)
    from launch.compare import compare
    from launch.summary import print_table

    out = out or Path("comparison.html")
    print_table("held-out problems, percent with 95 % intervals", *compare(runs, out))
    console.print(f"Comparison: {out}", highlight=False, markup=False, soft_wrap=True)


def _report_one(name: str, overrides: list[str], out: Path | None) -> None:
    if out is not None:
        raise BadInput("--out", "is for a comparison of several runs; the report of one lies in the run", given=out)
    from launch.pipeline import report_run
    from launch.summary import print_summary

    print_summary(report_run(*_run_of(name, overrides)))


def _run_of(name: str, overrides: list[str]) -> tuple[Place, Recipe]:
    """Where the run of the recipe of this name lies; where there is no such recipe, the run of this name."""
    if name in packaged_recipes() or Path(name).is_file():
        recipe = read_recipe(name, overrides)
        return runs_place() / recipe.run, recipe
    root, recipe = find_run(name)
    where = locate(name)
    if overrides:
        recipe = load_recipe(root / "recipe.yaml", overrides)
    return root if isinstance(where, Path) else where, recipe


@app.command()
def quickstart(
    overrides: Overrides = None,
    smoke: Annotated[bool, typer.Option("--smoke", help="The same stages with tiny numbers: minutes.")] = False,
    fresh: Fresh = False,
) -> None:
    """Run all of it, small and real, on this machine's CPU: synthesis, SFT, PPO, evaluation, report.

    Example: ledex quickstart --smoke
    """
    _run(read_recipe("smoke" if smoke else "quickstart", overrides), None, fresh)


app.command()(judge)
app.command()(score)
app.command()(fix)
app.command()(plan)
app.command()(submit)
app.command()(inspect)
app.command()(doctor)


def main() -> None:
    """Entry point: turns what a user got wrong into exit code 2, and a failed run into 1."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # it tells each of its retries twice
    configure_logging()
    try:
        app()
    except BadInput as error:
        _refuse(error)
    except ModuleNotFoundError as error:  # whichever command met it, at whatever depth
        if (error.name or "").partition(".")[0] in ("", *OURS):
            raise
        _refuse(
            BadInput(
                f"{error.name}",
                "is missing: the base package leaves it out",
                expected="`make install`, or ledex-ray[gpu] or ledex-ray[cpu]",
            )
        )
    except RunFailed as error:
        log.debug("", exc_info=error)
        _fail(f"{error}")
    except OSError as error:
        if error.errno not in OF_THE_DISK:
            raise
        log.debug("", exc_info=error)
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror}; when that is mended run it again")
    except KeyboardInterrupt:
        console.print("ledex: interrupted; the same command resumes", style="yellow")
        sys.exit(130)


def _fail(told: str) -> NoReturn:
    console.print(f"ledex: {told}", style="red", highlight=False, markup=False, soft_wrap=True)
    sys.exit(1)


def _refuse(error: BadInput) -> NoReturn:
    console.print(f"ledex: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
    sys.exit(2)


if __name__ == "__main__":
    main()

"""`ledex report A B C`: runs beside each other on one page, with their differences paired by problem.

Every way to ask that two runs share on the same benchmark is compared, the first run as the baseline: files of problems
only where both runs read the same, the fixed bugs only where both refined the same ones. What differs between the
recipes is listed, so that the reader sees what else could be the cause.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from launch import figures
from launch.costs import costs
from launch.evaluator import STAGE
from launch.measures import Measured, every_figure
from launch.problem_sets import heldout_hashes
from launch.report import SHOWING, Plot, difference, environment, metric_name, way
from launch.rundir import find_run, read_json, read_parts, read_versions, write_atomically
from ledex_ray.comparison import article_table, compared, share_problems
from ledex_ray.config import Recipe
from ledex_ray.errors import BadInput
from ledex_ray.evaluation import Sample
from ledex_ray.recipes import differing_keys
from ledex_ray.tables import read_records


@dataclass(frozen=True)
class Run:
    """One run as it is compared."""

    name: str  # no other run's
    root: Path
    recipe: Recipe
    results: Mapping[str, Any]  # its evaluation.json; {} where it has none
    measured: Sequence[Measured]
    bug_set: str = ""  # its hash; "" where the evaluation is not finished
    problems: Mapping[str, frozenset[str]] = field(default_factory=dict)  # benchmark -> hashes of the files it is in


def compare(names: Sequence[str], out: Path) -> tuple[list[str], list[list[str]]]:
    """Writes the page, and returns the table of all runs for the terminal.

    BadInput for a run that is not there or is named twice, and where there can be no page at `out`.
    """
    if not out.parent.is_dir():
        raise BadInput("--out", "its folder does not exist", given=str(out))
    if out.exists() and not out.is_file():
        raise BadInput("--out", "is no file", given=str(out), expected="a file, e.g. comparison.html")
    found = [find_run(name) for name in names]
    short = short_names([root for root, _ in found])
    runs = [_read(name, root, recipe) for name, (root, recipe) in zip(short, found, strict=True)]
    table = article_table(
        {"results": [{**r, "label": f"{run.name}: {r['label']}"} for run in runs for r in _results(run)]}
    )
    spent = [(run.name, cost) for run in runs for cost in costs(run.root, run.recipe)]
    page = (
        environment()
        .get_template("compare.html.j2")
        .render(
            names=[run.name for run in runs],
            header=table[0],
            rows=table[1],
            differences=[row for run in runs[1:] for row in differences(runs[0], run)],
            other_problems=[(r.name, name) for r in runs[1:] for name in _other_problems(runs[0], r)],
            other_bugs=[r.name for r in runs[1:] if runs[0].measured and r.measured and not _same_bugs(runs[0], r)],
            unmeasured=[run.name for run in runs if not run.results],
            differing=[(run.name, differing_keys(_unnamed(runs[0]), _unnamed(run))) for run in runs[1:]],
            costs=spent,
            killed=[f"{name} {cost.stage} {cost.killed}" for name, cost in spent if cost.killed],
            plots=_plots(runs),
        )
    )
    write_atomically(out, page)
    return table


def differences(first: Run, other: Run) -> list[tuple[str, str, str, str, str, int, bool]]:
    """(model, mode, metric, run, "difference [low, high]", problems, whether it excludes zero), in points."""
    known = {_shared(m): m for m in first.measured}
    rows = []
    for m in other.measured:
        a = known.get(_shared(m))
        if a is None or not share_problems(a.tally, m.tally, m.result.k):
            continue
        if m.result.benchmark.partition(" ")[0] in _other_problems(first, other):
            continue
        if m.result.key.bugs == "fixed" and not _same_bugs(first, other):
            continue
        config = other.recipe.evaluation
        found = compared(a.result, m.result, a.tally, m.tally, bootstrap_seed=config.seed, resamples=config.bootstrap)
        metric = f"{found.benchmark} {metric_name(found.metric, found.k)}"
        metric += " (fixed bugs)" if found.b.bugs == "fixed" else ""
        mode = way(asdict(found.b) | {"bugs": None})
        text = difference(found.difference, found.low, found.high)
        sure = found.low > 0 or found.high < 0
        rows.append((found.b.label, mode, metric, other.name, text, found.n_problems, sure))
    return rows


def short_names(roots: Sequence[Path]) -> list[str]:
    """The name of each run's folder, with as many folders above it as tell it apart. BadInput for a run named twice."""
    if len(set(roots)) < len(roots):
        twice = next(root for root in roots if roots.count(root) > 1)
        raise BadInput("RUN", "is named twice", given=twice)
    return [_short_name(root, roots) for root in roots]


def _short_name(root: Path, roots: Sequence[Path]) -> str:
    others = [other.parts for other in roots if other != root]
    depths = range(1, len(root.parts) + 1)
    depth = next(d for d in depths if all(root.parts[-d:] != other[-d:] for other in others))
    return str(Path(*root.parts[-depth:]))


def _read(name: str, root: Path, recipe: Recipe) -> Run:
    folder = root / STAGE
    if not (folder / "evaluation.json").exists():
        return Run(name, root, recipe, {}, ())
    results = read_json(folder / "evaluation.json")
    samples = read_records(folder / "samples.parquet", Sample)
    models = {r["label"]: r["model"] for r in results["results"]}
    benchmarks = {s.problem_id: s.problem_id.partition("/")[0] for s in samples}
    found = every_figure(samples, benchmarks, recipe.evaluation, models, recipe.problems.feedback)
    finished = folder / "DONE.json"
    bug_set = read_json(finished).get("bug_set", "") if finished.exists() else ""
    pinned = heldout_hashes(recipe, read_versions(root).get("hub", {}))
    return Run(name, root, recipe, results, found, bug_set, pinned)


def _other_problems(a: Run, b: Run) -> list[str]:
    """Benchmarks of which the two read other files: one id need not be one problem there."""
    return sorted(name for name in a.problems.keys() & b.problems.keys() if a.problems[name] != b.problems[name])


def _same_bugs(a: Run, b: Run) -> bool:
    return bool(a.bug_set) and a.bug_set == b.bug_set


def _results(run: Run) -> Sequence[Mapping[str, Any]]:
    found: Sequence[Mapping[str, Any]] = run.results.get("results", ())
    return found


def _shared(m: Measured) -> tuple[Any, ...]:
    """What two runs must share to be compared: all but the model's name, temperature, seed, and feedback not shown."""
    key = replace(m.result.key, model="", temperature=0.0, seed=None)
    return key if key.mode in SHOWING else replace(key, feedback="public"), m.place


def _unnamed(run: Run) -> Recipe:
    return run.recipe.model_copy(update={"run": "run"})


def _plots(runs: Sequence[Run]) -> list[Plot]:
    histories = {run.name: read_parts(run.root / "ppo" / "metrics") for run in runs}
    wanted = {
        "reward": "Mean reward by PPO iteration",
        "validation_pass_rate": "Repairs that pass on validation bugs, by PPO iteration",
        "kl": "KL to the SFT model, by PPO iteration",
    }
    return [
        Plot(name, caption, figures.to_png(figures.overlay(histories, name)))
        for name, caption in wanted.items()
        if any(row.get(name) is not None for history in histories.values() for row in history)
    ]

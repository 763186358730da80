"""The report of a run: one self-contained HTML file, the same as Markdown, and the plots as PNGs.

Everything shown is computed from the files of the run directory. Text from a model is shown as text, never
interpreted: Jinja escapes it, control characters are made visible, it is cut, and compared in the scorer's child.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from launch import figures, figures_answers
from launch.costs import Cost, costs
from launch.rundir import RunDirectory, read_json, read_parts, read_versions, write_atomically
from launch.shown import shown
from launch.synthesis_summary import TABLE, counts_in_words, table_rows
from ledex_ray.comparison import MODES, STAGES, article_table, percent
from ledex_ray.evaluation import Sample
from ledex_ray.published import BENCHMARKS, PUBLISHED, backbone_of
from ledex_ray.recipes import dump_recipe, recipe_hash
from ledex_ray.tables import read_records
from reward.scorer import Scorer

STAGE = "report"
EXAMPLES = 3
SHOWING = ("direct", "explain", "random_feedback")  # the modes that show feedback
MOST_LINES, MOST_CHARACTERS = 80, 4000


@dataclass(frozen=True)
class Example:
    """One refinement of a held-out bug, ready to be shown."""

    title: str
    explanation: str
    diff: tuple[tuple[str, str], ...]  # (class, line)


@dataclass(frozen=True)
class Plot:
    """A figure with its caption."""

    name: str
    caption: str
    png: bytes

    @property
    def data(self) -> str:
        return base64.b64encode(self.png).decode()


def report(run: RunDirectory) -> None:
    """Writes `report/report.html`, `report/report.md` and the PNGs; raises nothing for stages that did not run."""
    folder = run.path(STAGE, "x").parent
    context = gather(run)
    for plot in context["plots"]:
        (folder / f"{plot.name}.png").write_bytes(plot.png)
    for name in ("report.html", "report.md"):
        write_atomically(folder / name, environment().get_template(f"{name}.j2").render(context))
    run.finish(STAGE, {"plots": [plot.name for plot in context["plots"]]})


def environment() -> jinja2.Environment:
    """The templates of this package; what goes into HTML is escaped."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("launch", "templates"),
        autoescape=jinja2.select_autoescape(["html.j2"], default_for_string=False),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


def gather(run: RunDirectory) -> dict[str, Any]:
    """All that the templates show."""
    evaluation = run.root / "evaluation" / "heldout"
    results = read_json(evaluation / "evaluation.json") if run.done("evaluation/heldout") else None
    samples = read_records(evaluation / "samples.parquet", Sample) if results else []
    header, rows = article_table(results) if results else ([], [])
    fixed, failed = examples(samples)
    spent = costs(run.root, run.recipe)
    return {
        "name": run.root.name,  # a copy has the name of its folder
        "recipe": dump_recipe(run.recipe),
        "hash": recipe_hash(run.recipe),
        "versions": versions(run.root),
        "header": header,
        "rows": rows,
        "comparisons": comparison_rows(results["comparisons"]) if results else [],
        "repair": repair_rows(results["results"]) if results else [],
        "evaluation": run.summary("evaluation/heldout"),
        "synthesis": run.summary("synthesis"),
        "counts": counts_in_words(run.summary("synthesis")),
        "table_1": table_rows(run.summary("synthesis")),
        "table_1_header": TABLE,
        "kept": kept(run.summary("sft"), run.summary("ppo")),
        "plots": plots(run, samples, results["results"] if results else [], spent),
        "fixed": fixed,
        "failed": failed,
        "costs": spent,
        "killed": [f"{cost.stage} {cost.killed}" for cost in spent if cost.killed],
        "overlaps": contamination(evaluation),
        "seen": [*run.recipe.problems.train_sets, run.recipe.problems.validation],
        "others": list(run.recipe.evaluation.models),
        "modes": run.recipe.evaluation.modes,
        "published": published_rows(run.recipe.model.name),
        "backbone": backbone_of(run.recipe.model.name),
        "benchmarks": BENCHMARKS,
    }


def kept(sft: Mapping[str, Any], ppo: Mapping[str, Any]) -> list[str]:
    """Which model each training stage kept, in a sentence; nothing of a stage that measured nothing."""
    told = []
    if sft.get("best_loss") is not None:
        told.append(f"SFT: the model of step {sft['best_step']} is kept, validation loss {sft['best_loss']:.3f}.")
    if min(ppo.get("best_rate", -1), ppo.get("start_rate", -1)) >= 0:
        rates = f"{ppo['best_rate']:.1%} of the validation bugs repaired, {ppo['start_rate']:.1%} before PPO"
        told.append(f"PPO: the model of iteration {ppo['best_iteration']} is kept: {rates}.")
    return told


def versions(root: Path) -> dict[str, str]:
    """What the run was begun with, a line each: releases, then the commits from the hub."""
    known = read_versions(root)
    return {name: version for name, version in known.items() if name != "hub"} | known.get("hub", {})


def plots(
    run: RunDirectory, samples: Sequence[Sample], results: Sequence[Mapping[str, Any]], spent: Sequence[Cost]
) -> list[Plot]:
    """Every figure that the run has data for."""
    ppo, sft = read_parts(run.root / "ppo" / "metrics"), read_parts(run.root / "sft" / "metrics")
    episodes = figures_answers.read_episodes(run.root / "ppo" / "episodes")
    wanted: list[tuple[str, str, Any, Callable[[Any], Any]]] = [
        ("rounds", "pass@1 by round of refinement, with 95 % intervals", results, figures_answers.rounds_curve),
        ("flow", "What became of each wrong first sample when it was explained", samples, figures_answers.verdict_flow),
        ("verdicts", "Verdicts on held-out problems", samples, figures.verdict_bars),
        ("reward", "Mean reward by PPO iteration (R(e): of answers that explain), and its terms", ppo,
         figures.reward_curves),
        ("pass_rate", "Refinements that pass every test, by PPO iteration", ppo, figures.pass_curves),
        ("calibration", "Reward against truth: PPO answers that pass, by what they were worth (large dots: many)",
         episodes, figures_answers.calibration),
        ("policy", "KL (estimated from the sampled tokens: it may be negative) and update by PPO iteration", ppo,
         figures.policy_curves),
        ("sft_loss", "SFT loss", sft, figures.loss_curve),
        ("time", "Where the time went", {c.stage: c.seconds for c in spent if c.seconds}, figures.time_bars),
    ]  # fmt: skip
    drawn = ((name, caption, draw(data)) for name, caption, data, draw in wanted if data)
    return [Plot(name, caption, figures.to_png(figure)) for name, caption, figure in drawn if figure is not None]


def examples(samples: Sequence[Sample]) -> tuple[list[Example], list[Example]]:
    """(fixed, failed): refinements with explanation of different problems, by the most trained model.

    Of several that are trained alike it is the one that was measured last.
    """
    stage = next((stage for stage in reversed(STAGES) if any(s.stage == stage for s in samples)), "")
    last = next((s.label for s in reversed(samples) if s.stage == stage), "")
    picked: dict[bool, dict[str, Example]] = {True: {}, False: {}}
    with Scorer() as scorer:
        for sample in sorted(samples, key=lambda s: s.id):
            fits = sample.label == last and sample.mode == "explain" and sample.explanation and sample.code
            if fits and sample.problem_id not in picked[sample.passed] and len(picked[sample.passed]) < EXAMPLES:
                picked[sample.passed][sample.problem_id] = _example(sample, scorer)
    return list(picked[True].values()), list(picked[False].values())


def contamination(evaluation: Path) -> list[dict[str, Any]]:
    """What the contamination check found; none where it has not been run."""
    path = evaluation / "contamination.json"
    found: list[dict[str, Any]] = read_json(path) if path.exists() else []
    return found


def published_rows(model: str) -> list[tuple[str, ...]]:
    """The paper's own figures for this backbone: (model, mode, figures by benchmark); none for another one."""
    return [
        (row.stage, MODES[row.mode], *(f"{one:.2f}" + (f" ({ten:.2f})" if ten else "") for one, ten in row.figures))
        for row in PUBLISHED.get(backbone_of(model), ())
    ]


def comparison_rows(comparisons: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str, str, int, bool]]:
    """(metric, a, b, "difference [low, high]", problems, whether the interval excludes zero), points of a percent."""
    rows = []
    for c in comparisons:
        a, b = c["a"], c["b"]
        text = difference(c["difference"], c["low"], c["high"])
        metric = f"{c['benchmark']} {metric_name(c['metric'], c['k'])}"
        rows.append((metric, side(a), side(b), text, c["n_problems"], c["low"] > 0 or c["high"] < 0))
    return rows


def difference(value: float, low: float, high: float) -> str:
    """A difference with its interval, in points of a percent."""
    return f"{100 * value:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def metric_name(metric: str, k: int | None) -> str:
    """A metric of `evaluation.json` in words: pass@1, repair rate, copy rate."""
    return f"pass@{k}" if k else metric.replace("_", " ")


def side(key: Mapping[str, Any]) -> str:
    """One side of a comparison in words."""
    return f"{key['label']} {way(key)}"


def way(key: Mapping[str, Any]) -> str:
    """How it was asked, in words; what is usual (round 1, public feedback) is not said."""
    told = ["fixed bugs"] if key["bugs"] == "fixed" else []
    told += [f"round {key['round']}"] if key["round"] > 1 else []
    told += ["feedback of all tests"] if key["feedback"] == "all" and key["mode"] in SHOWING else []
    return key["mode"].replace("_", " ") + (f" ({', '.join(told)})" if told else "")


def repair_rows(results: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str, str, str]]:
    """(model, mode, bugs, metric, "value [low, high] of n") for repair and copy rates."""
    return [
        (
            r["label"],
            way({**r, "bugs": None}),
            r["bugs"],
            metric_name(r["metric"], None),
            f"{percent(r)} of {r['n_samples']}",
        )
        for r in results
        if r["metric"] != "pass_at_k"
    ]


def _example(sample: Sample, scorer: Scorer) -> Example:
    told = [sample.label, f"{sample.bugs} bug", *([f"round {sample.round}"] if sample.round > 1 else [])]
    return Example(
        title=f"{sample.problem_id} ({', '.join(told)})",
        explanation=_cut(sample.explanation),
        diff=tuple(marked_lines(scorer.diff(_cut(sample.wrong_code), _cut(sample.code)))),
    )


def marked_lines(diff: str) -> list[tuple[str, str]]:
    """The lines of a unified diff with their classes, without the two that name its sides."""
    lines = diff.rstrip("\n").split("\n")
    lines = lines[2:] if lines[0].startswith("--- ") else lines
    return [({"+": "added", "-": "removed"}.get(line[:1], "same"), line) for line in lines]


def _cut(text: str) -> str:
    return shown(text, MOST_CHARACTERS, MOST_LINES).text

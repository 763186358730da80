"""The plots of the report, from the files of a run. Colours read on white and on black; backgrounds are transparent."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ledex_ray.evaluation import Sample

INK = "#8a8f98"  # legible on both backgrounds
COLOURS = ("#3b82f6", "#f59e0b", "#10b981", "#ef4444", "#8b5cf6", "#14b8a6", "#ec4899", "#a3a3a3")
VERDICT_COLOURS = {
    "PASSED": "#10b981",
    "FAILED": "#f59e0b",
    "ERROR": "#ef4444",
    "TIMEOUT": "#8b5cf6",
    "MEMORY": "#3b82f6",
    "CRASHED": "#ec4899",
    "REJECTED": "#78716c",
    "INFRA": "#111827",
}
REWARDS = {
    "reward": "R(r) + R(e)",
    "reward_refinement": "R(r)",
    "reward_explanation": "R(e)",
}
REWARD_TERMS = {
    "tests_passed": "share of tests passed",
    "codebleu": "CodeBLEU",
    "explanation_similarity": "explanation similarity",
}
Rows = Sequence[Mapping[str, Any]]


def reward_curves(history: Rows) -> Figure:
    """R(r), R(e) and their sum by iteration, and the terms they are made of."""
    figure, (left, right) = subplots(2)
    _lines(left, history, REWARDS)
    left.set_title("reward")
    _lines(right, history, REWARD_TERMS)
    right.set_title("terms")
    return figure


def policy_curves(history: Rows) -> Figure:
    """KL to the reference, and how the update went."""
    figure, (left, right) = subplots(2)
    _lines(left, history, {"kl": "KL to the SFT model"})
    left.set_title("KL a token (an estimate)")
    _lines(
        right,
        history,
        {
            "clip_fraction": "share clipped",
            "behaviour_gap_mean": "gap to the engine, nats",
            "truncated": "share cut off",
        },
    )
    right.set_title("update")
    return figure


def pass_curves(history: Rows) -> Figure:
    """Pass rate of refinements in training by iteration, and on validation bugs."""
    figure, (axes,) = subplots(1)
    passed = [
        {**row, "pass_rate": row.get("verdict_passed", 0) / judged}
        if "tests_passed" in row and (judged := row["episodes"] - row.get("verdict_infra", 0)) > 0
        else row
        for row in history  # codebleu_only executes nothing in training
    ]
    names = {"pass_rate": "training", "validation_pass_rate": "validation"}
    _lines(axes, passed, names | {"validation_pass_rate_start": "validation, before PPO"}, marker="o")
    axes.set_title("refinements that pass every test")
    axes.set_ylim(bottom=0)
    return figure


def loss_curve(history: Rows) -> Figure:
    """SFT loss by step."""
    figure, (axes,) = subplots(1)
    _lines(axes, history, {"loss": "training", "validation_loss": "validation"}, marker=".")
    axes.set_title("SFT loss a token")
    axes.set_xlabel("step", color=INK)
    return figure


def main_feedback(samples: Sequence[Sample]) -> str:
    """The kind of feedback that figures of one kind show: where several were measured, that of the public tests."""
    kinds = {s.feedback_from for s in samples}
    return "public" if "public" in kinds else next(iter(sorted(kinds - {""})), "")


def verdict_bars(samples: Sequence[Sample]) -> Figure:
    """Share of each verdict by model and mode, of first refinements: later rounds are asked of what is still wrong."""
    figure, (axes,) = subplots(1)
    kind = main_feedback(samples)
    shown = [s for s in samples if s.bugs != "fixed" and s.round <= 1 and s.feedback_from in ("", kind)]
    groups = sorted({(s.label, s.mode) for s in shown}, key=_group_order, reverse=True)
    names = [f"{label}, {mode}" for label, mode in groups]
    counts = [Counter(s.status for s in shown if (s.label, s.mode) == g) for g in groups]
    left = [0.0] * len(groups)
    for status, colour in VERDICT_COLOURS.items():
        shares = [c[status] / max(sum(c.values()), 1) for c in counts]
        if any(shares):
            axes.barh(names, shares, left=left, color=colour, label=status)
            left = [a + b for a, b in zip(left, shares, strict=True)]
    axes.set_xlim(0, 1)
    axes.set_title("verdicts")
    legend_below(figure, axes)
    figure.set_size_inches(8, 1.5 + 0.32 * len(groups))
    return figure


def time_bars(seconds: Mapping[str, float]) -> Figure:
    """Where the time went, by stage."""
    figure, (axes,) = subplots(1)
    names = list(seconds)[::-1]
    axes.barh(names, [seconds[n] / 60 for n in names], color=COLOURS[0])
    axes.set_title("minutes by stage")
    figure.set_size_inches(8, 0.9 + 0.35 * max(len(names), 1))
    return figure


def overlay(histories: Mapping[str, Rows], name: str) -> Figure:
    """One metric by iteration, a line a run."""
    figure, (axes,) = subplots(1)
    for colour, (run, history) in zip(itertools.cycle(COLOURS), histories.items(), strict=False):
        points = [(row["step"], row[name]) for row in history if row.get(name) is not None]
        if points:
            steps, values = zip(*points, strict=True)
            axes.plot(steps, values, marker=".", color=colour, label=run)
    axes.set_title(name.replace("_", " "))
    axes.set_xlabel("iteration", color=INK)
    legend(axes)
    return figure


def to_png(figure: Figure) -> bytes:
    """The figure as a PNG with a transparent background; closes it."""
    out = BytesIO()
    figure.savefig(out, format="png", dpi=120, transparent=True, bbox_inches="tight")
    plt.close(figure)
    return out.getvalue()


def _group_order(group: tuple[str, str]) -> tuple[int, int]:
    stages, modes = ("prompt", "sft", "sft+rl"), ("initial", "direct", "explain", "resample")
    label, mode = group
    return (stages.index(label) if label in stages else 9, modes.index(mode) if mode in modes else 9)


def subplots(count: int) -> tuple[Figure, Sequence[Axes]]:
    """So many plots side by side, legible on white and on black."""
    figure, grid = plt.subplots(1, count, figsize=(8, 2.9), squeeze=False, layout="constrained")
    for axes in grid[0]:
        axes.tick_params(colors=INK)
        axes.title.set_color(INK)
        axes.grid(alpha=0.25)
        for spine in axes.spines.values():
            spine.set_color(INK)
    return figure, list(grid[0])


def _lines(axes: Axes, history: Rows, names: Mapping[str, str], marker: str = ".") -> None:
    for colour, (key, label) in zip(COLOURS, names.items(), strict=False):
        points = [(row["step"], row[key]) for row in history if row.get(key) is not None]
        if points:
            steps, values = zip(*points, strict=True)
            axes.plot(steps, values, marker=marker, color=colour, label=label)
    axes.set_xlabel("iteration", color=INK)
    legend(axes)


def legend(axes: Axes) -> None:
    """A legend where something is named."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, labelcolor=INK, fontsize="small")


def legend_below(figure: Figure, axes: Axes) -> None:
    """One legend for all plots of a figure, where it covers none of them."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=min(len(labels), 4),
            frameon=False,
            labelcolor=INK,
            fontsize="small",
        )

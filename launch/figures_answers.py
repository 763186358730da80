"""The report's plots of single answers: rounds, what became of each kind of error, reward against truth."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from matplotlib.figure import Figure

from launch.figures import COLOURS, INK, legend_below, main_feedback, subplots
from ledex_ray.evaluation import Sample
from ledex_ray.records import Status

MOST_ERRORS = 8
OUTCOMES = {"fixed": "#10b981", "same error": "#a3a3a3", "another error": "#f59e0b", "copied": "#6b7280"}
# What a reward is held against: the term's name in an episode, its title, its range.
CALIBRATED = {
    "reward_refinement": ("R(r)", (-5.0, 5.0)),
    "codebleu": ("CodeBLEU", (0.0, 1.0)),
    "explanation_similarity": ("explanation similarity", (0.0, 1.0)),
}
BINS = 10


def rounds_curve(results: Sequence[Mapping[str, Any]]) -> Figure | None:
    """pass@1 by round of refinement, with its interval; None where there is one round alone."""
    chosen = [r for r in results if r["metric"] == "pass_at_k" and r["k"] == 1 and r["mode"] != "resample"]
    if max((r["round"] for r in chosen), default=0) < 2:
        return None
    benchmarks = sorted({r["benchmark"] for r in chosen})
    figure, grid = subplots(len(benchmarks))
    for axes, benchmark in zip(grid, benchmarks, strict=True):
        first = {r["label"]: r for r in chosen if r["mode"] == "initial" and r["benchmark"] == benchmark}
        lines: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
        for r in chosen:
            if r["benchmark"] == benchmark and r["mode"] in ("direct", "explain"):
                lines.setdefault((r["label"], r["mode"], r["feedback"]), []).append(r)
        several = len({feedback for _, _, feedback in lines}) > 1
        for number, ((label, mode, feedback), rows) in enumerate(sorted(lines.items())):
            points = sorted([first[label], *rows] if label in first else rows, key=lambda r: r["round"])
            steps, values = [r["round"] for r in points], [100 * r["value"] for r in points]
            colour = COLOURS[number % len(COLOURS)]
            name = f"{label}, {mode}" + (f", {feedback} tests" if several else "")
            axes.plot(steps, values, marker="o", color=colour, label=name)
            axes.fill_between(
                steps, [100 * r["low"] for r in points], [100 * r["high"] for r in points], color=colour, alpha=0.12
            )
        axes.set_title(f"{benchmark}: pass@1, percent")
        axes.set_xlabel("rounds of refinement", color=INK)
        axes.set_xticks(sorted({r["round"] for r in chosen}))
    legend_below(figure, grid[0])
    figure.set_size_inches(8, 3.6)
    return figure


def verdict_flow(samples: Sequence[Sample]) -> Figure | None:
    """What became of each kind of wrong first sample in its first refinement, by model; None without refinements."""
    flows = {label: flow for label in dict.fromkeys(s.label for s in samples) if (flow := flow_of(samples, label))}
    if not flows:
        return None
    figure, grid = subplots(len(flows))
    total: Counter[str] = Counter()
    for flow in flows.values():
        total.update({error: outcomes.total() for error, outcomes in flow.items()})
    errors = [error for error, _ in total.most_common(MOST_ERRORS)][::-1]
    for axes, (label, flow) in zip(grid, flows.items(), strict=True):
        left = np.zeros(len(errors))
        for outcome, colour in OUTCOMES.items():
            counts = np.array([flow.get(error, Counter())[outcome] for error in errors], dtype=float)
            axes.barh(errors, counts, left=left, color=colour, label=outcome)
            left += counts
        axes.set_title(label)
        axes.set_xlabel("wrong first samples", color=INK)
    for axes in grid[1:]:
        axes.set_yticklabels([])
    legend_below(figure, grid[0])
    figure.set_size_inches(8, 1.7 + 0.32 * len(errors))
    return figure


def flow_of(samples: Sequence[Sample], label: str) -> dict[str, Counter[str]]:
    """By kind of error of a wrong first sample, how many of each outcome its refinement with explanation had.

    Where two kinds of feedback were measured, that of the public tests counts.
    """
    kind = main_feedback(samples)
    first = {s.id: s for s in samples if s.label == label and s.mode == "initial"}
    found: dict[str, Counter[str]] = {}
    for s in samples:
        asked = s.key == (label, "explain", 1, "own", kind) and s.parent_id in first
        if asked and s.status != Status.INFRA:
            before = first[s.parent_id]
            error = before.error or before.status.lower()
            after = s.error or s.status.lower()
            outcome = (
                "fixed" if s.passed else "copied" if s.copied else "same error" if after == error else "another error"
            )
            found.setdefault(error, Counter())[outcome] += 1
    return found


def calibration(episodes: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Share of answers that pass every test, by reward and by the terms that are no test; None without both kinds."""
    wanted = [name for name in CALIBRATED if sum(name in e["terms"] for e in episodes) > BINS]
    if not wanted or not any(e["passed"] for e in episodes):
        return None
    figure, grid = subplots(len(wanted))
    for axes, name in zip(grid, wanted, strict=True):
        title, limits = CALIBRATED[name]
        centres, shares, counts = bins_of(
            [(e["terms"][name], e["passed"]) for e in episodes if name in e["terms"]], limits
        )
        size = np.sqrt(np.array(counts) / max(counts)) * 90 + 8
        axes.scatter(centres, shares, s=size, color=COLOURS[0], alpha=0.8)
        axes.set_ylim(-0.05, 1.05)
        axes.set_xlim(*limits)
        axes.set_title(title)
        axes.set_xlabel(f"{sum(counts)} answers", color=INK)
    grid[0].set_ylabel("pass every test", color=INK)
    return figure


def bins_of(
    pairs: Sequence[tuple[float, bool]], limits: tuple[float, float]
) -> tuple[list[float], list[float], list[int]]:
    """(mean value, share that pass, count) of each of BINS equal bins that holds an answer."""
    values, passed = np.array([v for v, _ in pairs]), np.array([p for _, p in pairs], dtype=float)
    place = np.clip(((values - limits[0]) / (limits[1] - limits[0]) * BINS).astype(int), 0, BINS - 1)
    there = [b for b in range(BINS) if (place == b).any()]
    return (
        [float(values[place == b].mean()) for b in there],
        [float(passed[place == b].mean()) for b in there],
        [int((place == b).sum()) for b in there],
    )


def read_episodes(folder: Path) -> list[dict[str, Any]]:
    """The terms and the verdict of every scored episode, without its tokens."""
    found = []
    for path in sorted(folder.glob("[0-9]*.parquet")):
        for row in pq.read_table(path, columns=["terms", "verdict", "scored"]).to_pylist():
            if row["scored"] and row["verdict"]:
                found.append({"terms": json.loads(row["terms"]), "passed": row["verdict"] == "PASSED"})
    return found

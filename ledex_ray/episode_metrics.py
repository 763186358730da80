"""An iteration's episodes in figures: reward by term, verdicts, lengths. Pure functions of episodes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from ledex_ray.episodes import Episode
from ledex_ray.records import Status


def describe(episodes: Sequence[Episode]) -> dict[str, float]:
    """Reward by term, verdicts and lengths of an iteration; unscored episodes are counted and left out of means."""
    scored = [e for e in episodes if e.scored]
    metrics: dict[str, float] = {"episodes": len(episodes), "unscored_episodes": len(episodes) - len(scored)}
    for name in sorted({name for e in scored for name in e.terms}):
        metrics[name] = float(np.mean([e.terms[name] for e in scored if name in e.terms]))
    metrics["reward"] = float(np.mean([e.score for e in scored])) if scored else math.nan
    for instruction in sorted({e.instruction for e in scored}):
        metrics[f"reward_{instruction}"] = float(np.mean([e.score for e in scored if e.instruction == instruction]))
    counts = Counter(e.verdict for e in episodes)
    for status in sorted({*Status, *counts}):  # also those that there are none of: a gauge keeps its last value
        metrics[f"verdict_{status.lower() or 'none'}"] = counts[status]
    for reason, count in Counter(r.split(":")[0] for e in episodes for r in e.unscored).items():
        metrics[f"unscored_{reason}"] = count
    metrics["answer_tokens"] = float(np.mean([e.loss_mask.sum() for e in episodes])) if episodes else 0.0
    metrics["truncated"] = float(np.mean([e.truncated for e in episodes])) if episodes else 0.0
    return metrics

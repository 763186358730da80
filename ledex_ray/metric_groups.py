"""Which group of curves a metric belongs to, so that a dashboard is read by topic and not by the alphabet."""

from __future__ import annotations

GROUPS: dict[str, tuple[str, ...]] = {
    "reward": (
        "reward", "codebleu", "hardened_codebleu", "tests_passed", "explanation_similarity", "no_code", "parses",
        "copied", "renamed_copy", "validation_pass_rate",
    ),
    "verdict": (
        "verdict_", "unscored", "unused_groups", "validation_infra", "episodes", "n_used", "truncated",
        "answer_tokens",
    ),
    "policy": (
        "kl", "clip_fraction", "ratio_mean", "entropy", "policy_loss", "advantage_", "grad_norm", "lr", "steps",
        "skipped_steps", "loss", "validation_loss",
    ),
    "value": ("value_loss", "explained_variance", "return_"),
    "staleness": ("staleness_", "tis_", "engine_gap_", "behaviour_gap_", "transfer_seconds", "probe_seconds"),
    "utilisation": ("busy_", "tokens_per_second", "tokens", "seconds"),
    "health": ("queue_peak_", "retries_", "deaths_", "stuck_", "dropped_"),
}  # fmt: skip
"""By group, the beginnings of its metrics' names; the longest one that fits decides."""


def grouped(name: str) -> str:
    """ "group/name"; "other/name" where no group knows it."""
    fits = [(len(start), group) for group, starts in GROUPS.items() for start in starts if name.startswith(start)]
    return f"{max(fits)[1] if fits else 'other'}/{name}"

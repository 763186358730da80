"""One iteration's episodes as the update sees them: which count, what they earned, their advantages and returns.

method.md, 3: KL in the reward, GAE and its separated form, group estimators, whitening over the global batch. The
same on every rank, from the same inputs. Not covered: forward passes and optimizer steps (ppo_update.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from actors.micro_batches import Sequences
from ledex_ray.advantages import comparable, explained_variance, gae, grpo, informative, rewards_to_go, rloo, whiten
from ledex_ray.config import PPOConfig
from ledex_ray.episodes import Episode
from ledex_ray.losses import kl_estimate

LEAST_VARIATION = 0.1  # of the mean return, that returns are taken to vary by


@dataclass
class RunningDeviation:
    """Standard deviation of all returns seen (Chan et al.'s update); 1 before the first.

    Returns are divided by it and keep their mean: where they hardly differ (every answer fails alike) it is a share of
    that mean, or a critic's targets would be thousands.
    """

    count: float = 0.0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, values: Tensor) -> None:
        n, mean = float(values.numel()), float(values.double().mean())
        delta, total = mean - self.mean, self.count + n
        self.squares += float((values.double() - mean).square().sum()) + delta**2 * self.count * n / total
        self.mean += delta * n / total
        self.count = total

    @property
    def value(self) -> float:
        deviation = math.sqrt(self.squares / self.count) if self.count else 1.0
        least = LEAST_VARIATION * abs(self.mean)
        return max(deviation, least) if max(deviation, least) > 1e-6 else 1.0


@dataclass
class PPOState:
    """What an update carries to the next one; saved with each checkpoint."""

    kl_coef: float
    returns: RunningDeviation = field(default_factory=RunningDeviation)
    skipped_in_a_row: int = 0


@dataclass(frozen=True, eq=False)
class Scored:
    """The batch before the first step: [n_i] tensors by episode (generated tokens alone), on CPU."""

    episodes: list[Episode]
    sequences: Sequences
    behaviour: list[Tensor]
    learner: list[Tensor] | None  # the policy's own before the first step; None: the one step's, detached, are these
    old: list[Tensor] | None  # the ratio's denominator: `learner`, or `behaviour` where the recipe says so
    reference: list[Tensor] | None
    values: list[Tensor] | None  # in units of the rewards


def usable(config: PPOConfig, episodes: Sequence[Episode]) -> list[Episode]:
    """Episodes with a trustworthy reward; for group estimators, those with something to be compared with."""
    scored = [e.scored and not (config.mask_truncated and e.truncated) for e in episodes]
    groups = [e.group_id for e in episodes]
    if config.algorithm in ("grpo", "rloo"):
        scored = comparable(groups, scored)
    if config.filter_groups:
        scored = informative([e.score for e in episodes], groups, scored)
    return [episode for episode, good in zip(episodes, scored, strict=True) if good]


def unused_groups(config: PPOConfig, episodes: Sequence[Episode]) -> int:
    """How many groups were sampled and give the update nothing, also those that lost their scores to a fault."""
    return len({e.group_id for e in episodes} - {e.group_id for e in usable(config, episodes)})


def shuffled_groups(episodes: Sequence[Episode], random: np.random.Generator) -> list[int]:
    """Indices with the groups in random order and each group's members side by side: they share their prompt's cost."""
    members: dict[str, list[int]] = {}
    for index, episode in enumerate(episodes):
        members.setdefault(episode.group_id, []).append(index)
    groups = list(members.values())
    return [index for group in random.permutation(len(groups)) for index in groups[group]]


def estimate(
    config: PPOConfig, state: PPOState, scored: Scored, *, separated: bool
) -> tuple[list[Tensor], list[Tensor] | None, dict[str, float]]:
    """(advantages, returns in units of the rewards, metrics), by episode; adds the returns to `state`."""
    counts = scored.sequences.counts
    task = [torch.from_numpy(at_predictions(e, e.rewards)) for e in scored.episodes]
    metrics = {"reward_mean": float(np.mean([e.score for e in scored.episodes]))}
    rewards, penalties = task, None
    if scored.reference is not None and scored.learner is not None:
        metrics["kl"] = float(torch.cat(_differences(scored.learner, scored.reference)).mean())
        if config.kl_placement == "reward":
            estimates = [
                kl_estimate(own, ref, config.kl_estimator)
                for own, ref in zip(scored.learner, scored.reference, strict=True)
            ]
            penalties = [state.kl_coef * kl for kl in estimates]
            rewards = [r - penalty for r, penalty in zip(task, penalties, strict=True)]
    metrics["kl_coef"] = state.kl_coef if scored.reference is not None else 0.0
    returns: list[Tensor] | None = None
    if config.algorithm in ("grpo", "rloo"):
        relative, groups = grpo if config.algorithm == "grpo" else rloo, [e.group_id for e in scored.episodes]
        scores = relative([float(r.sum()) for r in task], groups)
        if penalties is not None:  # never by a group's deviation: in one whose rewards agree it would be the KL's own
            against = rloo([float(p.sum()) for p in penalties], groups)
            scores = [score - penalty for score, penalty in zip(scores, against, strict=True)]
        advantages = [torch.full((n,), score) for n, score in zip(counts, scores, strict=True)]
        raw = torch.cat(advantages)
    else:
        rewards_BL, mask_BL = _pad(rewards), _pad([torch.ones(n) for n in counts]).bool()
        ends_BL = _pad([_explanation_end(e) for e in scored.episodes]).bool() if separated else None
        if scored.values is not None:
            advantages_BL, returns_BL = gae(rewards_BL, _pad(scored.values), mask_BL, config.gamma, config.lam, ends_BL)
            returns = [row[:n] for row, n in zip(returns_BL, counts, strict=True)]
            flat = torch.cat(returns)
            metrics["explained_variance"] = explained_variance(torch.cat(scored.values), flat)
            metrics["return_mean"], metrics["return_std"] = float(flat.mean()), float(flat.std(unbiased=False))
            if bool(flat.isfinite().all()):  # a bad reward costs its step, not the scale of all later ones
                state.returns.add(flat)
        else:
            advantages_BL = rewards_to_go(rewards_BL, mask_BL, config.gamma, ends_BL)
        raw = advantages_BL[mask_BL]  # as they are before whitening
        if config.whiten_advantages or config.algorithm == "reinforce++":
            advantages_BL = whiten(advantages_BL, mask_BL)
        advantages = [row[:n] for row, n in zip(advantages_BL, counts, strict=True)]
    metrics["advantage_mean"], metrics["advantage_std"] = float(raw.mean()), float(raw.std(unbiased=False))
    metrics["advantage_min"], metrics["advantage_max"] = float(raw.min()), float(raw.max())
    return advantages, returns, metrics


def at_predictions(episode: Episode, by_token: np.ndarray) -> np.ndarray:
    """The entries of the tokens that the policy generated (position 0 cannot be one), as fp32."""
    return np.ascontiguousarray(by_token[1:][episode.loss_mask[1:]], dtype=np.float32)


def _explanation_end(episode: Episode) -> Tensor:
    marks = np.zeros(len(episode.token_ids), dtype=np.float32)
    if episode.explanation_end >= 0:
        marks[episode.explanation_end] = 1.0
    return torch.from_numpy(at_predictions(episode, marks))


def _differences(a: Sequence[Tensor], b: Sequence[Tensor]) -> list[Tensor]:
    return [x - y for x, y in zip(a, b, strict=True)]


def _pad(rows: Sequence[Tensor]) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)


def staleness(episodes: Sequence[Episode], current: int) -> dict[str, float]:
    """How many versions behind `current` tokens were sampled: the mean of the episodes' means, and the oldest token."""
    behind = [current - e.weight_versions[e.loss_mask] for e in episodes]
    oldest = max(float(token.max()) for token in behind)
    return {"staleness_mean": float(np.mean([token.mean() for token in behind])), "staleness_max": oldest}

"""The policy update on one rank: score the batch, turn rewards into advantages, take the optimizer steps.

METHOD section 3 whole: PPO, RLOO, GRPO, REINFORCE++; KL in the reward or the loss; TIS; both aggregations. Each rank
scores its packed share, all results are gathered, and every rank computes the same advantages of the global batch.
Not covered: rewards themselves, groups to be replaced (the stage's), Ray.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from actors.failures import NonFiniteSteps
from actors.micro_batches import MicroBatch, Packer, Sequences, chunks_of
from actors.sharded_model import ShardedModel, all_gather, all_sum
from ledex_ray.advantages import comparable, explained_variance, gae, grpo, rewards_to_go, rloo, whiten
from ledex_ray.config import PPOConfig
from ledex_ray.episodes import Episode
from ledex_ray.losses import (
    adapted_kl_coef,
    importance_weights,
    kl_estimate,
    policy_loss,
    token_weights,
    value_loss,
)

Reference = Callable[[Any, Tensor], Tensor]
"""(row, temperatures) -> log-probabilities [N] of the frozen policy."""


@dataclass
class RunningDeviation:
    """Standard deviation of all returns seen (Chan et al.'s update); 1 before the first."""

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
        return deviation if deviation > 1e-6 else 1.0


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
    old: list[Tensor] | None  # None: the one step's own log-probabilities, detached, are the old ones
    reference: list[Tensor] | None
    values: list[Tensor] | None  # in units of the rewards


class PPOUpdate:
    """One rank's part in `LearnerGroup.ppo_update`."""

    def __init__(
        self,
        config: PPOConfig,
        policy: ShardedModel,
        critic: ShardedModel | None,
        reference: Reference | None,
        packer: Packer,
        *,
        separated: bool = False,
    ) -> None:
        self.config = config
        self.policy = policy
        self.critic = critic
        self.reference = reference
        self.packer = packer
        self.separated = separated
        self.state = PPOState(config.kl_coef)
        self.weights_version = 0  # what the engines were last given; staleness counts from it

    def run(self, episodes: Sequence[Episode], iteration: int) -> dict[str, float]:
        """Metrics of all steps on these episodes. Raises NonFiniteSteps after three bad steps in a row."""
        started = time.monotonic()
        usable = self._usable(episodes)
        if not usable:
            return {"n_scored": 0.0, "tokens": 0.0, "seconds": time.monotonic() - started, "skipped_steps": 0.0}
        torch.manual_seed(self.config.seed * 1_000_003 + iteration)
        scored = self._score(usable, iteration)
        advantages, returns, metrics = self._advantages(scored)
        metrics |= _staleness(usable, self.weights_version)
        sums = _Sums()
        for epoch in range(self.config.epochs):
            order = np.random.default_rng([self.config.seed, iteration, epoch]).permutation(len(usable))
            for items in chunks_of([int(i) for i in order], self.config.minibatch_episodes):
                self._step(items, scored, advantages, returns, iteration, sums)
        metrics |= sums.means()
        if "kl_new" in metrics:
            metrics.setdefault("kl", metrics["kl_new"])
        if self.config.kl_target is not None and math.isfinite(metrics.get("kl", math.nan)):
            self.state.kl_coef = adapted_kl_coef(self.state.kl_coef, metrics["kl"], self.config.kl_target)
        tokens = sum(len(episode.token_ids) for episode in usable)
        return metrics | {
            "n_scored": float(len(usable)),
            "tokens": float(tokens),
            "seconds": time.monotonic() - started,
        }

    def _usable(self, episodes: Sequence[Episode]) -> list[Episode]:
        """Episodes with a trustworthy reward; for group estimators, those with something to be compared with."""
        scored = [e.scored and not (self.config.mask_truncated and e.truncated) for e in episodes]
        if self.config.algorithm in ("grpo", "rloo"):
            scored = comparable([e.group_id for e in episodes], scored)
        return [episode for episode, good in zip(episodes, scored, strict=True) if good]

    def _score(self, episodes: list[Episode], iteration: int) -> Scored:
        config = self.config
        sequences = Sequences([e.token_ids for e in episodes], [e.loss_mask for e in episodes])
        temperatures = [e.temperature for e in episodes]
        behaviour = [torch.from_numpy(_at_predictions(e, e.behaviour_log_probs)) for e in episodes]
        one_step = config.epochs == 1 and len(episodes) <= config.minibatch_episodes
        kl_in_reward = self.reference is not None and config.kl_placement == "reward"
        needs_old = config.old_policy == "recomputed" and (not one_step or kl_in_reward)
        has_value = config.algorithm == "ppo"

        def visit(micro_batch: MicroBatch) -> dict[str, Tensor]:
            temperature_N = micro_batch.spread(temperatures, dummy=1.0)
            found: dict[str, Tensor] = {}
            if needs_old or (has_value and self.critic is None):
                log_probs_N, _, values_N = self.policy.engine(micro_batch.row, temperature_N)
                found["old"] = log_probs_N
                if values_N is not None:
                    found["values"] = values_N
            if self.critic is not None:
                found["values"] = self.critic.engine(micro_batch.row)
            if self.reference is not None:
                found["reference"] = self.reference(micro_batch.row, temperature_N)
            return found

        with self.policy.evaluating():
            found = self.packer.map(sequences, visit)
        values = found.get("values")
        if values is not None:
            values = [value * self.state.returns.value for value in values]
        old = behaviour if config.old_policy == "behaviour" else found.get("old")
        return Scored(episodes, sequences, behaviour, old, found.get("reference"), values)

    def _advantages(self, scored: Scored) -> tuple[list[Tensor], list[Tensor] | None, dict[str, float]]:
        """(advantages, returns in units of the rewards, metrics), by episode; the same on every rank."""
        config, counts = self.config, scored.sequences.counts
        task = [torch.from_numpy(_at_predictions(e, e.rewards)) for e in scored.episodes]
        metrics = {"reward_mean": float(np.mean([e.score for e in scored.episodes]))}
        rewards = task
        if scored.reference is not None and scored.old is not None:
            metrics["kl"] = float(torch.cat(_differences(scored.old, scored.reference)).mean())
            if config.kl_placement == "reward":
                estimates = [
                    kl_estimate(old, ref, config.kl_estimator)
                    for old, ref in zip(scored.old, scored.reference, strict=True)
                ]
                rewards = [r - self.state.kl_coef * kl for r, kl in zip(task, estimates, strict=True)]
        metrics["kl_coef"] = self.state.kl_coef if self.reference is not None else 0.0
        returns: list[Tensor] | None = None
        if config.algorithm in ("grpo", "rloo"):
            estimate = grpo if config.algorithm == "grpo" else rloo
            scores = estimate([float(r.sum()) for r in rewards], [e.group_id for e in scored.episodes])
            advantages = [torch.full((n,), score) for n, score in zip(counts, scores, strict=True)]
        else:
            rewards_BL, mask_BL = _pad(rewards), _pad([torch.ones(n) for n in counts]).bool()
            ends_BL = _pad([_explanation_end(e) for e in scored.episodes]).bool() if self.separated else None
            if scored.values is not None:
                advantages_BL, returns_BL = gae(
                    rewards_BL, _pad(scored.values), mask_BL, config.gamma, config.lam, ends_BL
                )
                returns = [row[:n] for row, n in zip(returns_BL, counts, strict=True)]
                flat = torch.cat(returns)
                metrics["explained_variance"] = explained_variance(torch.cat(scored.values), flat)
                metrics["return_mean"], metrics["return_std"] = float(flat.mean()), float(flat.std(unbiased=False))
                if bool(flat.isfinite().all()):  # a bad reward costs its step, not the scale of all later ones
                    self.state.returns.add(flat)
            else:
                advantages_BL = rewards_to_go(rewards_BL, mask_BL, config.gamma, ends_BL)
            metrics["advantage_mean"] = float(advantages_BL[mask_BL].mean())
            metrics["advantage_std"] = float(advantages_BL[mask_BL].std(unbiased=False))
            if config.whiten_advantages or config.algorithm == "reinforce++":
                advantages_BL = whiten(advantages_BL, mask_BL)
            advantages = [row[:n] for row, n in zip(advantages_BL, counts, strict=True)]
        everything = torch.cat(advantages)
        metrics["advantage_min"], metrics["advantage_max"] = float(everything.min()), float(everything.max())
        return advantages, returns, metrics

    def _step(
        self,
        items: list[int],
        scored: Scored,
        advantages: list[Tensor],
        returns: list[Tensor] | None,
        iteration: int,
        sums: _Sums,
    ) -> None:
        config, values = self.config, scored.values
        sequences = scored.sequences.subset(items)
        weights = token_weights(sequences.counts, config.loss_aggregation)
        warming = values is not None and iteration < config.critic_warmup
        scale = self.state.returns.value
        chosen = _Chosen(
            weights,
            [scored.episodes[i].temperature for i in items],
            {
                "advantages": [advantages[i] for i in items],
                "behaviour": [scored.behaviour[i] for i in items],
                **({"old": [scored.old[i] for i in items]} if scored.old is not None else {}),
                **({"reference": [scored.reference[i] for i in items]} if scored.reference is not None else {}),
                **({"values": [values[i] / scale for i in items]} if values is not None else {}),
                **({"returns": [returns[i] / scale for i in items]} if returns is not None else {}),
            },
        )
        shares = self.packer.share(sequences)
        result = None
        if not (warming and self.critic is not None):
            result = self.policy.step(
                [self._policy_closure(share, chosen, sums, warming) for share in shares], head_alone=warming
            )
        if self.critic is not None:
            critic_result = self.critic.step([self._critic_closure(share, chosen, sums) for share in shares])
            result = result or critic_result
        assert result is not None
        ids = [scored.episodes[i].id for i in items]
        sums.step(result.grad_norm, result.lr, applied=result.applied)
        self.state.skipped_in_a_row = 0 if result.applied else self.state.skipped_in_a_row + 1
        if self.state.skipped_in_a_row >= 3:
            raise NonFiniteSteps(ids)

    def _policy_closure(self, share: MicroBatch, chosen: _Chosen, sums: _Sums, warming: bool) -> Callable[[], Tensor]:
        def compute() -> Tensor:
            batch = chosen.of(share)
            temperature_N = share.spread(chosen.temperatures, dummy=1.0)
            log_probs_N, entropy_N, values_N = self.policy.engine(
                share.row, temperature_N, with_entropy=not warming, values_alone=warming
            )
            loss = torch.zeros((), device=temperature_N.device)
            if values_N is not None:
                loss = loss + self._value_term(values_N, batch, sums)
            if not warming:
                loss = loss + self._policy_term(log_probs_N, entropy_N, batch, sums)
            return loss

        return compute

    def _critic_closure(self, share: MicroBatch, chosen: _Chosen, sums: _Sums) -> Callable[[], Tensor]:
        assert self.critic is not None
        engine = self.critic.engine
        return lambda: self._value_term(engine(share.row), chosen.of(share), sums)

    def _value_term(self, values_N: Tensor, batch: Mapping[str, Tensor], sums: _Sums) -> Tensor:
        loss_N = value_loss(values_N, batch["returns"], batch["values"], self.config.value_clip)
        sums.add("value_loss", loss_N, batch["weights"])
        return self.config.value_coef * (loss_N * batch["weights"]).sum()

    def _policy_term(self, new_N: Tensor, entropy_N: Tensor, batch: Mapping[str, Tensor], sums: _Sums) -> Tensor:
        config, weights_N = self.config, batch["weights"]
        old_N = batch.get("old", new_N.detach())
        loss_N, clipped_N = policy_loss(
            new_N,
            old_N,
            batch["advantages"],
            clip_low=config.clip_range,
            clip_high=config.clip_range_high or config.clip_range,
            dual_clip=config.dual_clip,
        )
        gap_N = old_N - batch["behaviour"]
        if config.old_policy == "recomputed":
            tis_N = importance_weights(old_N, batch["behaviour"], config.tis_cap)
            loss_N = loss_N * tis_N
            sums.add("tis_clip_fraction", gap_N > math.log(config.tis_cap), weights_N)
            sums.add("tis_weight_mean", tis_N, weights_N)
        sums.add("policy_loss", loss_N, weights_N)
        sums.add("clip_fraction", clipped_N, weights_N)
        sums.add("ratio_mean", torch.exp(new_N - old_N), weights_N)
        sums.add("entropy", entropy_N, weights_N)
        real_N = weights_N > 0
        sums.add("behaviour_gap_mean", gap_N.abs(), weights_N)
        sums.largest("behaviour_gap_max", gap_N.abs()[real_N])
        total_N = loss_N - config.entropy_coef * entropy_N if config.entropy_coef else loss_N
        if "reference" in batch:
            sums.add("kl_new", new_N - batch["reference"], weights_N)
            if config.kl_placement == "loss":
                kl_N = kl_estimate(new_N, batch["reference"], config.kl_estimator)
                total_N = total_N + self.state.kl_coef * kl_N
        return (total_N * weights_N).sum()


@dataclass(frozen=True, eq=False)
class _Chosen:
    """One minibatch's per-token inputs, by sequence."""

    weights: list[float]
    temperatures: list[float]
    tensors: dict[str, list[Tensor]]

    def of(self, share: MicroBatch) -> dict[str, Tensor]:
        found = {name: share.gather(parts) for name, parts in self.tensors.items()}
        return found | {"weights": share.spread(self.weights)}


class _Sums:
    """Metrics as weighted sums over all micro-batches of all ranks; weights of one minibatch add up to 1."""

    def __init__(self) -> None:
        self.totals: dict[str, float] = {}
        self.weights: dict[str, float] = {}
        self.maxima: dict[str, float] = {}
        self.norms: list[float] = []
        self.lr = 0.0
        self.skipped = 0

    def add(self, name: str, values_N: Tensor, weights_N: Tensor) -> None:
        self.totals[name] = self.totals.get(name, 0.0) + float((values_N.detach().double() * weights_N).sum())
        self.weights[name] = self.weights.get(name, 0.0) + float(weights_N.double().sum())

    def largest(self, name: str, values: Tensor) -> None:
        self.maxima[name] = max(self.maxima.get(name, 0.0), float(values.max()) if values.numel() else 0.0)

    def step(self, grad_norm: float, lr: float, *, applied: bool) -> None:
        self.lr = lr
        if applied:
            self.norms.append(grad_norm)
        else:
            self.skipped += 1

    def means(self) -> dict[str, float]:
        """The same on every rank (a collective: every rank has added under the same names)."""
        names = sorted(self.totals)
        summed = all_sum(torch.tensor([[self.totals[n] for n in names], [self.weights[n] for n in names]]).double())
        means = {n: float(summed[0, i] / summed[1, i]) for i, n in enumerate(names) if float(summed[1, i]) > 0}
        for name in sorted(self.maxima):
            means[name] = max(all_gather(self.maxima[name]))
        return means | {
            "grad_norm": float(np.mean(self.norms)) if self.norms else math.nan,
            "lr": self.lr,
            "skipped_steps": float(self.skipped),
            "steps": float(len(self.norms)),
        }


def _at_predictions(episode: Episode, by_token: np.ndarray) -> np.ndarray:
    """The entries of the tokens that the policy generated (position 0 cannot be one), as fp32."""
    return np.ascontiguousarray(by_token[1:][episode.loss_mask[1:]], dtype=np.float32)


def _explanation_end(episode: Episode) -> Tensor:
    marks = np.zeros(len(episode.token_ids), dtype=np.float32)
    if episode.explanation_end >= 0:
        marks[episode.explanation_end] = 1.0
    return torch.from_numpy(_at_predictions(episode, marks))


def _differences(a: Sequence[Tensor], b: Sequence[Tensor]) -> list[Tensor]:
    return [x - y for x, y in zip(a, b, strict=True)]


def _pad(rows: Sequence[Tensor]) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)


def _staleness(episodes: Sequence[Episode], current: int) -> dict[str, float]:
    newest = max(current, *(int(e.weight_versions[e.loss_mask].max()) for e in episodes))
    behind = [float(newest - e.weight_versions[e.loss_mask].mean()) for e in episodes]
    return {"staleness_mean": float(np.mean(behind)), "staleness_max": float(max(behind))}

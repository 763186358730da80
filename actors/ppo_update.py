"""The policy update on one rank: score the batch, estimate advantages, take the optimizer steps.

method.md, 3: PPO, RLOO, GRPO, REINFORCE++; KL in the reward or the loss; TIS; both aggregations. Each rank scores
its packed share, all results are gathered, and every rank estimates the same advantages (ppo_batch.py). Not covered:
rewards themselves, groups to be replaced (the stage's), Ray.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from actors.failures import NonFiniteSteps
from actors.micro_batches import MicroBatch, Packer, Sequences, even_chunks
from actors.ppo_batch import PPOState, Scored, at_predictions, estimate, shuffled_groups, staleness, usable
from actors.sharded_model import ShardedModel, all_gather, all_sum
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

    def run(self, episodes: Sequence[Episode], iteration: int) -> dict[str, float]:
        """Metrics of all steps on these episodes. Raises NonFiniteSteps after three bad steps in a row."""
        started = time.monotonic()
        chosen = usable(self.config, episodes)
        if not chosen:
            return {"n_used": 0.0, "tokens": 0.0, "seconds": time.monotonic() - started, "skipped_steps": 0.0}
        torch.manual_seed(self.config.seed * 1_000_003 + iteration)
        scored = self._score(chosen)
        advantages, returns, metrics = estimate(self.config, self.state, scored, separated=self.separated)
        metrics |= staleness(chosen, iteration)
        sums = _Sums()
        for epoch in range(self.config.epochs):
            order = shuffled_groups(chosen, np.random.default_rng([self.config.seed, iteration, epoch]))
            for items in even_chunks(order, self.config.minibatch_episodes):
                self._step(items, scored, advantages, returns, iteration, sums)
        metrics |= sums.means()
        if "kl_new" in metrics:
            metrics.setdefault("kl", metrics["kl_new"])
        if self.config.kl_target is not None and math.isfinite(metrics.get("kl", math.nan)):
            self.state.kl_coef = adapted_kl_coef(self.state.kl_coef, metrics["kl"], self.config.kl_target)
        tokens = sum(len(episode.token_ids) for episode in chosen)
        return metrics | {
            "n_used": float(len(chosen)),
            "tokens": float(tokens),
            "seconds": time.monotonic() - started,
        }

    def _score(self, episodes: list[Episode]) -> Scored:
        config = self.config
        sequences = Sequences([e.token_ids for e in episodes], [e.loss_mask for e in episodes])
        temperatures = [e.temperature for e in episodes]
        behaviour = [torch.from_numpy(at_predictions(e, e.behaviour_log_probs)) for e in episodes]
        one_step = config.epochs == 1 and len(episodes) <= config.minibatch_episodes
        kl_in_reward = self.reference is not None and config.kl_placement == "reward"
        needs_learner = kl_in_reward or (config.old_policy == "recomputed" and not one_step)
        has_value = config.algorithm == "ppo"

        def visit(micro_batch: MicroBatch) -> dict[str, Tensor]:
            temperature_N = micro_batch.spread(temperatures, dummy=1.0)
            found: dict[str, Tensor] = {}
            if needs_learner or (has_value and self.critic is None):
                log_probs_N, _, values_N = self.policy.engine(micro_batch.row, temperature_N)
                found["learner"] = log_probs_N
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
        learner = found.get("learner")
        old = behaviour if config.old_policy == "behaviour" else learner
        return Scored(episodes, sequences, behaviour, learner, old, found.get("reference"), values)

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
                **({"learner": [scored.learner[i] for i in items]} if scored.learner is not None else {}),
                **({"reference": [scored.reference[i] for i in items]} if scored.reference is not None else {}),
                **({"values": [values[i] / scale for i in items]} if values is not None else {}),
                **({"returns": [returns[i] / scale for i in items]} if returns is not None else {}),
            },
        )
        shares = self.packer.share(sequences)
        results = []
        if not (warming and self.critic is not None):
            closures = [self._policy_closure(share, chosen, sums, warming) for share in shares]
            results.append(self.policy.step(closures, head_alone=warming))
        if self.critic is not None:
            results.append(self.critic.step([self._critic_closure(share, chosen, sums) for share in shares]))
        applied = all(result.applied for result in results)
        sums.step(results[0].grad_norm, results[0].lr, applied=applied)
        self.state.skipped_in_a_row = 0 if applied else self.state.skipped_in_a_row + 1
        if self.state.skipped_in_a_row >= 3:
            raise NonFiniteSteps([scored.episodes[i].id for i in items])

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
        gap_N = batch.get("learner", new_N.detach()) - batch["behaviour"]
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

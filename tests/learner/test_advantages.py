"""Advantages: GAE equals RLlib's on every ragged batch; the separated form; group estimators; whitening."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.micro_batches import Sequences, even_chunks
from actors.ppo_batch import PPOState, RunningDeviation, Scored, estimate, staleness, usable
from ledex_ray.advantages import comparable, gae, grpo, informative, rewards_to_go, rloo, whiten
from ledex_ray.config import PPOConfig
from ledex_ray.episodes import Episode

FLOATS = st.floats(-5, 5, width=32)
EPISODES = st.lists(st.lists(st.tuples(FLOATS, FLOATS), min_size=1, max_size=20), min_size=1, max_size=6)
SHARES = st.floats(0, 1, width=32)


def ragged(rows: list[list[tuple[float, float]]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(rewards, values, mask), garbage beyond the mask."""
    longest = max(map(len, rows))
    rewards, values, mask = torch.full((3, len(rows), longest), 7.0).unbind()
    mask = torch.zeros(len(rows), longest, dtype=torch.bool)
    for i, row in enumerate(rows):
        rewards[i, : len(row)] = torch.tensor([r for r, _ in row])
        values[i, : len(row)] = torch.tensor([v for _, v in row])
        mask[i, : len(row)] = True
    return rewards, values, mask


@pytest.mark.slow
@settings(max_examples=60)
@given(EPISODES, SHARES, SHARES)
def test_gae_equals_rllibs_value_targets(rows: list[list[tuple[float, float]]], gamma: float, lam: float) -> None:
    from ray.rllib.utils.postprocessing.value_predictions import compute_value_targets

    rewards, values, mask = ragged(rows)
    advantages, returns = gae(rewards, values, mask, gamma, lam)
    for i, row in enumerate(rows):
        n = len(row)
        ends = np.arange(n) == n - 1
        targets = compute_value_targets(
            values=values[i, :n].numpy(),
            rewards=rewards[i, :n].numpy(),
            terminateds=ends.astype(np.float32),
            truncateds=np.zeros(n, dtype=np.float32),
            gamma=gamma,
            lambda_=lam,
        )
        np.testing.assert_allclose(returns[i, :n].numpy(), targets, atol=1e-4, rtol=1e-4)
        np.testing.assert_allclose(advantages[i, :n].numpy(), targets - values[i, :n].numpy(), atol=1e-4, rtol=1e-4)
    assert not advantages[~mask].any() and not returns[~mask].any()


@given(EPISODES, SHARES, SHARES, st.data())
def test_separated_gae_is_two_episodes_end_to_end(
    rows: list[list[tuple[float, float]]], gamma: float, lam: float, data: st.DataObject
) -> None:
    rewards, values, mask = ragged(rows)
    ends = torch.zeros_like(mask)
    cuts = [data.draw(st.integers(0, len(row) - 1)) for row in rows]
    for i, cut in enumerate(cuts):
        ends[i, cut] = True
    advantages, _ = gae(rewards, values, mask, gamma, lam, ends)
    for i, (row, cut) in enumerate(zip(rows, cuts, strict=True)):
        parts = [part for part in (row[: cut + 1], row[cut + 1 :]) if part]
        expected = torch.cat([gae(*ragged([part]), gamma, lam)[0][0] for part in parts])
        torch.testing.assert_close(advantages[i, : len(row)], expected)


def test_what_a_refinement_earns_does_not_reach_a_separated_explanation() -> None:
    ends = torch.tensor([[False, True, False, False]])
    mask, values = torch.ones(1, 4, dtype=torch.bool), torch.zeros(1, 4)
    low, high = torch.tensor([[0.0, 1.0, 0.0, 2.0]]), torch.tensor([[0.0, 1.0, 0.0, 9.0]])
    assert torch.equal(gae(low, values, mask, 1, 1, ends)[0][:, :2], gae(high, values, mask, 1, 1, ends)[0][:, :2])
    assert not torch.equal(gae(low, values, mask, 1, 1)[0][:, :2], gae(high, values, mask, 1, 1)[0][:, :2])


def test_rewards_to_go_discount() -> None:
    mask = torch.ones(1, 3, dtype=torch.bool)
    assert rewards_to_go(torch.tensor([[1.0, 0.0, 4.0]]), mask, 0.5).tolist() == [[2.0, 2.0, 4.0]]


def test_rloo_compares_with_the_mean_of_the_others() -> None:
    assert rloo([1.0, 2.0, 6.0, 5.0, 5.0], ["a", "a", "a", "b", "b"]) == pytest.approx([-3.0, -1.5, 4.5, 0.0, 0.0])


def test_grpo_divides_by_the_groups_sample_deviation() -> None:
    assert grpo([0.0, 2.0, 4.0], ["a"] * 3, eps=0.0) == pytest.approx([-1.0, 0.0, 1.0])


def test_a_group_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="group b has one member"):
        rloo([1.0, 2.0, 3.0], ["a", "a", "b"])


def test_unscored_members_leave_a_group_and_a_group_of_one_goes() -> None:
    assert comparable(["a", "a", "b", "b", "b"], [True, False, True, True, False]) == [False, False, True, True, False]


def test_groups_whose_scores_do_not_vary_are_filtered() -> None:
    kept = informative([1.0, 1.0, 1.0, 2.0, 3.0, 9.0], list("aabbcc"), [True, True, True, True, True, False])
    assert kept == [False, False, True, True, False, False]


@given(EPISODES)
def test_whitening_ignores_what_is_masked(rows: list[list[tuple[float, float]]]) -> None:
    rewards, _, mask = ragged(rows)
    white = whiten(rewards, mask)
    assert not white[~mask].any()
    assert float(white[mask].mean()) == pytest.approx(0.0, abs=1e-4)
    if float(rewards[mask].std(unbiased=False)) > 1e-3:
        assert float(white[mask].std(unbiased=False)) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("value", [0.0, 1.7808902263641357, -5.0])
def test_whitening_makes_no_advantage_of_rounding(value: float) -> None:
    values, mask = torch.full((3, 7), value), torch.ones(3, 7, dtype=torch.bool)
    assert not whiten(values, mask).any()
    assert not whiten(values * (1 + 1e-7 * torch.randn(3, 7, generator=torch.Generator().manual_seed(0))), mask).any()
    assert not whiten(values, torch.zeros_like(mask)).any()


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ({"algorithm": "ppo"}, ["a", "b", "c", "cut"]),
        ({"algorithm": "ppo", "mask_truncated": True}, ["a", "b", "c"]),
        ({"algorithm": "grpo", "filter_groups": True}, ["a", "b", "c", "cut"]),
        ({"algorithm": "grpo", "filter_groups": True, "mask_truncated": True}, []),  # what is left does not vary
    ],
)
def test_what_an_update_uses_depends_on_what_it_masks(given_: dict[str, Any], expected: list[str]) -> None:
    config = PPOConfig(**given_, kl_placement="loss", kl_estimator="k3")
    group = [answer(name, 2.0) for name in ("a", "b", "c")]
    group += [answer("cut", -5.0, truncated=True), answer("infra", 9.0, scored=False)]
    assert [e.id for e in usable(config, group)] == expected


def answer(id: str, reward: float, **changes: object) -> Episode:
    rewards = np.array([0, 0, reward], np.float32)
    ids, mask, versions = np.arange(3, dtype=np.int32), np.array([False, True, True]), np.array([-1, 0, 0], np.int32)
    made = Episode(id, "g", "p", "direct", ids, mask, np.zeros(3, np.float32), versions, rewards, -1, 1.0)
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("episodes", "most", "sizes"), [(128, 64, [64, 64]), (72, 64, [36, 36]), (5, 2, [2, 2, 1]), (0, 4, [])]
)
def test_minibatches_are_equally_long(episodes: int, most: int, sizes: list[int]) -> None:
    chunks = list(even_chunks(range(episodes), most))
    assert [len(chunk) for chunk in chunks] == sizes and [i for c in chunks for i in c] == list(range(episodes))


@pytest.mark.parametrize("returns", [[-5.0, -5.0], [-5.0, -5.0001], [5.0, 5.0]])
def test_targets_of_returns_that_hardly_differ_stay_small(returns: list[float]) -> None:
    deviation = RunningDeviation()
    deviation.add(torch.tensor(returns))
    assert max(abs(r) for r in returns) / deviation.value <= 10.1


def test_returns_that_differ_are_divided_by_their_deviation() -> None:
    deviation = RunningDeviation()
    assert deviation.value == 1
    deviation.add(torch.zeros(3))
    assert deviation.value == 1
    for batch in ([1.0, 5.0], [-4.0, 2.0, 8.0]):
        deviation.add(torch.tensor(batch))
    assert deviation.value == pytest.approx(np.std([0, 0, 0, 1, 5, -4, 2, 8]))


def test_staleness_counts_from_the_update_to_each_generated_tokens_version() -> None:
    swapped = answer("swapped in the middle", 1.0, weight_versions=np.array([-1, 3, 5], np.int32))
    replayed = answer("of a replayed batch", 1.0, weight_versions=np.array([-1, 4, 4], np.int32))
    assert staleness([swapped, replayed], 5) == {"staleness_mean": 1.0, "staleness_max": 2.0}
    assert staleness([replayed], 4) == {"staleness_mean": 0.0, "staleness_max": 0.0}


@pytest.mark.parametrize("settings_", [{}, {"algorithm": "grpo"}, {"algorithm": "reinforce++"}])
def test_advantage_metrics_are_of_one_scale_before_whitening(settings_: dict[str, Any]) -> None:
    config = PPOConfig(**settings_, kl_placement="loss", kl_estimator="k3")
    batch = [answer("a", 900.0), answer("b", -100.0)]
    logprobs, values = [torch.zeros(2)] * 2, [torch.zeros(2)] * 2 if config.algorithm == "ppo" else None
    sequences = Sequences([e.token_ids for e in batch], [e.loss_mask for e in batch])
    scored = Scored(batch, sequences, logprobs, logprobs, logprobs, None, values)
    advantages, _, metrics = estimate(config, PPOState(0.0), scored, separated=False)
    low, mean, high = (metrics[f"advantage_{name}"] for name in ("min", "mean", "max"))
    assert low < mean < high and 0 < metrics["advantage_std"] <= (high - low) / 2 + 1e-3
    if config.algorithm != "grpo":
        assert low == pytest.approx(-100, rel=0.06) and high == 900  # the rewards themselves, before whitening
        assert torch.cat(advantages).abs().max() < 2


def test_a_group_whose_rewards_agree_is_moved_by_its_kl_alone_and_by_no_more_than_the_coefficient() -> None:
    config = PPOConfig(algorithm="grpo", kl_coef=0.05)
    batch = [answer(id, -5.0) for id in "abcd"]
    own = [torch.tensor([0.0, kl]) for kl in (0.001, -0.002, 0.0, 0.001)]
    sequences = Sequences([e.token_ids for e in batch], [e.loss_mask for e in batch])
    scored = Scored(batch, sequences, own, own, own, [torch.zeros(2)] * 4, None)
    advantages, _, _ = estimate(config, PPOState(0.05), scored, separated=False)
    expected = [-0.05 * 4 / 3 * kl for kl in (0.001, -0.002, 0.0, 0.001)]  # less the mean of the others
    assert [float(a[0]) for a in advantages] == pytest.approx(expected, abs=1e-7)

"""The update's terms by token, against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ledex_ray.losses import (
    adapted_kl_coef,
    importance_weights,
    kl_estimate,
    policy_loss,
    token_weights,
    value_loss,
)


def ratio_of(*ratios: float) -> torch.Tensor:
    return torch.log(torch.tensor(ratios))


def test_the_clip_stops_the_gradient_only_where_it_would_go_further() -> None:
    new = ratio_of(1.5, 0.5, 1.5, 0.5).requires_grad_()
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0])
    loss, active = policy_loss(new, torch.zeros(4), advantages, clip_low=0.2, clip_high=0.2)
    assert loss.tolist() == pytest.approx([-1.2, -0.5, 1.5, 0.8])
    assert active.tolist() == [True, False, False, True]
    loss.sum().backward()
    assert new.grad is not None
    assert new.grad.tolist() == pytest.approx([0.0, -0.5, 1.5, 0.0])


def test_clip_high_leaves_more_room_upwards() -> None:
    loss, _ = policy_loss(ratio_of(1.5, 0.5), torch.zeros(2), torch.tensor([1.0, -1.0]), clip_low=0.2, clip_high=0.28)
    assert loss.tolist() == pytest.approx([-1.28, 0.8])


def test_dual_clip_bounds_a_negative_advantage() -> None:
    loss, active = policy_loss(
        ratio_of(10.0, 2.0, 10.0),
        torch.zeros(3),
        torch.tensor([-1.0, -1.0, 1.0]),
        clip_low=0.2,
        clip_high=0.2,
        dual_clip=3,
    )
    assert loss.tolist() == pytest.approx([3.0, 2.0, -1.2])
    assert active.tolist() == [True, False, True]


def test_importance_weights_are_capped_and_carry_no_gradient() -> None:
    old = ratio_of(0.5, 1.0, 8.0).requires_grad_()
    weights = importance_weights(old, torch.zeros(3), 2.0)
    assert weights.tolist() == pytest.approx([0.5, 1.0, 2.0])
    assert not weights.requires_grad


@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=8), st.lists(st.floats(0.01, 1), min_size=2, max_size=8))
def test_k1_and_k3_have_the_kl_as_expectation(p: list[float], q: list[float]) -> None:
    size = min(len(p), len(q))
    first, second = torch.tensor(p[:size]).double(), torch.tensor(q[:size]).double()
    first, second = first / first.sum(), second / second.sum()
    exact = float((first * (first / second).log()).sum())
    for estimator in ("k1", "k3"):
        expected = (first * kl_estimate(first.log(), second.log(), estimator)).sum()
        assert float(expected) == pytest.approx(exact, abs=1e-9)
    assert (kl_estimate(first.log(), second.log(), "k3") >= 0).all()


def test_k2_is_half_the_squared_difference() -> None:
    assert kl_estimate(torch.tensor([2.0]), torch.tensor([-1.0]), "k2").item() == 4.5


def test_value_loss_with_clip_takes_the_larger_error() -> None:
    values, returns, old = torch.tensor([1.0, 0.1]), torch.tensor([1.0, 1.0]), torch.tensor([0.0, 0.0])
    assert value_loss(values, returns, old).tolist() == pytest.approx([0.0, 0.405])
    assert value_loss(values, returns, old, clip=0.2).tolist() == pytest.approx([0.32, 0.405])


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20))
def test_weights_of_all_tokens_sum_to_one(counts: list[int]) -> None:
    for aggregation in ("token", "sequence"):
        weights = token_weights(counts, aggregation)
        assert math.isclose(sum(w * n for w, n in zip(weights, counts, strict=True)), 1.0)
    assert len(set(token_weights(counts, "token"))) == 1


def test_the_kl_coefficient_moves_toward_its_target_slowly() -> None:
    assert adapted_kl_coef(0.1, kl=10.0, target=1.0) == pytest.approx(0.102)
    assert adapted_kl_coef(0.1, kl=0.0, target=1.0) == pytest.approx(0.098)
    assert adapted_kl_coef(0.1, kl=1.0, target=1.0) == 0.1

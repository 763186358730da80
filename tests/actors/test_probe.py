"""Which engine is an update behind: told from noise that is larger than the update."""

from __future__ import annotations

import math

import numpy as np
import pytest

from actors.probe import Gap, lacking

TOKENS = 800  # four probe sequences of two hundred


@pytest.mark.parametrize("seed", range(5))
def test_an_engine_an_update_behind_is_told_although_its_noise_is_larger_than_the_update(seed: int) -> None:
    random = np.random.default_rng(seed)
    now = random.normal(-2, 1, TOKENS).astype(np.float32)
    before = (now + random.normal(0, 0.015, TOKENS)).astype(np.float32)
    noise = random.normal(0, 0.02, TOKENS)  # bf16
    assert np.abs(before - now).mean() < np.abs(noise).mean()
    assert abs(lacking(now + noise, now, before)) < 0.3
    assert lacking(before + noise, now, before) == pytest.approx(1, abs=0.3)


def test_a_small_update_says_nothing_of_an_engine() -> None:
    random = np.random.default_rng(0)
    now = random.normal(-2, 1, TOKENS)
    before = now + random.normal(0, 0.001, TOKENS)
    assert lacking(before + random.normal(0, 0.02, TOKENS), now, before) == 0
    assert lacking(now + 1, now, now) == 0  # the first iterations of a critic's warm-up change nothing


@pytest.mark.parametrize(
    ("gap", "fits"), [(Gap(0.05, 1), True), (Gap(0.2, 1), False), (Gap(0.01, 1, 0.9), False), (Gap(math.nan, 1), False)]
)
def test_what_fits(gap: Gap, fits: bool) -> None:
    assert gap.fits(0.1) is fits
    assert not Gap(0.01, 1, math.nan).fits(0.1)

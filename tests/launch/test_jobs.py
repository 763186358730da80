"""What is asked of the engines, and what happens to prompts without an answer."""

from __future__ import annotations

import logging
from itertools import pairwise

import pytest

from launch.jobs import Unanswered, item_seed, require_answers


def test_a_few_prompts_without_an_answer_are_said_and_many_end_the_stage(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        require_answers(0, 100, "given up")
        assert not caplog.records
        require_answers(1, 100, "given up")
    assert "1 of 100 prompts were given up and are left out" in caplog.text
    with pytest.raises(Unanswered, match="2 of 100"):
        require_answers(2, 100, "given up")


def test_no_two_items_are_answered_with_the_same_noise() -> None:
    seeds = sorted(item_seed(seed, f"p#{n}") for seed in range(3) for n in range(50))
    assert min(b - a for a, b in pairwise(seeds)) > 20  # the n answers of one take seeds in a row
    assert item_seed(0, "p", 1) == item_seed(0, "p", 1)

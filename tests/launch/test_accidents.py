"""A gang may be lost many times, but not for ever at one place."""

from __future__ import annotations

import pytest
from ray.exceptions import OutOfMemoryError

from actors.failures import GangLost
from launch.accidents import MOST, Accidents


def test_losses_at_different_places_never_end_a_run() -> None:
    accidents = Accidents("sft", 0)
    for step in range(1, 50):
        accidents.lost(GangLost("a node went"))
        accidents.reached(step)


def test_a_step_that_ends_every_gang_ends_the_run_though_those_before_it_are_repeated() -> None:
    accidents, losses = Accidents("sft", 20), 0
    with pytest.raises(GangLost):
        while True:
            for step in range(21, 25):
                accidents.reached(step)
            losses += 1
            accidents.lost(GangLost("out of memory"))
    assert losses == MOST


def test_a_gang_that_memory_ended_is_rebuilt_after_longer_and_longer_pauses() -> None:
    waited: list[float] = []
    accidents = Accidents("ppo", 0, waited.append)
    accidents.lost(GangLost("a node went"))
    assert waited == []
    for _ in range(3):
        error = GangLost("update: killed")
        error.__cause__ = OutOfMemoryError("the node was low on memory")
        accidents.lost(error)
    assert len(waited) == 3 and waited == sorted(set(waited)) and 60 < sum(waited) < 600

"""A gang may be lost many times, but not for ever at one place."""

from __future__ import annotations

import pickle

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


def test_machines_that_go_meet_the_gang_anywhere_and_end_no_run() -> None:
    accidents = Accidents("ppo", 14)
    for _ in range(MOST - 1):
        for work in ("send_weights", "ppo_update", "save", "export_model"):
            accidents.lost(GangLost("1 ranks silent for 60 s", work))
    with pytest.raises(GangLost, match=r"^save: 1 ranks"):
        accidents.lost(GangLost("1 ranks silent for 60 s", "save"))


def test_a_gang_that_memory_ended_is_rebuilt_after_longer_and_longer_pauses() -> None:
    waited: list[float] = []
    accidents = Accidents("ppo", 0, waited.append)
    accidents.lost(GangLost("a node went"))
    assert waited == []
    for _ in range(3):
        error = GangLost("killed", "update")
        error.__cause__ = OutOfMemoryError("the node was low on memory")
        accidents.lost(error)
    assert len(waited) == 3 and waited == sorted(set(waited)) and 60 < sum(waited) < 600


def test_what_a_gang_was_doing_survives_the_way_between_processes() -> None:
    again = pickle.loads(pickle.dumps(GangLost("died", "save")))
    assert (str(again), again.doing) == ("save: died", "save")

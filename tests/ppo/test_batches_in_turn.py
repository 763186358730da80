"""Whose turn it is: which batch has the engines, and when a GPU that is shared is the learner's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from actors.failures import GangLost
from launch.batches_ahead import BatchesAhead
from launch.debug_ppo import DebugPPO
from ledex_ray.config import PPOConfig, RolloutConfig
from ledex_ray.episodes import Episode


class Slow:
    """A collector whose batches are sampled, and then scored, when the test says so."""

    def __init__(self) -> None:
        self.begun = [threading.Event() for _ in range(3)]
        self.sampled = [threading.Event() for _ in range(3)]
        self.scored = [threading.Event() for _ in range(3)]

    def collect(
        self, assignments: int, *_: Any, sampled: Callable[[], None], called_off: Callable[[], bool], **__: Any
    ) -> Iterator[list[Episode]]:
        self.begun[assignments].set()
        self.sampled[assignments].wait(20)
        sampled()
        self.scored[assignments].wait(20)
        return iter(())


def training(collector: Slow) -> DebugPPO:
    found = DebugPPO.__new__(DebugPPO)
    found.settings = PPOConfig(mode="asynchronous", prompts_per_iteration=1, iterations=3)
    found.weights = SimpleNamespace(publish=lambda: None, ref=None)  # type: ignore[assignment]
    found.assignments = SimpleNamespace(take=lambda start, count: start)  # type: ignore[assignment]
    found.collector = collector  # type: ignore[assignment]
    found.batches = BatchesAhead(found._collect)
    return found


def test_the_next_batch_is_sampled_while_this_one_is_scored_and_not_before() -> None:
    collector = Slow()
    ppo = training(collector)
    done: list[Any] = []
    iteration = threading.Thread(target=lambda: done.append(ppo._episodes(0)))
    iteration.start()
    assert collector.begun[0].wait(20) and not collector.begun[1].wait(0.5)
    collector.sampled[0].set()
    assert collector.begun[1].wait(20) and not done
    collector.scored[0].set()
    iteration.join(20)
    assert done == [[]] and not collector.begun[2].is_set()


def test_a_batch_that_is_called_off_keeps_no_turn() -> None:
    collector = Slow()
    ppo = training(collector)
    for event in (collector.sampled[0], collector.scored[0]):
        event.set()
    assert ppo._episodes(0) == [] and collector.begun[1].wait(20)
    off = threading.Thread(target=ppo.batches.call_off)
    off.start()
    for event in (collector.sampled[1], collector.scored[1]):
        event.set()
    off.join(20)
    collector.begun[1].clear()
    assert ppo._episodes(1) == [] and collector.begun[1].is_set()
    for event in (collector.sampled[2], collector.scored[2]):
        event.set()
    ppo.batches.shutdown()


@pytest.mark.parametrize(
    ("gpus", "mode", "told"),
    [(0.5, "synchronous", ["sleep", "wake"]), (0.5, "asynchronous", []), (1, "synchronous", [])],
)
def test_an_engine_that_shares_a_gpu_sleeps_while_the_learner_trains(gpus: float, mode: str, told: list[str]) -> None:
    heard: list[str] = []
    engines = SimpleNamespace(
        config=RolloutConfig(gpus=gpus), sleep=lambda: heard.append("sleep"), wake=lambda: heard.append("wake")
    )
    ppo = DebugPPO.__new__(DebugPPO)
    ppo.settings = PPOConfig.model_validate({"mode": mode})
    ppo.session = SimpleNamespace(fleet=SimpleNamespace(rollout=engines))  # type: ignore[assignment]
    with pytest.raises(GangLost), ppo._engines_aside():
        assert heard == told[:1]
        raise GangLost("a rank died")
    assert heard == told

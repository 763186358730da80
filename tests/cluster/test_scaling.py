"""When a pool grows and shrinks, with a clock that the test moves; then real sandboxes that do."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st

from actors.sandbox import ScoreRequest
from actors.sandbox_group import SandboxGroup, last_ones
from actors.scaling import Scaler
from ledex_ray.config import SandboxConfig
from ledex_ray.problems import AssertTest, Problem
from reward.terms import TextJob


class Story:
    """A scaler for members that hold 10 items each, and a second hand."""

    def __init__(self, least: int = 1, most: int = 8) -> None:
        self.now, self.members = 0.0, least
        self.scaler = Scaler(
            least=least, most=most, per_member=10, grow_seconds=2, idle_seconds=30, clock=lambda: self.now
        )

    def seconds(self, count: int, waiting: int) -> int:
        """The members after so many seconds with so much waiting."""
        for _ in range(count):
            self.now += 1.0007  # real clocks do not strike full seconds
            self.members = self.scaler.wanted(self.members, waiting)
        return self.members


def test_it_grows_to_what_waits_once_that_has_lasted() -> None:
    story = Story()
    assert story.seconds(2, waiting=45) == 1
    assert story.seconds(1, waiting=45) == 5


def test_a_short_burst_changes_nothing() -> None:
    story = Story()
    story.seconds(5, waiting=3)
    story.seconds(1, waiting=80)
    assert story.seconds(5, waiting=3) == 1


def test_it_shrinks_only_after_a_long_lull_and_then_to_the_lulls_peak() -> None:
    story = Story()
    assert story.seconds(10, waiting=80) == 8
    assert story.seconds(29, waiting=15) == 8
    assert story.seconds(3, waiting=15) == 2
    assert story.seconds(40, waiting=0) == 1


def test_work_that_comes_in_rounds_keeps_its_members() -> None:
    story = Story()
    story.seconds(10, waiting=80)
    for _ in range(5):
        assert story.seconds(20, waiting=0) == 8
        assert story.seconds(5, waiting=80) == 8


@given(st.integers(1, 5), st.integers(0, 20), st.lists(st.integers(0, 10_000), min_size=1, max_size=80))
def test_it_stays_between_its_bounds(least: int, above: int, waiting: list[int]) -> None:
    story = Story(least, least + above)
    for count in waiting:
        assert least <= story.seconds(1, count) <= least + above


@given(st.dictionaries(st.text(max_size=3), st.sampled_from(["", "a", "b", "c"]), max_size=12), st.data())
def test_those_without_a_node_go_first_and_nodes_empty_one_after_the_other(
    nodes: dict[str, str], data: st.DataObject
) -> None:
    count = data.draw(st.integers(0, len(nodes)))
    going = last_ones(count, nodes)
    assert len(set(going)) == count
    homeless = [name for name in nodes if not nodes[name]]
    assert set(going[: len(homeless)]) <= set(homeless) or set(homeless) <= set(going)
    placed = Counter(node for node in nodes.values() if node)
    left = Counter(nodes[name] for name in nodes.keys() - set(going) if nodes[name])
    touched = [node for node in placed if 0 < left[node] < placed[node]]
    assert len(touched) <= 1  # never two nodes half empty


ADD = Problem("add", "Add.", (AssertTest("assert add(1, 2) == 3"),), "add")
SLOW = "def add(a, b):\n    import time\n    time.sleep(0.3)\n    return a + b\n"


def _requests(count: int) -> list[ScoreRequest]:
    return [ScoreRequest(f"r{i}", ADD, TextJob(f"r{i}", code=SLOW, entry_point="add")) for i in range(count)]


@pytest.mark.slow
def test_sandboxes_come_for_a_client_elsewhere_and_go_when_nothing_waits(ray_session: None) -> None:
    config = SandboxConfig(actors=1, max_actors=2, batch_size=2, idle_seconds=5.0, floor="C")
    group = SandboxGroup(config)

    @ray.remote(num_cpus=0)
    def elsewhere(client: object) -> list[str]:  # as Ray Data's tasks do
        return [str(r.verdict.status) for r in client.score(_requests(60))]  # type: ignore[attr-defined]

    try:
        assert len(group.actors) == 1
        call = elsewhere.remote(group.client())
        _until(lambda: len(group.actors) == 2, 60)
        assert ray.get(call, timeout=120) == ["PASSED"] * 60
        second = group.actors[max(group.actors)]
        _until(lambda: len(group.actors) == 1, 60)
        with pytest.raises(ray.exceptions.RayActorError):
            _until(lambda: not ray.get(second.ready.remote(), timeout=30), 30)  # it was ended, not only forgotten
        assert len(list(group.client().score(_requests(3)))) == 3
    finally:
        group.shutdown()


def _until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)

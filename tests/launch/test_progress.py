"""What a stage says of its progress: how far it is, and a time to go that counts this run's own work alone."""

from __future__ import annotations

import io
import logging
import time

import pytest
from rich.console import Console

import launch.console
from launch.console import task


class Clock:
    """A clock that the test moves on by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_the_time_to_go_of_a_resumed_stage_counts_what_this_run_did(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ledex")
    with task("sft", 100, done=40) as bar:
        for _ in range(10):
            clock.now += 5
            bar.advance()
        assert caplog.messages[-1].split("  ")[0] == "sft: 50/100, 50 s, about 250 s to go"


def test_going_back_to_a_checkpoint_begins_the_measurement_anew(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ledex")
    with task("ppo", 60) as bar:
        for _ in range(20):
            clock.now += 11
            bar.advance()
        clock.now += 1000  # an accident, and the way back
        bar.reach(10, note="gone back")
        assert caplog.messages[-1] == "ppo: 10/60, 0 s, time to go unknown  gone back"
        for done in range(11, 16):
            clock.now += 11
            bar.reach(done, note="reward 0.5")
        assert caplog.messages[-1] == "ppo: 15/60, 55 s, about 495 s to go  reward 0.5"


def test_on_a_terminal_a_resumed_stage_shows_a_bar_that_stands_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(launch.console, "console", Console(file=screen, force_terminal=True, width=120))
    with task("sft", 100, done=40) as bar:
        bar.advance(note="loss 0.5")
    assert "41/100" in screen.getvalue()
    with task("judging", 0) as bar:
        bar.advance(7, note="passed 3")
    assert "7/?" in screen.getvalue() and "passed 3" in screen.getvalue()
    assert "loss 0.5" in screen.getvalue()


def test_work_of_unknown_length_is_told_now_and_then(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ledex")
    with task("judging", 0) as bar:
        for n in range(1, 31):
            clock.now += 1
            bar.advance(note=f"passed {n}")
    assert caplog.messages == [f"judging: {n}, {n} s  passed {n}" for n in (10, 20, 30)]

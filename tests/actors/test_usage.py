"""Counting what actors did: overlapping work counts once, what was told is told once."""

from __future__ import annotations

from actors.usage import Busy, Counts


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_time_with_work_in_hand_counts_once_however_much_it_is() -> None:
    clock = Clock()
    busy = Busy(clock)
    clock.now = 5.0
    with busy:
        clock.now = 7.0
        with busy:
            clock.now = 8.0
            assert busy.seconds == 3.0 and busy.in_hand == 2
    clock.now = 20.0
    assert busy.seconds == 3.0
    with busy:
        clock.now = 21.0
        assert busy.seconds == 4.0


def test_work_that_raised_is_not_in_hand_for_ever() -> None:
    busy = Busy()
    try:
        with busy:
            raise ValueError
    except ValueError:
        pass
    assert busy.in_hand == 0


def test_events_are_taken_once_and_the_peak_starts_from_what_still_waits() -> None:
    counts = Counts()
    counts.add("retries", 2)
    counts.waiting(+5)
    counts.waiting(-3)
    assert counts.take() == {"deaths": 0, "stuck": 0, "retries": 2, "dropped": 0, "queue_peak": 5}
    counts.waiting(+1)
    assert counts.take()["queue_peak"] == 3 and counts.take()["retries"] == 0

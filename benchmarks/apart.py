"""The sides of a benchmark, each in a process of its own and in turns on the same cores.

A side marks the begin and the end of each of its steps, the first of which warms it up, and gives its figures as the
last line of its standard output.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import psutil

TIMEOUT_SECONDS = 3600.0


def run_apart(module: str, job: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """The figures of `python -m MODULE one JOB`. Raises RuntimeError with the end of what it wrote where it failed."""
    command = [sys.executable, "-m", module, "one", json.dumps(job)]
    surroundings = {**os.environ, **environment}
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
    if done.returncode:
        raise RuntimeError(f"{job['side']}: {done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def give(figures: Mapping[str, Any]) -> None:
    """What `run_apart` returns to the process that started this one."""
    sys.stdout.write("\n" + json.dumps(figures) + "\n")


class Steps:
    """Wall and CPU seconds of each step after the first."""

    def __init__(self) -> None:
        self._marks: list[tuple[float, float]] = []

    def mark(self) -> None:
        """A step begins or, every second time, ends."""
        self._marks.append((time.monotonic(), _cpu_seconds()))

    @contextmanager
    def step(self) -> Iterator[None]:
        """A step, from here to the end of the block."""
        self.mark()
        yield
        self.mark()

    @property
    def seconds(self) -> list[float]:
        """By the clock."""
        return self._differences(0)

    @property
    def cpu_seconds(self) -> list[float]:
        """Of this process and all that it started."""
        return self._differences(1)

    def _differences(self, index: int) -> list[float]:
        pairs = list(zip(self._marks[::2], self._marks[1::2], strict=True))
        return [end[index] - start[index] for start, end in pairs[1:]]


def _cpu_seconds() -> float:
    own = psutil.Process()
    total = 0.0
    for process in (own, *own.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            used = process.cpu_times()
            total += used.user + used.system + used.children_user + used.children_system
    return total

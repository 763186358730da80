"""What a person sees while a stage runs: a progress bar on a terminal, plain log lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(stderr=True, emoji=False)  # ":100:" is a line number here
if not console.is_terminal:
    console.width = 180  # a log file has room: tables stay readable
log = logging.getLogger("ledex")


def configure_logging(verbose: bool = False) -> None:
    """Sends the project's log lines to standard error; libraries speak up from warnings on."""
    level = logging.DEBUG if verbose else logging.INFO
    handler: logging.Handler
    if console.is_terminal:
        handler = RichHandler(console=console, show_path=False, rich_tracebacks=True)
        handler.setFormatter(logging.Formatter("%(message)s", datefmt="%H:%M:%S"))
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in ("ledex", "ledex_ray", "actors", "reward", "launch"):
        logging.getLogger(name).setLevel(level)


class Task:
    """One running piece of work: how far it is, and a word on how it goes. A total of 0: nobody knows it."""

    def __init__(self, title: str, total: int, done: int, progress: Progress | None, quiet_seconds: float) -> None:
        self.title, self.total, self.done = title, total, done
        self._progress, self._quiet_seconds = progress, quiet_seconds
        self._first = done  # what was done before, perhaps by another run, took a time that nobody knows
        self._start = self._last = time.monotonic()
        self._bar = progress.add_task(title, total=total or None, completed=done, note="") if progress else None

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Moves on by so many steps; `note` says how it goes (a loss, a pass rate)."""
        self.reach(self.done + steps, note)

    def reach(self, done: int, note: str = "") -> None:
        """Says where the work stands: further on, or back at a checkpoint, from where its time counts anew."""
        back, self.done = done < self.done, done
        if self._progress is not None and self._bar is not None:
            if back:
                self._progress.reset(self._bar, completed=done)
            self._progress.update(self._bar, completed=done, note=note)
            return
        now = time.monotonic()
        if back:
            self._first, self._start = done, now
        finished = 0 < self.total <= self.done
        if now - self._last < self._quiet_seconds and not finished:
            return
        self._last = now
        elapsed = now - self._start
        if not self.total:
            log.info("%s: %d, %.0f s  %s", self.title, self.done, elapsed, note)
            return
        # Work comes in blocks: the first of them says little about the rest.
        timed = self.done - self._first
        known = timed >= max(2, (self.total - self._first) // 20)
        left = f"about {elapsed / timed * (self.total - self.done):.0f} s to go" if known else "time to go unknown"
        log.info("%s: %d/%d, %.0f s, %s  %s", self.title, self.done, self.total, elapsed, left, note)


@contextmanager
def task(title: str, total: int, *, done: int = 0, quiet_seconds: float = 10.0) -> Iterator[Task]:
    """A piece of work with so many steps, some perhaps `done`: on a terminal a bar, elsewhere a line now and then.

    With `total` 0 nobody knows how many.
    """
    if not console.is_terminal:
        if total:
            log.info("%s: %d to do", title, total)
        yield Task(title, total, done, None, quiet_seconds)
        return
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("to go"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as progress:
        yield Task(title, total, done, progress, quiet_seconds)

"""One driver a run, where the run lies at a URL: an object store knows no locks, so the holder's heartbeat stands in.

The holder writes its name and a count into `.lease.json`, again and again. Who comes later watches it: a count that
moves means a living holder, and is refused; one that stands still for `STALE_SECONDS` belonged to a dead one, and is
taken over. No clocks are compared. Its limits: two drivers that begin within the same moment are told apart by who
wrote last, and a holder that was frozen (not killed) finds out at its next write: between that check and the write
itself nothing stops it.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from pathlib import Path

from actors.places import RemotePath
from ledex_ray.errors import BadInput

log = logging.getLogger(__name__)

NAME = ".lease.json"
BEAT_SECONDS = 10.0
STALE_SECONDS = 60.0
SETTLE_SECONDS = 2.0  # in which another one that found the run free at the same moment shows itself


class LeaseLost(RuntimeError):
    """Another driver has taken the run over: this one may write no more."""


class Lease:
    """The right to write a run. `note` is a local file under this machine's own lock."""

    def __init__(self, remote: RemotePath, note: Path) -> None:
        self._at, self._run, self._note = remote / NAME, remote, note
        self._id = uuid.uuid4().hex
        self._beats = 0
        self._over = threading.Event()
        self._beating = threading.Thread(target=self._beat, name="lease", daemon=True)

    def take(self) -> None:
        """Returns when this driver holds the run. BadInput where another one does, OSError where writing fails."""
        found = self._read()
        # Taken from this very folder, whose lock we have: its holder is gone.
        ours = found is not None and self._note.exists() and found["id"] == self._note.read_text(encoding="utf-8")
        if found and not ours:
            self._outwait(found)
        self._write()
        time.sleep(0.0 if ours else SETTLE_SECONDS)
        found = self._read()
        if found is None or found["id"] != self._id:
            raise self._refusal(found)
        self._note.write_text(self._id, encoding="utf-8")
        self._beating.start()

    def check(self) -> None:
        """Raises LeaseLost where this driver no longer holds the run."""
        found = self._read()
        if found is None or found["id"] != self._id:
            raise LeaseLost(f"{self._run} was taken over by {found['owner'] if found else 'another driver'}")

    def release(self) -> None:
        """Gives the run back, if it is still held."""
        self._over.set()
        if self._beating.is_alive():
            self._beating.join()
        found = self._read()
        if found and found["id"] == self._id:
            self._at.unlink()

    def _outwait(self, found: dict[str, str]) -> None:
        """Waits until a holder shows itself dead. BadInput as soon as it shows itself alive."""
        log.info("%s: %s holds it; waiting whether it lives, %.0f s at most", self._run, found["owner"], STALE_SECONDS)
        started = time.monotonic()
        while time.monotonic() - started < STALE_SECONDS:
            time.sleep(BEAT_SECONDS / 4)
            now = self._read()
            if now is None:
                return
            if now != found:
                raise self._refusal(now)
        log.warning("%s: taken over from %s, of which nothing was heard", self._run, found["owner"])

    def _refusal(self, holder: dict[str, str] | None) -> BadInput:
        return BadInput(
            str(self._run),
            f"is being written by another driver ({holder['owner'] if holder else 'which has just begun'})",
            expected="wait for it, or --fresh",
        )

    def _beat(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            try:
                found = self._read()
                if found is None or found["id"] != self._id:
                    log.error("%s: the lease is lost", self._run)
                    return
                self._write()
            except OSError as error:  # `check` decides, when there is something to write
                log.warning("%s: the lease could not be renewed: %s", self._run, str(error)[:200])

    def _write(self) -> None:
        self._beats += 1
        held = {"id": self._id, "owner": f"{socket.gethostname()}, process {os.getpid()}", "beat": str(self._beats)}
        self._at.write_text(json.dumps(held))

    def _read(self) -> dict[str, str] | None:
        try:
            found: dict[str, str] = json.loads(self._at.read_text())
        except FileNotFoundError:
            return None
        return found

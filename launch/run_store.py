"""A run that lies at a URL, and the folder on this machine in which the driver works on it.

What the URL holds is the run. The folder is made equal to it when the run is opened, and at every commit what has
changed in the folder is uploaded, one file after the other in the order in which they were written: cut off anywhere,
the URL holds what a kill could have left in the folder, and no stage's DONE.json without all that it stands for. Not
covered: checkpoints and models, which the ranks send themselves (actors/rank_checkpoint.py, actors/node_copies.py).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from actors.node_copies import copy_of
from actors.places import RemotePath, Stamp, patiently
from launch import lease
from launch.lease import Lease
from ledex_ray.errors import BadInput

THREADS = 8
ANSWER_SECONDS = 30.0  # in which a storage must answer at all
RANKS_OWN = ("checkpoints", "model")  # below a stage


class RunStore:
    """The driver's hold on a run at a URL."""

    def __init__(self, remote: RemotePath, folder: Path, held: Lease) -> None:
        self.remote = remote
        self._folder, self._lease = folder, held
        self._known = mirror(remote, folder)

    @classmethod
    def open(cls, remote: RemotePath, folder: Path) -> RunStore:
        """Takes the run, and makes `folder`, which nobody else writes to, equal to it.

        Raises BadInput, in seconds, where the URL cannot be reached or written; where another driver holds the run.
        """
        with reachable(remote):
            held = Lease(remote, folder / lease.NAME)
            held.take()
        try:
            return cls(remote, folder, held)
        except BaseException:  # an interrupt too: the run is given back, and the error goes on
            held.release()
            raise

    def commit(self) -> None:
        """Uploads what is new or changed, then removes what is gone. Raises LeaseLost."""
        patiently(self._lease.check)
        now = _stamps(self._folder)
        for name in _in_order({name: stamp for name, stamp in now.items() if self._known.get(name) != stamp}):
            self._upload(name)
            self._known[name] = now[name]
        for name in self._known.keys() - now.keys():
            patiently((self.remote / name).unlink)
            del self._known[name]

    def _upload(self, name: str) -> None:
        local, target = self._folder / name, self.remote / name
        try:
            patiently(lambda: target.put(local))
        except FileNotFoundError:
            if local.exists():  # else a passing file of a library's own: the next commit sees that it is gone
                raise

    def close(self) -> None:
        """Uploads the rest and gives the run back."""
        try:
            self.commit()
        finally:
            patiently(self._lease.release)


def mirror(remote: RemotePath, folder: Path) -> dict[str, Stamp]:
    """Makes the folder hold what the run at the URL holds, ranks' files left out; what its files then are."""
    there = {name: stamp for name, stamp in patiently(remote.files).items() if _mirrored(name)}
    for name in _stamps(folder).keys() - there.keys():
        (folder / name).unlink()

    def bring(name: str) -> None:
        local, (size, changed) = folder / name, there[name]
        if not local.exists() or _stamp(local) != (size, changed):
            local.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # gone by now
                patiently(lambda: (remote / name).get(local))
                os.utime(local, ns=(changed, changed))  # how the next mirror sees that it is the same

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(bring, there))
    return _stamps(folder)


def fetched(remote: RemotePath) -> Path:
    """A folder with what the run at a URL holds by now, for reading; BadInput where it cannot be reached."""
    folder = copy_of(remote, "read")
    with reachable(remote):
        mirror(remote, folder)
    return folder


@contextmanager
def reachable(remote: RemotePath) -> Iterator[None]:
    """Turns it into BadInput that a storage does not answer, at once or in what is done inside."""
    from pyarrow import ArrowException

    try:
        _within(ANSWER_SECONDS, remote.exists)
        yield
    except (OSError, ArrowException) as error:
        raise BadInput(
            str(remote),
            f"cannot be reached or written ({' '.join(str(error).split())[:300]})",
            expected="a place that this machine's own credentials may write to (docs/cluster.md)",
        ) from error


def _within(seconds: float, call: Callable[[], object]) -> None:
    """Waits for the call, and raises what it raises; TimeoutError where it takes longer: it is then left alone."""
    done: Future[object] = Future()

    def run() -> None:
        try:
            done.set_result(call())
        except BaseException as error:  # whatever it is, it is raised where it is waited for
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()  # which does not keep the process from ending
    try:
        done.result(seconds)
    except TimeoutError:
        raise TimeoutError(f"no answer in {seconds:.0f} s") from None


def _in_order(stamps: dict[str, Stamp]) -> list[str]:
    """The files in the order in which they were written; what marks a stage as finished is last."""
    return sorted(stamps, key=lambda name: (name.endswith("DONE.json"), stamps[name][1], name))


def _stamps(folder: Path) -> dict[str, Stamp]:
    """Every file of the folder that belongs to the run, by its relative path."""
    found = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if _mirrored(name) and path.is_file() and not path.is_symlink():
            with suppress(FileNotFoundError):  # a passing file
                found[name] = _stamp(path)
    return found


def _stamp(path: Path) -> Stamp:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def _mirrored(name: str) -> bool:
    parts = name.split("/")
    # An older run's tokenizer is there alone, for `ledex inspect`.
    ranks_own = len(parts) > 2 and parts[1] in RANKS_OWN and parts[-1] != "tokenizer.json"
    return not ranks_own and not any(part.startswith(".") for part in parts)

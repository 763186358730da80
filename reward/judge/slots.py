"""A worker's place on this node: a number nobody else holds, a user id made of it, and a scratch directory.

The number is taken by a lock that the kernel drops when the process ends, however it ends; the next holder wipes what
the last one left. Without root there is no user id to give, and the number serves for the directory alone.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from ledex_ray.errors import BadInput

FIRST_UID = 200_000
FIRST_REFEREE_UID = 260_000
SLOTS = 4096
MAX_BYTES = 64 << 20
MAX_ENTRIES = 2_000


@dataclass
class Slot:
    """Held until `release`; `uid` and `referee_uid` are 0 where processes keep the user's own id."""

    number: int
    scratch: Path
    uid: int
    referee_uid: int
    _lock: int

    def release(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def base_directory() -> Path:
    """The folder of all slots of this user on this node, made if need be. Raises BadInput where it cannot be had.

    In /tmp whatever TMPDIR says, so that two runs on a node never take the same slot; LEDEX_SANDBOX_DIR moves it.
    """
    folder = os.environ.get("LEDEX_SANDBOX_DIR") or "/tmp"
    base = Path(folder).absolute() / f"ledex-judge-{os.getuid()}"
    expected = "a folder that exists, in which this user may make one of its own"
    try:
        base.mkdir(mode=0o711, exist_ok=True)
    except (FileNotFoundError, FileExistsError, NotADirectoryError, PermissionError) as error:
        raise BadInput("LEDEX_SANDBOX_DIR", str(error.strerror), given=folder, expected=expected) from None
    found = base.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():  # somebody else made it
        raise BadInput("LEDEX_SANDBOX_DIR", f"{base.name} in it is another user's", given=folder, expected=expected)
    base.chmod(0o711)  # mkdir's mode is cut by the umask; other users must pass through, not read
    return base


def take_slot(root: Path | None = None) -> Slot:
    """A free slot, its scratch directory empty and below `root` (default: the base directory)."""
    base = base_directory()
    for number in range(SLOTS):
        lock = os.open(base / f"{number}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        am_root = os.getuid() == 0
        uid, referee = (FIRST_UID + number, FIRST_REFEREE_UID + number) if am_root else (0, 0)
        scratch = (root or base) / f"scratch-{number}"
        scratch.mkdir(mode=0o700, exist_ok=True)
        wipe(scratch)
        if am_root:
            os.chown(scratch, uid, uid)
        return Slot(number, scratch, uid, referee, lock)
    raise RuntimeError(f"all {SLOTS} sandbox slots below {base} are taken")


def wipe(directory: Path) -> None:
    """Empties the directory, however deep and with whatever modes; nobody may be writing to it."""
    with os.scandir(directory) as entries:
        pending = [entry.path for entry in entries]
    while pending:
        path = pending.pop()
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)
            continue
        os.chmod(path, 0o700)
        with os.scandir(path) as entries:
            for entry in entries:
                # Hoisted to the top first: a chain of directories may be longer than any path can be.
                if entry.is_dir(follow_symlinks=False):
                    os.chmod(entry.path, 0o700)
                    hoisted = os.path.join(directory, secrets.token_hex(8))
                    os.rename(entry.path, hoisted)
                    pending.append(hoisted)
                else:
                    os.unlink(entry.path)
        os.rmdir(path)


def over_quota(directory: Path) -> bool:
    """Whether a running program has put too much into its scratch directory. Cheap when it is empty."""
    pending, n_bytes, n_entries = [str(directory)], 0, 0
    while pending:
        path = pending.pop()
        try:
            with contextlib.suppress(PermissionError):
                os.chmod(path, 0o700, follow_symlinks=True)  # a directory that its maker closed to readers
            with os.scandir(path) as entries:
                for entry in entries:
                    n_entries += 1
                    found = entry.stat(follow_symlinks=False)
                    n_bytes += found.st_blocks * 512
                    if stat.S_ISDIR(found.st_mode):
                        pending.append(entry.path)
                    if n_entries > MAX_ENTRIES or n_bytes > MAX_BYTES:
                        return True
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:  # deeper than any path: nobody needs that, and much could lie there
                return True
            continue  # it was removed in between; what it holds was counted or is counted next time
    return False

"""A directory put in another one's place, so that a reader finds the old or the new one and never none. No torch."""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import shutil
import tempfile
from pathlib import Path

log = logging.getLogger(__name__)

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_NOT_HERE = (errno.EINVAL, errno.ENOSYS, errno.EXDEV, errno.ENOTSUP)  # NFS and old kernels know no exchange


def put_in_place(new: Path, target: Path) -> None:
    """Makes `new` be `target`, on the same file system; the directory that was there is removed.

    The two change places in one step. Where the file system cannot do that, two renames do it, and a kill between them
    leaves the old one beside `target` under a name that begins with ".NAME.".
    """
    if not target.exists():
        new.rename(target)
    elif _exchange(new, target):
        shutil.rmtree(new)
    else:
        retired = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        target.rename(retired / "old")
        new.rename(target)
        shutil.rmtree(retired)


def _exchange(a: Path, b: Path) -> bool:
    """Whether the two directories have changed places; False where that cannot be done here."""
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "renameat2"):
        return False
    if library.renameat2(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE) == 0:
        return True
    error = ctypes.get_errno()
    if error in _NOT_HERE:
        return False
    raise OSError(error, os.strerror(error), str(a))

"""How a process of the sandbox gives up its rights: user, Landlock, seccomp, limits. Irreversible, in this order.

The rules themselves are made outside (`reward.judge.policy`) and come as a descriptor and as bytes.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
from typing import Any

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38
SECCOMP_SET_MODE_FILTER = 1
SYS_LANDLOCK_RESTRICT_SELF = 446
SYS_SECCOMP = {"x86_64": 317, "aarch64": 277}[os.uname().machine]

libc = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p)]


class SeccompFilter:
    """A filter held ready, so that loading it after a fork is one system call."""

    def __init__(self, program: bytes) -> None:
        self._buffer = ctypes.create_string_buffer(program, len(program))
        self._program = _Program(len(program) // 8, ctypes.cast(self._buffer, ctypes.c_void_p))
        self._arguments = (ctypes.c_long(SYS_SECCOMP), SECCOMP_SET_MODE_FILTER, 0, ctypes.byref(self._program))

    def load(self) -> None:
        check(libc.syscall(*self._arguments), "seccomp")


def check(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), what)


def give_up_rights(settings: dict[str, Any]) -> None:
    """Confines this process for good, as `settings` (made by `reward.judge.process`) says."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # when memory runs out, the sandbox goes first; where it cannot be set, nothing is lost
    if settings["chroot"]:
        os.chroot(settings["chroot"])
        os.chdir("/")
    if settings["uid"]:
        os.setgroups([])
        os.setresgid(settings["uid"], settings["uid"], settings["uid"])
        os.setresuid(settings["uid"], settings["uid"], settings["uid"])
    check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    check(libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "dumpable")
    if settings["ruleset"] >= 0:
        check(libc.syscall(SYS_LANDLOCK_RESTRICT_SELF, settings["ruleset"], 0), "landlock")
        os.close(settings["ruleset"])
    if settings["filter"]:
        SeccompFilter(bytes.fromhex(settings["filter"])).load()

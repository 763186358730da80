"""The fork server: started once with an empty environment, confines itself, then forks one child for each program.

It never holds a program, a test or an expected value: the program reaches the child over its own socket, after the
child has given up the rest of its rights. One child at a time; the child's CPU clock is what limits it, wall time is
the backstop. The supervisor's message `b"K"` kills the child; the end of the control socket ends everything.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import select
import signal
import socket
import struct
import sys
import time
from typing import Any

from . import confine, runner

JOB = struct.Struct("<ddqq?")  # cpu seconds, wall seconds, memory bytes, output bytes, is a script
REPORT = struct.Struct("<Biddq")  # why, wait status, cpu seconds, wall seconds, peak resident kilobytes
EXITED, TIMED_OUT, CANCELLED = 0, 1, 2

# What solutions commonly import, paid once; anything else of the standard library is imported by the program itself.
_PRELOADED = (
    "math cmath collections collections.abc itertools functools operator re heapq bisect string random copy typing "
    "datetime decimal fractions statistics types abc enum dataclasses contextlib numbers io traceback"
)
STACK = 64 << 20


def main(control: socket.socket, settings: dict[str, Any]) -> None:
    for name in (*_PRELOADED.split(), *settings["preload"]):
        __import__(name)
    sys.path[:] = [*settings["library"], *settings["packages"]]
    os.environ.clear()
    os.environ.update(TMPDIR=settings["scratch"], HOME=settings["scratch"])
    null = os.open("/dev/null", os.O_RDWR)
    confine.give_up_rights(settings)
    second = confine.SeccompFilter(bytes.fromhex(settings["program_filter"])) if settings["program_filter"] else None
    gc.collect()
    gc.freeze()
    gc.disable()
    control.send(b"R")
    while True:
        try:
            data, descriptors, _, _ = socket.recv_fds(control, JOB.size, 3)
        except ConnectionError:
            os._exit(0)
        if not data:
            os._exit(0)
        if len(data) != JOB.size:  # a cancellation that came after its child had ended
            continue
        job = JOB.unpack(data)
        started = time.monotonic()
        child = os.fork()
        if child == 0:
            _become_program(job, descriptors, null, second, settings)
        for descriptor in descriptors:
            os.close(descriptor)
        why = _watch(child, control, started, cpu=job[0], wall=job[1])
        _, status, usage = os.wait4(child, 0)
        report = (why, status, usage.ru_utime + usage.ru_stime, time.monotonic() - started, usage.ru_maxrss)
        control.send(REPORT.pack(*report))


def _watch(child: int, control: socket.socket, started: float, *, cpu: float, wall: float) -> int:
    """Waits until the child ends, or ends it; returns why. The child is left to be reaped."""
    handle = os.pidfd_open(child)
    clock = (~child << 3) | 2  # the CPU clock of another process (clock_getcpuclockid)
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    poll.register(control, select.POLLIN)
    used, why = 0.0, EXITED
    try:
        while True:
            left = min(cpu - used, started + wall - time.monotonic())
            if left <= 0:
                why = TIMED_OUT
                break
            ready = {descriptor for descriptor, _ in poll.poll(max(left * 1000, 5))}
            if handle in ready:
                return EXITED
            if ready:
                why = CANCELLED
                try:
                    gone = not control.recv(64)
                except ConnectionError:
                    gone = True
                if gone:  # the supervisor is: the child dies with this process
                    os._exit(0)
                break
            with contextlib.suppress(OSError):  # it ended just now
                used = time.clock_gettime(clock)
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        return why
    finally:
        os.close(handle)


def _become_program(
    job: tuple[float, float, int, int, bool],
    descriptors: list[int],
    null: int,
    second: confine.SeccompFilter | None,
    settings: dict[str, Any],
) -> None:
    """In the child: gives up what is left, and only then reads the program. Does not return."""
    cpu, _, memory, output, script = job
    try:
        confine.libc.prctl(confine.PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        confine.libc.prctl(confine.PR_SET_DUMPABLE, 0, 0, 0, 0)
        standard = descriptors[1:] if script else [null, null]
        # Twice, through high numbers: the descriptors that came may themselves lie among 0 to 3.
        moved = [_above(10, descriptor) for descriptor in (standard[0], standard[1], null, descriptors[0])]
        for target, descriptor in enumerate(moved):
            os.dup2(descriptor, target)
        os.closerange(4, 1024)
        connection = socket.socket(fileno=3)
        _limit(cpu, memory, output, threads=settings["threads"])
        os.chdir(settings["scratch"])
        if second is not None:
            second.load()
        runner.run(connection, script)
    finally:
        os._exit(1)


def _above(lowest: int, descriptor: int) -> int:
    import fcntl

    return fcntl.fcntl(descriptor, fcntl.F_DUPFD, lowest)


def _limit(cpu: float, memory: int, output: int, *, threads: int) -> None:
    for what, value in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_DATA, memory),
        (resource.RLIMIT_CPU, int(cpu) + 1),
        (resource.RLIMIT_FSIZE, output),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_STACK, STACK),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
    ):
        resource.setrlimit(what, (value, value))
    if threads:
        resource.setrlimit(resource.RLIMIT_NPROC, (threads, threads))

"""The fork server: started once with an empty environment, confines itself, then forks one child for each program.

It never holds a program, a test or an expected value: the program reaches the child over its own socket, after the
child has given up the rest of its rights. One child at a time; the child's CPU clock is what limits it, wall time is
the backstop. The supervisor's message `b"K"` kills the child; the end of the control socket ends everything.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import os
import random
import resource
import select
import signal
import site
import socket
import struct
import sys
import time
from typing import Any

from . import confine, runner

JOB = struct.Struct("<ddq?")  # cpu seconds, wall seconds, memory bytes, is a script
REPORT = struct.Struct("<Biddq")  # why, wait status, cpu seconds, wall seconds, peak resident kilobytes
EXITED, TIMED_OUT, CANCELLED = 0, 1, 2

# What solutions commonly import, paid once; anything else of the standard library is imported by the program itself.
_PRELOADED = (
    "math cmath collections collections.abc itertools functools operator re heapq bisect string random copy typing "
    "types abc enum contextlib"
)
STACK = 64 << 20
DESCRIPTORS = 64
FILE_BYTES = 8 << 20  # of one file; DESCRIPTORS of them bound what removed but open files can hold
EXCHANGE = 3  # the descriptor of a child's socket

fork = ctypes.PyDLL(None).fork


def main(control: socket.socket, settings: dict[str, Any]) -> None:
    for name in (*_PRELOADED.split(), *settings["preload"]):
        __import__(name)
    site.setquit()  # `exit` and `quit`, which -S leaves out
    sys.path[:] = [*settings["library"], *settings["packages"]]
    sys.argv = ["solution.py"]
    os.environ.clear()
    os.environ.update(TMPDIR=settings["scratch"], HOME=settings["scratch"])
    null = os.open("/dev/null", os.O_RDWR)
    control = _moved_low(control)
    confine.give_up_rights(settings)
    second = confine.SeccompFilter(bytes.fromhex(settings["program_filter"])) if settings["program_filter"] else None
    _prepare_for_children(control, null, settings)
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
        # libc's fork, without what the interpreter does around it: this process has one thread, and `os.fork` costs
        # twice as much (it makes locks anew and seeds `random`, which must stay the same for each program).
        child = fork()
        if child == 0:
            _become_program(job, descriptors, second)
        for descriptor in descriptors:
            os.close(descriptor)
        why = _watch(child, control, started, cpu=job[0], wall=job[1])
        _, status, usage = os.wait4(child, 0)
        report = (why, status, usage.ru_utime + usage.ru_stime, time.monotonic() - started, usage.ru_maxrss)
        control.send(REPORT.pack(*report))


def _moved_low(control: socket.socket) -> socket.socket:
    """The same socket under a low number: its own may lie above what a child closes."""
    low = fcntl.fcntl(control.fileno(), fcntl.F_DUPFD, EXCHANGE + 1)
    control.close()
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, low)


def _prepare_for_children(control: socket.socket, null: int, settings: dict[str, Any]) -> None:
    """Does once what every child inherits: descriptors, directory, limits that never change, warm code."""
    for target in range(EXCHANGE + 1):
        os.dup2(null, target)
    os.closerange(EXCHANGE + 1, control.fileno())
    os.closerange(control.fileno() + 1, 1 << 20)
    os.chdir(settings["scratch"])
    for what, value in (
        (resource.RLIMIT_NOFILE, DESCRIPTORS),
        (resource.RLIMIT_STACK, STACK),
        (resource.RLIMIT_FSIZE, FILE_BYTES),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        *([(resource.RLIMIT_NPROC, settings["threads"])] if settings["threads"] else []),
    ):
        resource.setrlimit(what, (value, value))
    runner.rehearse()
    random.seed(0)  # the same program gets the same verdict each time
    gc.collect()
    gc.freeze()


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
    job: tuple[float, float, int, bool], descriptors: list[int], second: confine.SeccompFilter | None
) -> None:
    """In the child: gives up what is left, and only then reads the program. Does not return."""
    cpu, _, memory, script = job
    try:
        confine.libc.prctl(confine.PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        for target, descriptor in zip((EXCHANGE, 0, 1), descriptors, strict=False):  # a script brings its own 0 and 1
            os.dup2(descriptor, target)
        os.closerange(EXCHANGE + 1, DESCRIPTORS)
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        # _watch ends it by its exact clock: the kernel's limit counts whole ticks, on a busy machine too many.
        most = int(2 * cpu) + 5
        resource.setrlimit(resource.RLIMIT_CPU, (most, most))
        if second is not None:
            second.load()
        runner.run(EXCHANGE, script)
    finally:
        os._exit(1)

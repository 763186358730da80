"""What a process of the sandbox may still do: lists of system calls, and the paths that it may read.

Default-deny, so that calls with the x32 bit, new calls and io_uring are refused without being named. Made once in the
trusted process with seccompy and landlockpy; the sandbox gets bytes and a descriptor. Not covered: what the kernel
itself gets wrong.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import os
from collections.abc import Iterable

from landlockpy import AccessFS, Ruleset, Scope, abi_version
from seccompy import Action, ArgCmp, CmpOp, Filter, syscall_nr

_ALLOWED_WORDS = """
read write close fstat newfstatat stat lstat lseek mmap mprotect munmap brk rt_sigaction rt_sigprocmask rt_sigreturn
pread64 pwrite64 readv writev access faccessat faccessat2 pipe pipe2 select pselect6 poll ppoll epoll_create
epoll_create1 epoll_ctl epoll_wait epoll_pwait sched_yield mremap madvise dup dup2 dup3 pause nanosleep
clock_nanosleep clock_gettime
clock_getres gettimeofday time getitimer setitimer alarm getpid gettid getppid getuid geteuid getgid getegid getresuid
getresgid getgroups getpgrp getpgid getsid exit exit_group uname ftruncate getdents64 getcwd chdir openat open
readlink readlinkat umask getrlimit getrusage sysinfo times sigaltstack futex sched_getaffinity set_tid_address
set_robust_list rseq getrandom statx membarrier eventfd2 flock fsync fdatasync unlink unlinkat mkdir mkdirat rename
renameat renameat2 rmdir recvfrom recvmsg sendto sendmsg shutdown getsockopt setsockopt getsockname getpeername wait4
arch_prctl timerfd_create timerfd_settime restart_syscall rt_sigpending rt_sigtimedwait
"""
# What the fork server needs to start a child and to confine it; the child gives these up before it reads the program.
_FORK_SERVER_WORDS = "fork vfork setrlimit prlimit64 prctl pidfd_open pidfd_send_signal close_range seccomp"
_FORK_SERVER = tuple(_FORK_SERVER_WORDS.split())
_PROGRAM_LOSES = (*_FORK_SERVER, "execve", "execveat", "ptrace", "socket", "memfd_create", "kill", "tgkill", "tkill")
_TERMINAL_QUERIES = (0x5401, 0x541B, 0x5413, 0x5421, 0x5451)  # TCGETS, FIONREAD, TIOCGWINSZ, FIONBIO, FIOCLEX
_PR_SET_NAME, _PR_SET_VMA = 15, 0x53564D41
_CLONE_THREAD, _CLONE_NEW_NAMESPACES = 0x10000, 0x7E020080
_AF_UNIX, _SOCK_STREAM, _SOCK_TYPE = 1, 1, 0xF
# By command: F_SETOWN and F_SETSIG would let a pipe send any signal, SIGKILL too, to any process of the user.
_FCNTL = (
    fcntl.F_DUPFD,
    fcntl.F_DUPFD_CLOEXEC,
    fcntl.F_GETFD,
    fcntl.F_SETFD,
    fcntl.F_GETFL,
    fcntl.F_GETLK,
    fcntl.F_SETLK,
    fcntl.F_SETLKW,
    fcntl.F_OFD_GETLK,
    fcntl.F_OFD_SETLK,
    fcntl.F_OFD_SETLKW,
    fcntl.F_GETPIPE_SZ,
    fcntl.F_SETPIPE_SZ,
    fcntl.F_GET_SEALS,
)
_U32 = 0xFFFFFFFF


@functools.cache
def process_filter(*, may_fork: bool) -> bytes:
    """The program of the first filter: for the fork server (`may_fork`), or for the referee."""
    rules = Filter(default=int(Action.ERRNO) | errno.EPERM)
    for name in [*_ALLOWED_WORDS.split(), *(_FORK_SERVER if may_fork else ("setrlimit", "prlimit64"))]:
        if _exists(name):
            rules.allow(name)
    # asyncio's own pipe. Streams alone: half of a datagram pair could write to any socket of the machine by its path.
    rules.allow(
        "socketpair", args=[ArgCmp(0, CmpOp.EQ, _AF_UNIX), ArgCmp(1, CmpOp.MASKED_EQ, _SOCK_STREAM, _SOCK_TYPE)]
    )
    for command in _FCNTL:
        rules.allow("fcntl", args=[ArgCmp(1, CmpOp.MASKED_EQ, command, _U32)])
    no_signals = ArgCmp(2, CmpOp.MASKED_EQ, 0, os.O_ASYNC)
    rules.allow("fcntl", args=[ArgCmp(1, CmpOp.MASKED_EQ, fcntl.F_SETFL, _U32), no_signals])
    for request in _TERMINAL_QUERIES:
        rules.allow("ioctl", args=[ArgCmp(1, CmpOp.MASKED_EQ, request, _U32)])
    rules.allow("prctl", args={0: _PR_SET_NAME})
    rules.allow("prctl", args={0: _PR_SET_VMA})
    if may_fork:
        rules.allow("clone", args=[ArgCmp(0, CmpOp.MASKED_EQ, 0, _CLONE_NEW_NAMESPACES)])
    rules.errno("clone3", errno.ENOSYS)  # its arguments lie in memory; libc then falls back to clone
    return rules.program


@functools.cache
def program_filter() -> bytes:
    """The second, small filter: what the child of the fork server loses before it reads the program."""
    rules = Filter(default=Action.ALLOW)
    # Reading one's own limits stays (pid 0, no new limit): prlimit64(0, resource, NULL, old).
    rules.allow("prlimit64", args=[ArgCmp(0, CmpOp.EQ, 0), ArgCmp(2, CmpOp.EQ, 0)])
    rules.allow("prctl", args={0: _PR_SET_NAME})
    rules.allow("prctl", args={0: _PR_SET_VMA})
    rules.allow("clone", args=[ArgCmp(0, CmpOp.MASKED_EQ, _CLONE_THREAD, _CLONE_THREAD)])
    rules.errno("clone", errno.EPERM)
    for name in _PROGRAM_LOSES:
        if _exists(name):
            rules.errno(name, errno.EPERM)
    return rules.program


def _exists(name: str) -> bool:
    """Whether this architecture has the call (aarch64 lacks the old ones)."""
    try:
        syscall_nr(name)
    except (KeyError, ValueError, LookupError):
        return False
    return True


def landlock_abi() -> int:
    """The kernel's Landlock version by its system call; 0 where there is none."""
    return abi_version()


def landlock_ruleset(readable: Iterable[str], scratch: str = "") -> Ruleset:
    """A ruleset that allows to read the given paths and to write below `scratch`; the caller closes it.

    Rights that the kernel does not know are left out: what they would cover is refused by seccomp as well, save
    reading, writing and making files, which every version knows.
    """
    read = AccessFS.READ_FILE | AccessFS.READ_DIR
    ruleset = Ruleset(scoped=Scope.SIGNAL | Scope.ABSTRACT_UNIX_SOCKET)
    for path in readable:
        if os.path.isdir(path):
            ruleset.allow_path(path, read)
        elif os.path.exists(path):
            ruleset.allow_path(path, AccessFS.READ_FILE)
    for device in ("/dev/null", "/dev/zero"):
        ruleset.allow_path(device, AccessFS.READ_FILE | AccessFS.WRITE_FILE)
    for device in ("/dev/urandom", "/dev/random"):
        ruleset.allow_path(device, AccessFS.READ_FILE)
    if scratch:
        make = AccessFS.MAKE_REG | AccessFS.MAKE_DIR | AccessFS.REMOVE_FILE | AccessFS.REMOVE_DIR
        ruleset.allow_path(scratch, read | make | AccessFS.WRITE_FILE | AccessFS.TRUNCATE | AccessFS.REFER)
    return ruleset

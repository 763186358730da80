"""Starting the two processes of a worker: by exec, with an empty environment, told over a socket how to confine
themselves. Nothing is ever forked from the calling process, which may hold Ray, torch and threads.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from . import policy
from .config import Interpreter, JudgeConfig, Tier
from .slots import Slot

START_SECONDS = 30.0
THREADS = 64  # of one program, where the user id is its own
_HERE = Path(__file__).resolve().parent
# Sets of strings iterate in the same order each time, in both processes: a program gets the same verdict each time.
# For that the hash seed must be read, so -I is spelled out as what else it means.
_ENVIRONMENT = {"PYTHONHASHSEED": "0"}
_FLAGS = ("-s", "-S", "-P", "-B", "-X", "utf8")
_BOOT = (
    "import socket,sys,json;"
    "sys.path.insert(0,sys.argv[1]);"
    "import inside.{module} as module;"
    "del sys.path[0];"
    "control=socket.socket(fileno=int(sys.argv[2]));"
    "module.main(control,json.loads(control.recv(1<<20)))"
)


class StartFailed(Exception):
    """A process of the sandbox did not come up; the text is what it said."""


@dataclass
class Child:
    """A running process of the sandbox and the socket that leads to it."""

    process: subprocess.Popen[bytes]
    control: socket.socket

    def stop(self) -> None:
        """Ends it at once; its own children end with it."""
        self.control.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()


def start_zygote(python: Interpreter, config: JudgeConfig, tier: Tier, slot: Slot, chroot: str) -> Child:
    """The fork server, confined and ready; raises StartFailed."""
    filters = {
        "filter": policy.process_filter(may_fork=True).hex(),
        "program_filter": policy.program_filter().hex(),
        "threads": THREADS if slot.uid else 0,
        "preload": list(config.preload),
        "scratch": str(slot.scratch) if not chroot else "/" + slot.scratch.name,
    }
    return _start("zygote", python, config, tier, slot.uid, slot.scratch, chroot, filters)


def start_referee(python: Interpreter, config: JudgeConfig, tier: Tier, slot: Slot, chroot: str) -> Child:
    """The referee, confined and ready; raises StartFailed."""
    filters = {"filter": policy.process_filter(may_fork=False).hex()}
    return _start("referee", python, config, tier, slot.referee_uid, None, chroot, filters)


def _start(
    module: str,
    python: Interpreter,
    config: JudgeConfig,
    tier: Tier,
    uid: int,
    scratch: Path | None,
    chroot: str,
    more: Mapping[str, object],
) -> Child:
    kind = socket.SOCK_SEQPACKET if module == "zygote" else socket.SOCK_STREAM
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    command = [python.executable, *_FLAGS, "-c", _BOOT.format(module=module), str(_HERE), str(theirs.fileno())]
    wrap = bubblewrap_command(python, config, scratch, bool(uid)) if tier == "A" else []
    settings: dict[str, object] = {
        "uid": uid,
        "chroot": chroot,
        "ruleset": -1,
        "library": list(python.library),
        "packages": list(config.packages),
        **more,
    }
    with contextlib.ExitStack() as stack:
        stack.callback(theirs.close)
        passed = [theirs.fileno()]
        if tier in ("A", "B"):
            readable = (*python.readable, *config.packages)
            ruleset = stack.enter_context(policy.landlock_ruleset(readable, str(scratch or "")))
            settings["ruleset"] = ruleset.fileno()
            passed.append(ruleset.fileno())
        process = subprocess.Popen(
            [*wrap, *command],
            pass_fds=passed,
            env=_ENVIRONMENT,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    child = Child(process, ours)
    assert process.stderr is not None
    try:
        ours.settimeout(START_SECONDS)
        ours.send(json.dumps(settings).encode())
        if ours.recv(1) != b"R":
            raise StartFailed(f"the {module} ended at once: {_last_words(process)}")
        ours.settimeout(None)
    except OSError as error:
        said = "" if isinstance(error, TimeoutError) else _last_words(process)
        child.stop()
        raise StartFailed(f"the {module} did not start ({type(error).__name__}): {said}") from None
    except StartFailed:
        child.stop()
        raise
    finally:
        process.stderr.close()
    return child


def _last_words(process: subprocess.Popen[bytes]) -> str:
    assert process.stderr is not None
    process.wait()
    return process.stderr.read(4000).decode("utf-8", "replace").strip().rsplit("\n", 1)[-1]


def find_bubblewrap() -> str:
    """Where bubblewrap is; empty where it is not. LEDEX_BWRAP names one that is not on the path."""
    return shutil.which(os.environ.get("LEDEX_BWRAP") or "bwrap") or ""


def bubblewrap_command(python: Interpreter, config: JudgeConfig, scratch: Path | None, as_root: bool) -> list[str]:
    """The command that puts what follows it into namespaces of its own (tier A); empty file system but for a few."""
    found = find_bubblewrap()
    if not found:
        raise StartFailed("bubblewrap (bwrap) is not installed")
    # Root makes no user namespace: the process takes an id of its own inside, which that would not let it.
    spaces = ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    command = [found, *(spaces if as_root else ["--unshare-all"]), "--new-session", "--die-with-parent"]
    command += ["--dev", "/dev"]
    paths = list(dict.fromkeys([*python.readable, python.executable, *config.packages, str(_HERE)]))
    folders = {parent for path in [*paths, scratch or "/"] for parent in Path(path).parents[:-1]}
    for folder in sorted(folders - set(map(Path, paths))):  # those that bubblewrap makes itself are closed to users
        command += ["--perms", "0755", "--dir", str(folder)]
    for path in paths:
        command += ["--symlink", os.readlink(path), path] if os.path.islink(path) else ["--ro-bind", path, path]
    if scratch is not None:
        command += ["--bind", str(scratch), str(scratch)]
    if as_root:  # the process takes its own user id inside
        command += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    return [*command, "--"]

"""What is stuck: says which item, on which actor, since when, shows that process's stack, and ends the process.

An actor calls `arm` once; from then SIGUSR1 makes it write the stacks of all its threads to a file, among the logs of
its Ray session, that the watchdog reads. A process that is stopped (SIGSTOP) writes none: its state is told instead.
Ending means SIGKILL to the process and its children: a stopped process, or an engine's child, would outlive a polite
request. Ray then starts the actor anew. Not covered: deciding that something is stuck (actors/pool.py has the
deadlines).
"""

from __future__ import annotations

import faulthandler
import logging
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import ray
import ray._private.state
import ray._private.worker
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

log = logging.getLogger(__name__)

REMOTE_SECONDS = 20.0
_stack_file: TextIO | None = None


def arm() -> None:
    """Makes SIGUSR1 write this process's stacks to a file that `examine` finds by the pid."""
    global _stack_file
    if _stack_file is None:
        _stack_file = open(_stack_path(os.getpid()), "w", encoding="utf-8")  # noqa: SIM115  open as long as we live
        faulthandler.register(signal.SIGUSR1, file=_stack_file, all_threads=True)


def examine(pid: int, node_id: str) -> str:
    """The process's state and stack, as text, from whichever node it is on; what went wrong where there is none."""
    return _on_node(node_id, _examine_here, pid)


def end_process(pid: int, node_id: str) -> bool:
    """Whether the Ray worker `pid` and its children were killed; False where it was gone, or its node is."""
    return _on_node(node_id, _end_here, pid) == "ended"


@dataclass(frozen=True)
class Whereabouts:
    """Where Ray last saw an actor: `state` is ALIVE, DEAD (for good), or one of those on the way."""

    state: str
    pid: int
    node_id: str


def whereabouts(handle: Any) -> Whereabouts:
    """What Ray's control store knows of an actor, without asking the actor."""
    # The public state API needs the dashboard, which a local Ray here does not run.
    found = ray._private.state.actors(handle._actor_id.hex())
    return Whereabouts(found.get("State", ""), found.get("Pid", 0), found.get("Address", {}).get("NodeID", ""))


def report_stuck(items: tuple[str, ...], actor: str, since_seconds: float, stack: str) -> None:
    """One log line for what is stuck, and the stack below it."""
    shown = ",".join(items[:4]) + (f",... ({len(items)} items)" if len(items) > 4 else "")
    log.warning("stuck item=%s actor=%s since=%.0fs\n%s", shown, actor, since_seconds, stack)


def end_stuck(handle: Any, actor: str, items: tuple[str, ...], since_seconds: float) -> str:
    """Names an actor that runs and does not answer, and ends it; its state and stack, "" where it is not up."""
    at = whereabouts(handle)
    if at.state != "ALIVE":
        return ""
    stack = examine(at.pid, at.node_id)
    report_stuck(items, actor, since_seconds, stack)
    if not end_process(at.pid, at.node_id):
        ray.kill(handle, no_restart=False)
    return stack


def _stack_path(pid: int) -> Path:
    # Beside Ray's own logs of the process: a killed one removes nothing, and a session's folder is cleared as one.
    node: Any = ray._private.worker._global_node
    return Path(node.get_logs_dir_path()) / f"ledex-stack-{pid}.txt"


def _examine_here(pid: int) -> str:
    state = _state(pid)
    if not state:
        return f"pid={pid} is gone"
    path = _stack_path(pid)
    if state in "Tt" or not path.exists():
        return f"pid={pid} state={state} {_py_spy(pid)}".rstrip()
    before = path.stat().st_size
    os.kill(pid, signal.SIGUSR1)
    for _ in range(20):
        time.sleep(0.05)
        if path.stat().st_size > before:
            break
    return f"pid={pid} state={state}\n{path.read_text(encoding='utf-8')[before:]}".rstrip()


def _py_spy(pid: int) -> str:
    """py-spy's view of a process that cannot write its own stack, where it is installed and allowed to look."""
    tool = shutil.which("py-spy")
    if tool is None:
        return ""
    try:
        found = subprocess.run([tool, "dump", "--pid", str(pid)], capture_output=True, text=True, timeout=10)
    except subprocess.TimeoutExpired:
        return ""
    return found.stdout


def _end_here(pid: int) -> str:
    try:
        title = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return "gone"
    if not title.startswith(b"ray::"):
        return "gone"  # the number belongs to another process by now
    for member in [*_descendants(pid), pid]:
        with suppress(ProcessLookupError):
            os.kill(member, signal.SIGKILL)
    return "ended"


def _state(pid: int) -> str:
    """One letter as in `ps` (T: stopped, D: in the kernel), "" for no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return ""


def _descendants(pid: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                parent = int((entry / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
                parents.setdefault(parent, []).append(int(entry.name))
    found = list(parents.get(pid, []))
    for child in found:  # grows while it is walked
        found += parents.get(child, [])
    return found


def _on_node(node_id: str, function: Callable[[int], str], pid: int) -> str:
    if node_id == ray.get_runtime_context().get_node_id():
        return function(pid)
    place = NodeAffinitySchedulingStrategy(node_id, soft=False)
    task = ray.remote(function).options(num_cpus=0, max_retries=0, scheduling_strategy=place)
    call = task.remote(pid)
    try:
        return str(ray.get(call, timeout=REMOTE_SECONDS))
    except (ray.exceptions.RayError, TimeoutError) as error:
        return f"no answer from node {node_id[:8]}: {type(error).__name__}"

"""Tests in kernel namespaces of their own: their Ray sees no other process, no other port and no other /tmp/ray."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
INSIDE = "LEDEX_TEST_INSIDE"
# What is mounted over /tmp/ray keeps the names of Ray's sockets short.
SETUP = 'ip link set lo up && mount --bind "$1" /tmp/ray && shift && exec "$@"'


def isolated(test: Callable[..., None]) -> Callable[..., None]:
    """The test, run by a pytest of its own inside fresh namespaces, with its fixtures; skipped where there are none."""
    if os.environ.get(INSIDE):
        return test
    node = f"{inspect.getfile(test)}::{test.__name__}"

    def rerun(tmp_path: Path) -> None:
        reason = _refused(str(tmp_path))
        if reason:
            pytest.skip(f"no namespaces here: {reason}")
        for name in ("ray", "home"):
            (tmp_path / name).mkdir()
        cache_folder = os.environ.get("LEDEX_CACHE") or str(Path.home() / ".cache" / "ledex")
        environment = os.environ | {INSIDE: "1", "HOME": str(tmp_path / "home"), "LEDEX_CACHE": cache_folder}
        pytest_ = [sys.executable, "-m", "pytest", "-q", "-rs", "-m", "", "-p", "no:cacheprovider", node]
        command = _namespaces(str(tmp_path / "ray"), pytest_)
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800)
        if done.returncode == 0 and "1 skipped" in done.stdout:
            pytest.skip(done.stdout.strip().splitlines()[-2])
        assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-2000:]}"

    rerun.__name__, rerun.__doc__ = test.__name__, test.__doc__
    rerun.pytestmark = getattr(test, "pytestmark", [])  # type: ignore[attr-defined]
    return rerun


def _namespaces(folder: str, command: list[str]) -> list[str]:
    mapped = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    kinds = ["--pid", "--fork", "--kill-child", "--mount-proc", "--net", "--mount"]
    return ["unshare", *mapped, *kinds, "sh", "-c", SETUP, "sh", folder, *command]


@cache
def _refused(folder: str) -> str:
    """Why the kernel gives no namespaces; empty where it does."""
    Path("/tmp/ray").mkdir(exist_ok=True)
    try:
        tried = subprocess.run(_namespaces(folder, ["true"]), capture_output=True, text=True, timeout=30)
    except FileNotFoundError as error:
        return f"{error.filename} is missing"
    return tried.stderr.strip() or f"exit code {tried.returncode}" if tried.returncode else ""


def run(*command: str, env: dict[str, str] | None = None, timeout: float = 120.0) -> subprocess.CompletedProcess[Any]:
    """A finished command with its output as text, started in the checkout."""
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | (env or {}), capture_output=True, text=True, timeout=timeout
    )


def ray_command(*arguments: str, env: dict[str, str] | None = None) -> None:
    """`ray ARGUMENTS` of the environment that runs the tests; fails with what it said."""
    program = str(Path(sys.executable).parent / "ray")
    done = run(program, *arguments, env={"RAY_USAGE_STATS_ENABLED": "0"} | (env or {}))
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"

"""How a judge is set up, and which interpreter runs the programs."""

from __future__ import annotations

import functools
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ledex_ray.errors import BadInput
from ledex_ray.problems import Limits

Tier = Literal["A", "B", "C", "none"]
TIERS: tuple[Tier, ...] = ("A", "B", "C", "none")  # strongest first
MAX_PROGRAM_BYTES = 256 << 10

_ASK = """
import json, sys, sysconfig
paths = sysconfig.get_paths()
print(json.dumps({"version": list(sys.version_info[:3]), "executable": sys.executable, "prefix": sys.base_prefix,
    "library": [p for p in sys.path if p], "stdlib": [paths["stdlib"], paths["platstdlib"]]}))
"""


@dataclass(frozen=True)
class JudgeConfig:
    """Settings of one judge. `limits` win over the problem's own limits; None leaves those in force."""

    python: str = ""  # the interpreter that runs programs; empty: the first good one of `find_python`
    floor: Tier = "C"  # the weakest isolation that will do; below it the judge refuses to start
    tier: Tier | None = None  # exactly this isolation instead of the strongest usual one (B, else C, else none)
    limits: Limits | None = None
    packages: tuple[str, ...] = ()  # directories of third-party packages that programs may import
    preload: tuple[str, ...] = ()  # modules imported once, before programs are forked
    canary_every: int = 1_000  # programs between two rounds of canaries
    recycle_every: int = 10_000  # programs after which both processes are replaced

    def __post_init__(self) -> None:
        for name, value in (("floor", self.floor), ("tier", self.tier)):
            if value is not None and value not in TIERS:
                raise BadInput(f"judge.{name}", "no such isolation tier", given=value, expected="A, B, C or none")


@dataclass(frozen=True)
class Interpreter:
    """An interpreter that can serve: where it is, and what it must read to run."""

    executable: str
    version: tuple[int, int, int]
    library: tuple[str, ...]  # its sys.path without site-packages
    readable: tuple[str, ...]  # directories of its standard library and shared libraries


def check_packages(packages: Iterable[str]) -> None:
    """Raises BadInput where one of the folders is not there, or programs could not read it."""
    for name in packages:
        folder = Path(name)
        problem = "" if folder.is_dir() else "no such folder on this machine"
        if not problem and os.getuid() == 0:  # programs run as a user that owns nothing
            closed = [part for part in _parts(folder.resolve()) if not part.stat().st_mode & stat.S_IXOTH]
            problem = f"a plain user cannot pass {closed[0]}" if closed else ""
        if problem:
            expected = "the absolute path of a folder of packages, from `pip install --target`"
            raise BadInput("sandbox.packages", problem, given=name, expected=expected)


@functools.cache
def find_python(wanted: str = "") -> Interpreter:
    """The interpreter for programs: the one asked for, else the distribution's, else this one. Raises BadInput."""
    if wanted:
        problem = unusable(wanted)
        if problem:
            raise BadInput("sandbox.python", problem, given=wanted, expected="a Python from 3.11 that any user may run")
        return _ask(wanted)
    candidates = ["/usr/bin/python3.11", "/usr/bin/python3", "/usr/local/bin/python3", _real(sys.executable)]
    problems = {path: unusable(path) for path in candidates}
    for path, problem in problems.items():
        if not problem:
            return _ask(path)
    listed = "; ".join(f"{path}: {problem}" for path, problem in problems.items())
    raise BadInput("sandbox.python", f"no interpreter can run programs ({listed})", expected="set sandbox.python")


def unusable(path: str) -> str:
    """Why this interpreter cannot run programs; empty when it can."""
    real = _real(path)
    if not os.access(real, os.X_OK):
        return "not an executable file"
    if os.getuid() == 0:  # programs run as a user that owns nothing
        for part in _parts(Path(real)):
            if not part.stat().st_mode & stat.S_IXOTH:
                return f"a plain user cannot pass {part}"
    try:
        found = _ask(path)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return f"does not start: {type(error).__name__}"
    if found.version < (3, 11, 0):
        return f"is Python {'.'.join(map(str, found.version))}"
    for directory in found.readable if os.getuid() == 0 else ():
        for part in _parts(Path(directory)):
            if not part.stat().st_mode & stat.S_IXOTH:
                return f"a plain user cannot pass {part}"
    return ""


@functools.cache
def _ask(path: str) -> Interpreter:
    answer = subprocess.run([_real(path), "-I", "-S", "-c", _ASK], env={}, capture_output=True, timeout=30, check=True)
    found = json.loads(answer.stdout)
    prefix = found["prefix"]
    shared = ["/lib", "/lib64", "/usr/lib64", "/usr/share/zoneinfo", f"{prefix}/lib"]
    shared += [str(p) for p in Path("/usr/lib").glob("*-linux-gnu")]
    readable = [p for p in (*found["stdlib"], *found["library"], *shared) if os.path.exists(p)]
    return Interpreter(_real(path), tuple(found["version"]), tuple(found["library"]), tuple(dict.fromkeys(readable)))


def _real(path: str) -> str:
    return os.path.realpath(path)


def _parts(path: Path) -> Iterator[Path]:
    real = path.resolve()
    yield from reversed((real, *real.parents))

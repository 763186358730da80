"""Problem sets by name or path: `load_problems(SPEC)`, SPEC as docs/files.md has it.

A SPEC is a name (bundled, humaneval, mbpp, humanevalplus, mbppplus, apps, codecontests) or FORMAT:PATH, with an
optional @SPLIT. Names look in the folder LEDEX_DATA, then on the hub; `humaneval` comes with its package.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ledex_ray.errors import BadInput
from ledex_ray.problems import SPLITS, Problem
from ledex_ray.readers import sources
from ledex_ray.readers.contests import apps_folders, read_apps, read_codecontests
from ledex_ray.readers.evalplus import read_evalplus
from ledex_ray.readers.expected import CanonicalRun, RunCanonical, needs_expected, resolve_expected
from ledex_ray.readers.files import Row, rows
from ledex_ray.readers.humaneval import read_humaneval
from ledex_ray.readers.jsonl import read_problems
from ledex_ray.readers.mbpp import read_mbpp
from ledex_ray.readers.tasks import by_task_id, resolve_task_id

__all__ = [
    "FORMATS",
    "NAMES",
    "SPLITS",
    "CanonicalRun",
    "RunCanonical",
    "by_task_id",
    "hub_set",
    "load_problems",
    "local_set",
    "needs_expected",
    "parse_spec",
    "read_problems",
    "resolve_expected",
    "resolve_task_id",
]

NAMES = ("bundled", *sources.SETS)
FORMATS: dict[str, Callable[[Iterable[tuple[str, Row]]], list[Problem]]] = {
    "humaneval": read_humaneval,
    "mbpp": read_mbpp,
    "evalplus": read_evalplus,
    "apps": read_apps,
    "codecontests": read_codecontests,
}


@dataclass(frozen=True)
class Spec:
    """A SPEC taken apart: a name or a format, the path of the latter, and the split asked for ("" for all)."""

    name: str
    path: Path | None
    split: str


def parse_spec(spec: str) -> Spec:
    """The parts of a SPEC. BadInput for an unknown name, format or split."""
    head, at, tail = spec.rpartition("@")
    split = tail if at and tail in SPLITS else ""
    rest = head if split else spec
    name, colon, path = rest.partition(":")
    if colon:
        if name not in (*FORMATS, "jsonl"):
            raise BadInput(
                f"problems '{spec}'",
                "has an unknown format",
                given=name,
                expected=" or ".join((*FORMATS, "jsonl")) + ", as FORMAT:PATH",
            )
        if not path:
            raise BadInput(f"problems '{spec}'", "has no path", expected="FORMAT:PATH")
        place = Path(os.path.expanduser(path))
        before, marked, after = str(place).rpartition("@")
        if marked and "/" not in after and not place.exists() and Path(before).exists():
            raise _unknown_split(spec, after)
        return Spec(name, place, split)
    if at and not split and head in NAMES:
        raise _unknown_split(spec, tail)
    if rest not in NAMES:
        hint = f"; did you mean jsonl:{spec}?" if ".json" in rest or Path(os.path.expanduser(rest)).is_file() else ""
        raise BadInput(f"problems '{spec}'", "is no known set", expected=f"{', '.join(NAMES)} or FORMAT:PATH{hint}")
    return Spec(rest, None, split)


def _unknown_split(spec: str, given: str) -> BadInput:
    return BadInput(f"problems '{spec}'", "has an unknown split", given=given, expected=" or ".join(SPLITS))


def load_problems(spec: str, run_canonical: RunCanonical | None = None) -> list[Problem]:
    """The problems that a SPEC names, in the order of their file. BadInput where they cannot be read.

    HumanEval+ and MBPP+ come without expected values: with `run_canonical` they are filled in (and cached), without it
    they stay pending (`needs_expected`) and cannot be judged yet.
    """
    parts = parse_spec(spec)
    if parts.path is None:
        problems = _named(parts)
    elif parts.name == "jsonl":
        problems = read_problems(parts.path)
    else:
        problems = FORMATS[parts.name](
            apps_folders(parts.path) if parts.path.is_dir() and parts.name == "apps" else rows(parts.path)
        )
    if parts.split:
        present = {p.split for p in problems} - {""}
        problems = [p for p in problems if p.split == parts.split]
        if not problems:
            raise sources.no_such_split(spec, parts.split, present)
    if not problems:
        raise BadInput(f"problems '{spec}'", "holds no problem")
    ((repeated, times),) = Counter(problem.id for problem in problems).most_common(1)
    if times > 1:
        raise BadInput(f"problems '{spec}'", f"holds {times} problems of one id", given=repeated, expected="unique ids")
    return resolve_expected(problems, run_canonical) if run_canonical else problems


def published_set(spec: str) -> sources.Hub | None:
    """The data set on the hub that a SPEC names, wherever it is read from; None for files and what comes with us."""
    parts = parse_spec(spec)
    return sources.SETS[parts.name].hub if parts.path is None and parts.name in sources.SETS else None


def hub_set(spec: str) -> sources.Hub | None:
    """The data set on the hub that a SPEC would be read from; None where it is read from this machine."""
    return published_set(spec) if local_set(spec) is None else None


def local_set(spec: str) -> Path | None:
    """The file or folder that a SPEC is read from, whether or not it is there; None where only the hub has the set."""
    parts = parse_spec(spec)
    if parts.name == "bundled":
        return Path(__file__).parent.parent / "bundled"
    return parts.path or sources.on_this_machine(parts.name)


def _named(parts: Spec) -> list[Problem]:
    if parts.name == "bundled":
        from ledex_ray.bundled import load_bundled  # it reads through this package

        return load_bundled()
    found = sources.find(parts.name, parts.split)
    return FORMATS[found.format](found.rows)

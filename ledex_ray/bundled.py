"""The problems that come with the package: three splits (train, validation, heldout) that share no task."""

from __future__ import annotations

from importlib.resources import as_file, files

from ledex_ray.errors import BadInput
from ledex_ray.problems import Problem
from ledex_ray.readers.jsonl import read_problems

SPLITS = ("train", "validation", "heldout")


def load_bundled(split: str | None = None) -> list[Problem]:
    """The bundled problems of one split, or all, by file and line; `meta` holds difficulty (1 to 3) and topic."""
    if split is not None and split not in SPLITS:
        raise BadInput("bundled", "has no such split", given=split, expected=" or ".join(SPLITS))
    problems: list[Problem] = []
    with as_file(files("ledex_ray") / "bundled") as folder:
        for path in sorted(folder.glob("problems-*.jsonl")):
            problems += read_problems(path, benchmark="bundled")
    return [p for p in problems if split in (None, p.split)]

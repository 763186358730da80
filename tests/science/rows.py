"""Rows of problem sets as files, for the tests of their readers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

GOOD: dict[str, Any] = {
    "id": "own/1",
    "text": "Add one.",
    "entry_point": "add",
    "canonical_solutions": ["def add(a):\n    return a + 1\n"],
    "tests": [{"args": "(1,)", "expected": "2"}],
}
CONTEST = {"name": "1_A", "description": "Double.", "public_tests": {"input": ["1\n"], "output": ["2\n"]}}


def write(folder: Path, *rows: object, name: str = "problems.jsonl") -> Path:
    path = folder / name
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return path

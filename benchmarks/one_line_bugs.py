"""A small task that tests verify: functions of one line with one-edit bugs, made from a fixed seed.

Twenty kinds of function, each asked for with several numbers or letters; the training problems and the evaluation
problems have the same kinds and different numbers. Written as problem sets of the format jsonl (docs/files.md); the
bugs are those that synthesis seeds in any problem's canonical solution.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

SEED = 0
TRAINING, EVALUATION = 4, 2  # problems of each kind
TESTS = 6


@dataclass(frozen=True)
class Kind:
    """Functions of one parameter that differ in `k`. `what` and `code` name the parameter and have `{k}` in them."""

    name: str
    parameter: str
    what: str
    code: str
    takes: Literal["number", "numbers", "text"]
    k: Literal["number", "letter"] = "number"


KINDS = (
    Kind("add_{k}", "x", "`x` plus {k}", "x + {k}", "number"),
    Kind("minus_{k}", "x", "`x` minus {k}", "x - {k}", "number"),
    Kind("times_{k}", "x", "`x` times {k}", "x * {k}", "number"),
    Kind("rest_{k}", "x", "the remainder of `x` divided by {k}", "x % {k}", "number"),
    Kind("above_{k}", "x", "True if `x` is greater than {k}, else False", "x > {k}", "number"),
    Kind("below_{k}", "x", "True if `x` is less than {k}, else False", "x < {k}", "number"),
    Kind("not_{k}", "x", "True if `x` is different from {k}, else False", "x != {k}", "number"),
    Kind("multiple_of_{k}", "x", "True if `x` is a multiple of {k}, else False", "x % {k} == 0", "number"),
    Kind("square_plus_{k}", "x", "the square of `x` plus {k}", "x * x + {k}", "number"),
    Kind("twice_minus_{k}", "x", "two times `x` minus {k}", "2 * x - {k}", "number"),
    Kind("first_{k}", "items", "the first {k} items of the list `items`", "items[:{k}]", "numbers"),
    Kind("without_first_{k}", "items", "the list `items` without its first {k} items", "items[{k}:]", "numbers"),
    Kind("last_{k}", "items", "the last {k} items of the list `items`", "items[-{k}:]", "numbers"),
    Kind("sum_plus_{k}", "items", "the sum of the list `items` plus {k}", "sum(items) + {k}", "numbers"),
    Kind("count_{k}", "items", "how often {k} is in the list `items`", "items.count({k})", "numbers"),
    Kind("longer_than_{k}", "items", "True if `items` has more than {k} items", "len(items) > {k}", "numbers"),
    Kind("repeat_{k}", "text", "the string `text` repeated {k} times", "text * {k}", "text"),
    Kind("length_plus_{k}", "text", "the length of the string `text` plus {k}", "len(text) + {k}", "text"),
    Kind("starts_with_{k}", "text", 'True if `text` starts with "{k}"', 'text.startswith("{k}")', "text", "letter"),
    Kind("append_{k}", "text", 'the string `text` with "{k}" at its end', 'text + "{k}"', "text", "letter"),
)


def write_task(folder: Path) -> str:
    """Writes train.jsonl and evaluation.jsonl; twelve digits of the hash of both."""
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    for name, rows in zip(("train", "evaluation"), task(), strict=True):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
        digest.update(text.encode())
    return digest.hexdigest()[:12]


def task() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(training problems, evaluation problems), the same at every call."""
    training, evaluation = [], []
    for kind in KINDS:
        draw = random.Random(f"{SEED}/{kind.name}")
        pool: Sequence[int | str] = range(2, 10) if kind.k == "number" else "abdegmst"
        values = draw.sample(pool, TRAINING + EVALUATION)
        training += [_problem(kind, k, draw, "train") for k in values[:TRAINING]]
        evaluation += [_problem(kind, k, draw, "validation") for k in values[TRAINING:]]
    return training, evaluation


def _problem(kind: Kind, k: int | str, draw: random.Random, split: str) -> dict[str, Any]:
    name, expression = kind.name.format(k=k), kind.code.format(k=k)
    inputs = _inputs(kind, k, draw)
    return {
        "id": f"one_line/{name}",
        "text": f"Write a function `{name}({kind.parameter})` that returns {kind.what.format(k=k)}.",
        "entry_point": name,
        "canonical_solutions": [f"def {name}({kind.parameter}):\n    return {expression}\n"],
        "public": 2,
        "tests": [
            {"args": repr((value,)), "expected": repr(eval(expression, {kind.parameter: value}))} for value in inputs
        ],
        "split": split,
    }


def _inputs(kind: Kind, k: int | str, draw: random.Random) -> list[Any]:
    """Distinct arguments that tell near misses apart: the border and its neighbours, then random ones."""
    if kind.takes == "number":
        assert isinstance(k, int)
        near = [k + 3, k, k - 1, k + 1]
        return near + draw.sample([n for n in range(-20, 60) if n not in near], TESTS - len(near))
    if kind.takes == "numbers":
        assert isinstance(k, int)
        lists = [[draw.randrange(10) for _ in range(length)] for length in (k + 3, k, k - 1, k + 1)]
        return [*lists, [k, 1, k], []]
    words = ["sun", "tea", "map", "game", "bread", "dust", "milk", "apple", "stone", "egg", "art", "moon"]
    fitting = [word for word in words if word.startswith(str(k))]
    others = draw.sample([word for word in words if word not in fitting], TESTS - 1 - len(fitting[:2]))
    return [*others[:1], *fitting[:2], *others[1:], ""]

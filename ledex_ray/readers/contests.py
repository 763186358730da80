"""APPS (Hendrycks et al. 2021) and CodeContests (Li et al. 2022): stdin/stdout cases, and APPS' function calls.

Public are the samples; the first case where they are not marked. Time and memory limits of the sets are meant for
compiled languages and are not taken over.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from ledex_ray.errors import BadInput
from ledex_ray.literals import field_literal
from ledex_ray.problems import CallTest, Problem, StdioTest, Test
from ledex_ray.readers.files import Row, read_text, text_field

SPLITS = ("train", "test")
CASES = ("public_tests", "private_tests", "generated_tests")
PYTHON3 = 3  # of CodeContests' languages: 0 unknown, 1 Python 2, 2 C++, 3 Python 3, 4 Java


def apps_folders(folder: Path) -> Iterator[tuple[str, Row]]:
    """Rows of APPS' own layout: `folder/{train,test}/NNNN/`, or the problems' folders themselves."""
    if not folder.is_dir():
        raise BadInput(str(folder), "no such folder", expected="a folder with train/ or test/, or one folder a problem")
    splits = [folder / name for name in SPLITS if (folder / name).is_dir()] or [folder]
    for split in splits:
        for problem in sorted(p for p in split.iterdir() if (p / "question.txt").is_file()):
            yield str(problem), _apps_row(problem, split.name if split.name in SPLITS else "")


def _apps_row(folder: Path, split: str) -> Row:
    def optional(name: str) -> str:
        return read_text(folder / name) if (folder / name).is_file() else ""

    metadata = _json({"metadata": optional("metadata.json")}, "metadata", str(folder / "metadata.json"), {})
    if not isinstance(metadata, dict):
        raise BadInput(str(folder / "metadata.json"), "is not a JSON object", given=metadata)
    return {
        "problem_id": f"{split}/{folder.name}" if split else folder.name,
        "split": split,
        "question": read_text(folder / "question.txt"),
        "input_output": optional("input_output.json"),
        "solutions": optional("solutions.json"),
        "starter_code": optional("starter_code.py"),
        "difficulty": metadata.get("difficulty", ""),
    }


def read_apps(rows: Iterable[tuple[str, Row]]) -> list[Problem]:
    """APPS' problems that have tests, ids "APPS/<split>/<number>". BadInput where a row is not APPS'.

    The hub's files number their rows by `id` within a split; its loader calls that `problem_id`.
    """
    return [p for where, row in rows if (p := _apps_problem(row, where)) is not None]


def _json(row: Row, name: str, where: str, default: Any) -> Any:
    value = row.get(name)
    if not isinstance(value, str):
        return default if value is None else value
    try:
        return json.loads(value, parse_int=_integer) if value.strip() else default
    except (ValueError, RecursionError) as error:
        raise BadInput(where, f"field '{name}' is not JSON ({error})", given=value) from error


def _integer(digits: str) -> int:
    """Also of more digits than Python turns into a number at once."""
    return int(digits) if len(digits) <= 4000 else int(Decimal(digits))


def _apps_id(row: Row, split: str, where: str) -> str:
    number = row["problem_id"] if row.get("problem_id") is not None else row.get("id")
    if isinstance(number, str) and number.strip():
        return number
    if isinstance(number, bool) or not isinstance(number, int):
        raise BadInput(where, "field 'problem_id' (or 'id')", given=number, expected="the number of the problem")
    return f"{split}/{number:04d}" if split else f"{number:04d}"


def _apps_problem(row: Row, where: str) -> Problem | None:
    if "input_output" not in row:
        raise BadInput(where, "field 'input_output' is missing", expected="a problem of APPS")
    cases = _json(row, "input_output", where, {})
    if not isinstance(cases, dict) or not {"inputs", "outputs"} <= set(cases):
        if not cases:
            return None  # some test problems of APPS come without any case
        raise BadInput(where, "field 'input_output'", given=cases, expected='{"inputs": [...], "outputs": [...]}')
    pairs = _pairs(cases, "input_output", ("inputs", "outputs"), where)
    if not pairs:
        return None
    name, starter = cases.get("fn_name") or "", text_field(row, "starter_code", where, required=False)
    if not isinstance(name, str):
        raise BadInput(where, "field 'input_output.fn_name'", given=name, expected="a function's name")
    solutions = _json(row, "solutions", where, [])
    if not isinstance(solutions, list):
        raise BadInput(where, "field 'solutions'", given=solutions, expected="a list of programs")
    question, split = text_field(row, "question", where), text_field(row, "split", where, required=False)
    return Problem(
        id=f"APPS/{_apps_id(row, split, where)}",
        text=f"{question.rstrip()}\n\nComplete this code:\n{starter}" if starter.strip() else question,
        tests=_call_tests(pairs, "class Solution" in starter, where)
        if name
        else tuple(StdioTest(_lines(stdin), _lines(stdout)) for stdin, stdout in pairs),
        entry_point=name,
        canonical_solutions=tuple(s for s in solutions if isinstance(s, str)),
        n_public=1,
        split=split,
        benchmark="apps",
        meta={"difficulty": str(row.get("difficulty", ""))},
    )


def _lines(text: Any) -> str:
    return "\n".join(map(str, text)) if isinstance(text, list) else str(text)


def _call_tests(pairs: list[tuple[Any, Any]], method: bool, where: str) -> tuple[Test, ...]:
    """Calls compared as JSON. Outside LeetCode's class layout, values come wrapped in lists of one."""
    wrapped = not method and all(isinstance(out, list) and len(out) == 1 for _, out in pairs)
    tests: list[Test] = []
    for given, output in pairs:
        if not isinstance(given, list):
            raise BadInput(where, "field 'input_output.inputs'", given=given, expected="a list of arguments a case")
        args = tuple(map(_numbered_keys, given))
        expected = _numbered_keys(output[0] if wrapped else output)
        arguments = field_literal(args, where, "input_output.inputs")
        tests.append(CallTest(arguments, field_literal(expected, where, "input_output.outputs"), compare="json"))
    return tuple(tests)


def _numbered_keys(value: Any) -> Any:
    """JSON has no integer keys: a dict whose keys are all numbers gets them back."""
    if isinstance(value, dict) and value and all(re.fullmatch(r"-?\d{1,4000}", k) for k in value):
        return {int(k): v for k, v in value.items()}
    return value


def read_codecontests(rows: Iterable[tuple[str, Row]]) -> list[Problem]:
    """CodeContests' problems that have tests: public samples first, then private and generated cases.

    Names are those of several contest sites: a split's second problem of one name is NAME~2.
    """
    problems: list[Problem] = []
    seen: Counter[tuple[str, str]] = Counter()
    for where, row in rows:
        problem = _contest_problem(row, where)
        if problem is not None:
            seen[problem.split, problem.id] += 1
            count = seen[problem.split, problem.id]
            problems.append(replace(problem, id=f"{problem.id}~{count}") if count > 1 else problem)
    return problems


def _contest_problem(row: Row, where: str) -> Problem | None:
    if not any(name in row for name in CASES):
        raise BadInput(where, "field 'public_tests' is missing", expected="a problem of CodeContests")
    groups = [_cases(row, name, where) for name in CASES]
    tests = [test for group in groups for test in group]
    if not tests:
        return None
    solutions = _pairs(row.get("solutions"), "solutions", ("language", "solution"), where)
    right = [code for language, code in solutions if language in (PYTHON3, "PYTHON3") and isinstance(code, str)]
    split = text_field(row, "split", where, required=False)
    return Problem(
        id=f"CodeContests/{text_field(row, 'name', where)}",
        text=text_field(row, "description", where),
        tests=tuple(tests),
        canonical_solutions=tuple(right),
        n_public=len(groups[0]) or 1,
        split="validation" if split == "valid" else split,
        benchmark="codecontests",
        meta={"difficulty": str(row.get("difficulty", ""))},
    )


def _cases(row: Row, name: str, where: str) -> list[StdioTest]:
    pairs = _pairs(row.get(name), name, ("input", "output"), where)
    wrong = next((text for pair in pairs for text in pair if not isinstance(text, str)), None)
    if wrong is not None:
        raise BadInput(where, f"field '{name}'", given=wrong, expected="cases of text")
    return [StdioTest(stdin, stdout) for stdin, stdout in pairs]


def _pairs(value: Any, name: str, keys: tuple[str, str], where: str) -> list[tuple[Any, Any]]:
    """What a field holds as two lists side by side, or as a list of objects; none where it is missing or empty."""
    if not value:
        return []
    if isinstance(value, list) and all(isinstance(item, dict) and set(keys) <= set(item) for item in value):
        return [(item[keys[0]], item[keys[1]]) for item in value]
    sides: list[Any] = [value.get(key) for key in keys] if isinstance(value, dict) else []
    if not sides or not all(isinstance(side, list) for side in sides) or len(sides[0]) != len(sides[1]):
        expected = f'{{"{keys[0]}": [...], "{keys[1]}": [...]}}, both of one length'
        raise BadInput(where, f"field '{name}'", given=value, expected=expected)
    return list(zip(*sides, strict=True))

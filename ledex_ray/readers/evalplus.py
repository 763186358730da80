"""HumanEval+ and MBPP+ (EvalPlus, Liu et al. 2023): base inputs, then plus inputs.

The files hold inputs alone: the expected values come from running the reference solution
(`ledex_ray.readers.expected`), until then they read `PENDING`. Tasks whose answer is not unique have an oracle of
their own, as EvalPlus has it: sets compared as sets, three tasks with a second accepted answer, one that accepts any,
a root checked by its polynomial, matches by being there.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ledex_ray.errors import BadInput
from ledex_ray.literals import field_literal
from ledex_ray.problems import AssertTest, CallTest, OracleTest, Problem, Test
from ledex_ray.readers.docstrings import shown_calls
from ledex_ray.readers.evalplus_hub import file_row
from ledex_ray.readers.files import Row, text_field
from ledex_ray.readers.humaneval import docstring_of, helpers
from ledex_ray.readers.mbpp import split_of

PENDING = "__EXPECTED__"
Restorer = Callable[[list[Any]], Iterable[Any]]

SET_TASKS = frozenset(
    {
        "similar_elements",
        "find_char_long",
        "common_in_nested_lists",
        "extract_singly",
        "larg_nnum",
        "intersection_array",
        "find_dissimilar",
        "Diff",
    }
)
MATCH_TASKS = frozenset({"check_str", "text_match_three", "text_starta_endb"})  # the reference returns re.Match

SET_ORACLE = f"EXPECTED = {PENDING}\ndef check(args, got):\n    return set(got) == set(EXPECTED)\n"
ANY_ORACLE = "def check(args, got):\n    return True\n"  # what MBPP/164 asks for is not well defined
ZERO_ORACLE = f"EXPECTED = {PENDING}\ndef check(args, got):\n    return got == EXPECTED or got == 0\n"
SURFACE_ORACLE = f"""EXPECTED = {PENDING}
def check(args, got):
    base, height = args
    slant = ((base / 2) ** 2 + height ** 2) ** 0.5
    return got == EXPECTED or abs(got - round(base ** 2 + 2 * base * slant)) <= {{atol}}
"""
DIGITS_ORACLE = f"""EXPECTED = {PENDING}
def check(args, got):
    a, b = (str(n) for n in args)
    width = max(len(a), len(b))
    return got == EXPECTED or got == sum(abs(int(x) - int(y)) for x, y in zip(a.zfill(width), b.zfill(width)))
"""
ROOT_ORACLE = """def check(args, got):
    return abs(sum(c * float(got) ** i for i, c in enumerate(args[0]))) <= {atol}
"""
# The function is named apart from its call, so that the judge runs these beside the program: a match is no plain data.
MATCH_ASSERT = f"""call = {{name}}
got = call(*{{args}})
assert (got if isinstance(got, bool) else got is not None) == {PENDING}"""
ORACLES = {
    "are_equivalent": ANY_ORACLE,
    "sum_div": ZERO_ORACLE,
    "surface_Area": SURFACE_ORACLE,
    "digit_distance_nums": DIGITS_ORACLE,
    **dict.fromkeys(SET_TASKS, SET_ORACLE),
}


def read_evalplus(rows: Iterable[tuple[str, Row]]) -> list[Problem]:
    """HumanEval+ (split "test") or MBPP+ (MBPP's splits) problems, told apart by their ids; expected values PENDING."""
    return [_problem(file_row(row, where), where) for where, row in rows]


def _problem(row: Row, where: str) -> Problem:
    task_id = text_field(row, "task_id", where)
    if task_id.startswith("HumanEval/"):
        return _humaneval(row, task_id, where)
    if task_id.startswith("Mbpp/") and task_id[5:].isdecimal():
        return _mbpp(row, task_id, int(task_id[5:]), where)
    raise BadInput(where, "field 'task_id'", given=task_id, expected='"HumanEval/<number>" or "Mbpp/<number>"')


def _inputs(row: Row, where: str, restore: Restorer = list) -> list[str]:
    """The arguments of base inputs, then of plus inputs; one file has `{}` where a task has no plus inputs."""
    inputs: list[str] = []
    for field in ("base_input", "plus_input"):
        given = row.get(field)
        if given != {} and not (isinstance(given, list) and all(isinstance(i, list | tuple) for i in given)):
            raise BadInput(where, f"field '{field}'", given=given, expected="a list of argument lists")
        inputs += [_arguments(list(i), restore, where, f"{field}[{index}]") for index, i in enumerate(given or [])]
    return inputs


def _arguments(given: list[Any], restore: Restorer, where: str, field: str) -> str:
    try:
        restored = tuple(restore(given))
    except (TypeError, ValueError, IndexError, AttributeError) as error:
        raise BadInput(
            where, f"field '{field}' ({error})", given=given, expected="the arguments that this task takes"
        ) from error
    return field_literal(restored, where, field)


def _humaneval(row: Row, task_id: str, where: str) -> Problem:
    name, prompt = text_field(row, "entry_point", where), text_field(row, "prompt", where)
    docstring = docstring_of(prompt, name, where)
    arguments = _inputs(row, where)
    n_base = len(row["base_input"])
    shown = shown_calls(docstring, [_listed(a) for a in arguments[:n_base]])
    order = [*shown, *(i for i in range(len(arguments)) if i not in set(shown))]
    tests = [_test(name, arguments[i], _atol(row, where), humaneval=True) for i in order]
    return Problem(
        id=task_id,
        text=docstring,
        tests=tuple(tests),
        entry_point=name,
        prompt=prompt,
        setup=helpers(prompt, name, where),
        canonical_solutions=(prompt + text_field(row, "canonical_solution", where),),
        n_public=len(shown),
        split="test",
        benchmark="humanevalplus",
    )


def _listed(arguments: str) -> str:
    """The text between the parentheses of a tuple, as a call shows it."""
    return arguments[1:-1].rstrip(",")


def _mbpp(row: Row, task_id: str, number: int, where: str) -> Problem:
    name, prompt = text_field(row, "entry_point", where), text_field(row, "prompt", where)
    arguments = _inputs(row, where, list if row.get("restored") else restorer(number))
    text = "\n".join(line for line in prompt.strip().strip('"').strip().splitlines() if not line.startswith("assert"))
    return Problem(
        id=task_id,
        text=text,
        tests=tuple(_test(name, a, _atol(row, where), humaneval=False) for a in arguments),
        entry_point=name,
        prompt=prompt,
        canonical_solutions=(text_field(row, "canonical_solution", where),),
        n_public=1,
        split=split_of(number),
        benchmark="mbppplus",
    )


def _atol(row: Row, where: str) -> float:
    atol = row.get("atol", 0)
    if isinstance(atol, bool) or not isinstance(atol, int | float) or atol < 0:
        raise BadInput(where, "field 'atol'", given=atol, expected="a number that is not negative")
    return float(atol)


def _test(name: str, arguments: str, atol: float, *, humaneval: bool) -> Test:
    if humaneval and name == "find_zero":
        return OracleTest(arguments, ROOT_ORACLE.format(atol=atol))
    if not humaneval and name in MATCH_TASKS:
        return AssertTest(MATCH_ASSERT.format(name=name, args=arguments))
    if not humaneval and name in ORACLES:
        return OracleTest(arguments, ORACLES[name].replace("{atol}", str(atol)))
    if atol:
        return CallTest(arguments, PENDING, compare="close", atol=atol, rtol=1e-7)
    return CallTest(arguments, PENDING)


def pending_arguments(test: Test) -> str | None:
    """The arguments of a test whose expected value is not known yet; None for every other test."""
    match test:
        case CallTest(expected=expected) if expected == PENDING:
            return test.args
        case OracleTest(oracle=oracle) if PENDING in oracle:
            return test.args
        case AssertTest(code=code) if code.endswith(PENDING):
            return code.split("(*", 1)[1].split("\n", 1)[0].removesuffix(")")
    return None


def with_expected(problem: Problem, texts: Mapping[str, str | None]) -> Problem:
    """The problem with its pending values filled in; `texts` maps a test's arguments to the literal of its value.

    None stands for a value without one: a match, which is what three tasks ask for; other such tests are left out.
    From the first expected float on, values are compared within 1e-6, as EvalPlus does where a task names no tolerance.
    """
    tests: list[Test] = []
    loose, n_public = False, problem.n_public
    for index, test in enumerate(problem.tests):
        arguments = pending_arguments(test)
        if arguments is None:
            tests.append(test)
            continue
        text = texts[arguments]
        if isinstance(test, AssertTest):
            tests.append(AssertTest(test.code.replace(PENDING, str(text not in ("None", "False")))))
        elif text is None:
            n_public -= index < problem.n_public
        elif isinstance(test, OracleTest):
            tests.append(dataclasses.replace(test, oracle=test.oracle.replace(PENDING, text)))
        elif isinstance(test, CallTest):
            loose = loose or (not test.atol and _is_floats(text))
            filled = dataclasses.replace(test, expected=text)
            if loose and not test.atol:
                filled = dataclasses.replace(filled, compare="close", atol=1e-6, rtol=1e-7)
            tests.append(filled)
    return dataclasses.replace(problem, tests=tuple(tests), n_public=n_public)


def _is_floats(text: str) -> bool:
    """A float, or a list or tuple of nothing but floats."""
    value = ast.literal_eval(text)
    if isinstance(value, list | tuple) and value:
        return all(isinstance(v, float) for v in value)
    return isinstance(value, float)


# JSON has no tuples, sets or complex numbers: which tasks take them, and where (EvalPlus' data notes).
TUPLES = frozenset(
    {2, 116, 132, 143, 222, 261, 273, 394, 399, 421, 424, 429, 470, 560, 579, 596, 616, 630, 726, 740, 744, 809}
)
LISTS_OF_TUPLES = frozenset({63, 64, 70, 94, 120, 237, 272, 299, 400, 409, 417, 438, 473, 614, 780})
FIRST_LIST_OF_TUPLES = frozenset({75, 413, 444, 753})
SECOND_TUPLE = frozenset({106, 750})
FIRST_TUPLE = frozenset({250, 307, 405, 446, 617, 720, 763, 808})
TUPLES_OF_TUPLES = frozenset({259, 401, 445})
ALL_TUPLES = frozenset({580, 615, 791})


def restorer(number: int) -> Restorer:
    """What turns one MBPP+ input, as JSON has it, into the arguments that the task takes."""
    special: dict[int, Restorer] = {
        115: lambda a: [[set(x) if isinstance(x, list) and x else {} for x in a[0]]],
        124: lambda a: [float(a[0]), complex(a[1])],
        252: lambda a: [complex(a[0])],
        278: lambda a: [tuple(tuple(x) if isinstance(x, list) else x for x in a[0])],
        722: lambda a: [{key: tuple(value) for key, value in a[0].items()}, *a[1:]],
    }
    groups: tuple[tuple[frozenset[int], Restorer], ...] = (
        (TUPLES, lambda a: map(tuple, a)),
        (LISTS_OF_TUPLES, lambda a: [[tuple(x) for x in arg] for arg in a]),
        (FIRST_LIST_OF_TUPLES, lambda a: [[tuple(x) for x in a[0]], *a[1:]]),
        (SECOND_TUPLE, lambda a: [a[0], tuple(a[1])]),
        (FIRST_TUPLE, lambda a: [tuple(a[0]), *a[1:]]),
        (TUPLES_OF_TUPLES, lambda a: [tuple(tuple(x) for x in arg) for arg in a]),
        (ALL_TUPLES, lambda a: map(_all_tuples, a)),
    )
    for numbers, restore in groups:
        if number in numbers:
            return restore
    return special.get(number, lambda a: a)


def _all_tuples(value: Any) -> Any:
    return tuple(map(_all_tuples, value)) if isinstance(value, list) else value

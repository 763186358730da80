"""Short text about what went wrong: the call, what it returned, what was expected; or the error and its line."""

from __future__ import annotations

from collections.abc import Sequence

from ledex_ray.problems import Problem, StdioTest
from ledex_ray.records import TestResult, TestStatus

_LINE = 100


def feedback(problem: Problem, results: Sequence[TestResult], program: str) -> str:
    """One sentence about the first of these tests that did not pass; what passed, if all did; "" without tests."""
    if not results:
        return ""
    ran = [result for result in results if result.status is not TestStatus.NOT_RUN]
    for result in ran:
        if result.status is not TestStatus.PASSED:
            return _sentence(problem, result, program)
    if len(ran) < len(results):
        return "The tests were not run: the program did not get that far."
    return "This test passes." if len(results) == 1 else f"All these {len(results)} tests pass."


def _sentence(problem: Problem, result: TestResult, program: str) -> str:
    script = isinstance(problem.tests[result.index], StdioTest)
    match result.status:
        case TestStatus.ERROR:
            where = f" ({_source_line(program, result.line)})" if result.line else ""
            if script:
                return f"{result.error}{where}{_on_input(result.call)}"
            if result.got:  # the test's own code could not use what came
                return f"The call {result.call} returned {result.got}; the test then raised {result.error}."
            return f"{result.error}{where}{' for the call ' + result.call if result.call else ''}."
        case TestStatus.FAILED if script:
            if result.error:
                return f"{result.error}{_on_input(result.call)}"
            printed = f"For the input\n{result.call}\nthe program printed\n{result.got}\n"
            return f"{printed}but this was expected\n{result.expected}"
        case TestStatus.FAILED if result.expected:
            what = "call" if _is_call(result.call) else "expression"
            return f"The {what} {result.call} returned {result.got}, but {result.expected} was expected."
        case TestStatus.FAILED:
            returned = f": the call {result.call} returned {result.got}" if result.call and result.got else ""
            return f"The test `{result.error}` failed{returned}."
        case TestStatus.OPAQUE:
            return f"The call {result.call}: {result.error}, which is no plain value."
        case _:
            text = result.error[:1].upper() + result.error[1:]
            if script:
                return f"{text}{_on_input(result.call)}"
            return f"{text}{' for the call ' + result.call if result.call else ''}."


def _is_call(text: str) -> bool:
    return text.endswith(")") and text.split("(")[0].isidentifier()


def _on_input(stdin: str) -> str:
    return f" for the input\n{stdin}" if stdin else "."


def _source_line(program: str, line: int) -> str:
    lines = program.splitlines()
    text = lines[line - 1].strip() if 0 < line <= len(lines) else ""
    return f"line {line}: {text[:_LINE]}" if text else f"line {line}"

"""Every instruction that a model sees. What it answers is parsed in answers.py.

A prompt is a tuple of messages; `ledex_ray.chat` turns it into token ids under the model's chat template or a
plain layout.
"""

from __future__ import annotations

import ast
import hashlib
import re
from dataclasses import dataclass
from typing import Literal

from ledex_ray.problems import AssertTest, CallTest, Problem, StdioTest, Test
from ledex_ray.records import Instruction

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


Prompt = tuple[Message, ...]


COMPLETE = "Complete this {thing}:\n{code}"
BEGINS = "{text}\n\nIt begins like this:\n{code}"
NAMED = "{text}\n\nName it `{name}`."
SHOWN = "It must pass:\n{tests}"
SOLVE = "Answer with the Python {thing} in one ```python block and nothing else."
WRONG = "This code is wrong.\n{feedback}"
WRONG_SILENT = "This code is wrong."
NO_CODE = "There is no Python code in this answer."
REFINE = {
    Instruction.DIRECT: "Answer with the corrected {thing} in one ```python block and nothing else.",
    Instruction.EXPLAIN: (
        "First explain in one or two sentences what is wrong, then give the corrected {thing} in one ```python block."
    ),
}


@dataclass(frozen=True)
class Shot:
    """A worked example: a task, a wrong try with its feedback, an explanation, the right code."""

    text: str
    test: str
    wrong: str
    feedback: str
    explanation: str
    code: str


SHOTS = (
    Shot(
        text="Write a function `warm_days(temps, limit)` that returns how many temperatures are above limit.",
        test="assert warm_days([18, 25, 31], 20) == 2",
        wrong="def warm_days(temps, limit):\n    count = 0\n    for t in temps:\n"
        "        if t < limit:\n            count += 1\n    return count",
        feedback="The call warm_days([18, 25, 31], 20) returned 1, but 2 was expected.",
        explanation="The comparison is turned round: `t < limit` counts the days below the limit. "
        "It must be `t > limit`.",
        code="def warm_days(temps, limit):\n    count = 0\n    for t in temps:\n"
        "        if t > limit:\n            count += 1\n    return count",
    ),
    Shot(
        text="Write a function `join_initials(words)` that returns the first letter of each word as one string.",
        test='assert join_initials(["red", "ant"]) == "ra"',
        wrong='def join_initials(words):\n    return "".join(w[1] for w in words)',
        feedback="The call join_initials(['red', 'ant']) returned 'en', but 'ra' was expected.",
        explanation="The index is off by one: `w[1]` is the second letter of a word. The first is `w[0]`.",
        code='def join_initials(words):\n    return "".join(w[0] for w in words)',
    ),
    Shot(
        text="Write a function `total_price(prices, discount)` that returns the sum of prices minus the discount.",
        test="assert total_price([5, 7], 2) == 10",
        wrong="def total_price(prices, discount):\n    total = 0\n    for p in prices:\n"
        "        total = p\n    return total - discount",
        feedback="The call total_price([5, 7], 2) returned 5, but 10 was expected.",
        explanation="`total = p` overwrites the sum in each step, so only the last price is kept. "
        "Each price must be added with `total += p`.",
        code="def total_price(prices, discount):\n    total = 0\n    for p in prices:\n"
        "        total += p\n    return total - discount",
    ),
)


def solve_prompt(problem: Problem, shots: int = 0) -> Prompt:
    """The messages that ask for a first solution, after `shots` worked examples."""
    return (*_solve_shots(shots), Message("user", _task(problem)))


def refine_prompt(problem: Problem, wrong_code: str, feedback: str, instruction: Instruction, shots: int = 0) -> Prompt:
    """The messages that ask for a refinement: the wrong code stands in the history as the model's own turn.

    An empty `feedback` says only that the code is wrong (the no-feedback control).
    """
    return (
        *_refine_shots(shots, instruction),
        Message("user", _task(problem)),
        Message("assistant", fenced(wrong_code)),
        Message("user", _complaint(feedback, instruction, _thing(problem))),
    )


def follow_up(problem: Problem, feedback: str | None, instruction: Instruction) -> Message:
    """What is said to a refinement that failed too, with the same request; None as feedback: it holds no code."""
    if feedback is None:
        return Message("user", f"{NO_CODE}\n\n{REFINE[instruction].format(thing=_thing(problem))}")
    return Message("user", _complaint(feedback, instruction, _thing(problem)))


def explained_answer(explanation: str, code: str) -> str:
    """The answer text of an (explanation, refinement) pair, as training data shows it."""
    return f"{explanation.strip()}\n\n{fenced(code)}"


def fenced(code: str) -> str:
    """Code in one python block."""
    return f"```python\n{code.strip(chr(10))}\n```"


def show_test(problem: Problem, test: Test) -> str:
    """A test as a reader understands it; empty for tests that have no short form."""
    match test:
        case AssertTest(code):
            return code.strip()
        case CallTest(args, expected, kwargs):
            return f"assert {show_call(problem.entry_point, args, kwargs)} == {expected}"
        case StdioTest(stdin, stdout):
            return f"Input:\n{stdin.strip()}\nOutput:\n{stdout.strip()}"
    return ""


def show_call(entry_point: str, args: str, kwargs: str = "{}") -> str:
    """`f(1, [2], key=3)` of literal texts "(1, [2])" and "{'key': 3}"."""
    try:
        shown = [ast.unparse(node) for node in _elements(args)]
        named = ast.parse(kwargs, mode="eval").body
    except SyntaxError:
        return f"{entry_point}(*{args})"
    if isinstance(named, ast.Dict):
        pairs = zip(named.keys, named.values, strict=True)
        shown += [f"{k.value!s}={ast.unparse(v)}" for k, v in pairs if isinstance(k, ast.Constant)]
    return f"{entry_point}({', '.join(shown)})"


def _elements(args: str) -> list[ast.expr]:
    node = ast.parse(args, mode="eval").body
    return list(node.elts) if isinstance(node, ast.Tuple | ast.List) else [node]


def _thing(problem: Problem) -> str:
    """What is asked for: a function, or where tests feed standard input, a whole program."""
    return "function" if problem.entry_point else "program"


def _task(problem: Problem) -> str:
    """The problem, its public tests, and what to answer. It always says the name of what the tests call."""
    tests = _shown_tests(problem)
    return _asked(_statement(problem, tests), tests, _thing(problem))


def _asked(statement: str, tests: str, thing: str = "function") -> str:
    parts = [statement, SHOWN.format(tests=tests) if tests else "", SOLVE.format(thing=thing)]
    return "\n\n".join(part for part in parts if part)


def _statement(problem: Problem, tests: str) -> str:
    """The task in words, and the beginning of the code where the set has one; what stands in that is told once."""
    text, name = problem.text.strip(), problem.entry_point
    if name and re.search(rf"\bdef[ \t]+{re.escape(name)}\b", problem.prompt):
        code = fenced(problem.prompt)
        told = " ".join(text.split()) in " ".join(problem.prompt.split())
        return COMPLETE.format(thing=_thing(problem), code=code) if told else BEGINS.format(text=text, code=code)
    known = not name or re.search(rf"\b{re.escape(name)}\b", f"{text}\n{tests}")
    return text if known else NAMED.format(text=text, name=name)


def _shown_tests(problem: Problem, longest: int = 400) -> str:
    shown = [show_test(problem, test) for test in problem.public_tests]
    return "\n".join(text for text in shown if text and len(text) <= longest)


def _complaint(feedback: str, instruction: Instruction, thing: str = "function") -> str:
    complaint = WRONG.format(feedback=feedback.strip()) if feedback.strip() else WRONG_SILENT
    return f"{complaint}\n\n{REFINE[instruction].format(thing=thing)}"


def _solve_shots(count: int) -> Prompt:
    turns: list[Message] = []
    for shot in SHOTS[:count]:
        turns += [Message("user", _asked(shot.text, shot.test)), Message("assistant", fenced(shot.code))]
    return tuple(turns)


def _refine_shots(count: int, instruction: Instruction) -> Prompt:
    turns: list[Message] = []
    for shot in SHOTS[:count]:
        answer = fenced(shot.code)
        if instruction is Instruction.EXPLAIN:
            answer = explained_answer(shot.explanation, shot.code)
        turns += [
            Message("user", _asked(shot.text, shot.test)),
            Message("assistant", fenced(shot.wrong)),
            Message("user", _complaint(shot.feedback, instruction)),
            Message("assistant", answer),
        ]
    return tuple(turns)


WORDING = (COMPLETE, BEGINS, NAMED, SHOWN, SOLVE, WRONG, WRONG_SILENT, NO_CODE, REFINE, SHOTS)
PROMPT_VERSION = hashlib.sha256(repr(WORDING).encode()).hexdigest()[:8]

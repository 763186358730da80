"""The words for a seeded bug: a clause from its edit, a sentence from the failing test, several phrasings.

The texts are training data for a small model, so they are short, name the line and quote the code. Feedback is read
leniently: a text without a recognisable call, value or error adds no sentence.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from ledex_ray.mutation_source import Edit

INVERTED = {("==", "!="), ("!=", "=="), ("in", "not in"), ("not in", "in"), ("is", "is not"), ("is not", "is")}


def hint(edit: Edit) -> str:
    """What the edited code does wrong and what it should do instead, as one clause."""
    right, wrong, old, new = (_one_line(t) for t in (edit.right, edit.wrong, edit.old, edit.text))
    swap = f"`{wrong}` should be `{right}`"
    match edit.operator:
        case "wrong comparison":
            return f"{_comparison(old, new)}: {swap}"
        case "wrong variable" | "wrong return" if (
            old.isidentifier() and new.isidentifier() and old not in ("True", "False")
        ):
            verb = "returns" if edit.operator == "wrong return" and wrong.startswith("return ") else "uses"
            return (
                f"it {verb} `{new}` where `{old}` is meant: {swap}"
                if wrong != new
                else (f"it {verb} `{new}` where `{old}` is meant")
            )
        case "wrong return":
            return f"it returns the opposite of the right answer: {swap}"
        case "wrong range":
            return f"the loop runs over the wrong numbers: {swap}"
        case "wrong index":
            return f"it reads the wrong position: {swap}"
        case "wrong slice":
            return f"the slice has the wrong bounds: {swap}"
        case "off by one":
            return f"the number is off by one: {swap}"
        case "wrong start value":
            return f"the start value is wrong: {swap}"
        case "wrong operator":
            return f"it applies `{new}` where `{old}` is needed: {swap}"
        case "wrong boolean":
            return f"the conditions are joined with `{new}` where `{old}` is needed: {swap}"
        case "negated condition":
            return f"the condition is the wrong way round: {swap}"
        case "swapped operands" | "swapped arguments" | "swapped branches":
            return f"the {edit.operator.split()[1]} are in the wrong order: {swap}"
        case "wrong function":
            return f"it calls `{new}` where `{old}` is needed: {swap}"
        case "wrong update":
            return f"the update goes the wrong way: {swap}"
        case "overwritten value":
            return f"the old value is overwritten and not accumulated: {swap}"
        case "missing condition":
            return f"a condition is missing: {swap}"
        case "missing call":
            return f"a call is missing: {swap}"
        case "missing return":
            return f"the value is computed but never returned: {swap}"
        case "missing statement":
            return f"the statement `{right}` is missing"
        case "missing case":
            return "the `else` case is missing" if right == "else" else f"the case `{_case(right)}` is not handled"
        case "early return":
            return f"`{right}` is indented into the loop, so it returns in the first pass; it belongs after the loop"
        case _:
            return swap


def _comparison(old: str, new: str) -> str:
    if (old, new) in INVERTED:
        return "the test is inverted"
    if len(old) < len(new):
        return "it wrongly counts the equal case"
    if len(old) > len(new) and new in old:
        return "it leaves out the equal case"
    return "the comparison points the wrong way"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _case(header: str) -> str:
    return header.removeprefix("el").removeprefix("if").strip()


WHERE = r"(?:(?: for the call (?P<call>.+))?\.| for the input\n(?P<stdin>.*))"
PRINTED = r"For the input\n(?P<stdin>.*)\nthe program printed\n(?P<got>.*)\nbut this was expected\n(?P<expected>.*)"
ERROR = r"\w*(?:Error|Exception|Iteration|Interrupt)\w*"
WRITTEN = (  # as `reward.judge.feedback` writes them
    re.compile(r"The (?:call|expression) (?P<call>.+) returned (?P<got>.+), but (?P<expected>.+) was expected\.", re.S),
    re.compile(r"The test `(?P<test>.+)` failed: the call (?P<call>.+) returned (?P<got>.+)\.", re.S),
    re.compile(PRINTED, re.S),
    re.compile(rf"(?P<error>\w+(?:: .+?)?) \(line \d+(?:: .*?)?\){WHERE}", re.S),
    re.compile(rf"(?P<error>{ERROR}(?:: .+?)?){WHERE}", re.S),
    re.compile(rf"(?P<limit>.*(?:time|CPU|memory).*?){WHERE}", re.S | re.I),
)
VALUE = r"(?:\s+(?:value|output|result))?\s*:?\s+`?([^\n`]+?)`?"
CALL = r"(?:call|test|input)\s*:\s*`?(?:assert\s+)?([^\n`]+?\))`?(?:\s*==|\s*$)"
EXPECTED = rf"(?:expected|should (?:be|return|give)){VALUE}(?=,? (?:but|got|and)\b|;|\.?$)"
GOT = rf"(?:got|returned|returns|gave|actual){VALUE}(?=,? (?:but|expected|instead|and)\b|;|\.?$)"
LOOSE = (  # feedback from elsewhere
    ("call", re.compile(r"assert\s+(.+?\))\s*==")),
    ("expected", re.compile(r"assert\s+.+?\)\s*==\s*([^\n]+)")),
    ("call", re.compile(CALL, re.I | re.M)),
    ("call", re.compile(r"`?([A-Za-z_]\w*\([^\n]*?\))`?\s+(?:returned|returns|gave|gives|should)")),
    ("expected", re.compile(EXPECTED, re.I | re.M)),
    ("got", re.compile(GOT, re.I | re.M)),
    ("error", re.compile(r"^\s*(\w*(?:Error|Exception)\b(?::\s*[^\n`]+)?)", re.M)),
)


@dataclass(frozen=True)
class Failure:
    """What a feedback text says of the failing test; empty where it does not."""

    call: str = ""
    expected: str = ""
    got: str = ""
    error: str = ""
    limit: str = ""  # it ran out of time or memory
    stdin: str = ""  # of a program that reads its input


def read_failure(feedback: str) -> Failure:
    """The first failing call with its expected and actual value, its error or limit, read from a feedback text."""
    for pattern in WRITTEN:
        if match := pattern.fullmatch(feedback.strip()):
            found = {name: text or "" for name, text in match.groupdict().items() if name != "test"}
            return Failure(**found)
    loose: dict[str, str] = {}
    for name, pattern in LOOSE:
        if name not in loose and (match := pattern.search(feedback)):
            loose[name] = match[1].strip().rstrip(",")
    return Failure(**loose)


def explain_edit(line: int, clause: str, feedback: str, *, key: str) -> str:
    """The explanation of a bug on `line` described by `clause`, tied to the feedback; `key` chooses the phrasing."""
    digest = hashlib.sha256(key.encode("utf-8", "replace")).digest()
    openings = (
        f"The bug is on line {line}: {clause}.",
        f"Line {line} is wrong: {clause}.",
        f"On line {line}, {clause}.",
        f"Look at line {line}: {clause}.",
        f"{clause[0].upper()}{clause[1:]} (line {line}).",
    )
    endings = _endings(read_failure(feedback))
    ending = endings[digest[1] % len(endings)] if endings else ""
    return f"{openings[digest[0] % len(openings)]} {ending}".strip()


def _endings(failure: Failure) -> tuple[str, ...]:
    call, expected, got, error = (_short(t) for t in (failure.call, failure.expected, failure.got, failure.error))
    subject = f"`{call}`" if call else "the failing test"
    if failure.stdin:
        stdin = _short(failure.stdin, 40)
        if expected:
            return (
                f"That is why it prints `{got}` instead of `{expected}` for the input `{stdin}`.",
                f"So for the input `{stdin}` it prints `{got}` but `{expected}` is expected.",
            )
        subject = f"the input `{stdin}`"
        if error:
            return (f"That is why {subject} ends in {error}.", f"Because of this, {subject} raises {error}.")
    if failure.limit:
        return (
            f"Because of this {subject} does not finish within its limits.",
            f"That is why {subject} runs until the limit.",
        )
    if error and not error.startswith("AssertionError"):
        return (f"That is why {subject} raises {error}.", f"Because of this, {subject} ends with {error}.")
    if call and expected and got:
        return (
            f"That is why `{call}` returns `{got}` instead of `{expected}`.",
            f"So `{call}` gives `{got}` but `{expected}` is expected.",
            f"The failing test shows it: `{call}` should be `{expected}`, not `{got}`.",
        )
    if call and expected:
        return (f"That is why `{call}` is not `{expected}`.", f"With the fix `{call}` gives `{expected}`.")
    if call and got:
        return (f"That is why `{call}` returns `{got}`.", f"So `{call}` gives `{got}`, which is wrong.")
    return ()


def _short(text: str, limit: int = 80) -> str:
    text = _one_line(text)
    return (text if len(text) <= limit else text[: limit - 3] + "...").replace("`", "'")

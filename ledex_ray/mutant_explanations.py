"""The words for a seeded bug: a clause from its edit, a sentence from the failing test, several phrasings.

The texts are training data for a small model, so they are short, name the line and quote the code. Feedback is read
leniently: a text without a recognisable call, value or error adds no sentence.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from ledex_ray.mutation_operators import Edit

INVERTED = {("==", "!="), ("!=", "=="), ("in", "not in"), ("not in", "in"), ("is", "is not"), ("is not", "is")}


def hint(edit: Edit) -> str:
    """What the edited code does wrong and what it should do instead, as one clause."""
    right, wrong, old, new = (_one_line(t) for t in (edit.right, edit.wrong, edit.old, edit.text))
    swap = f"`{wrong}` should be `{right}`"
    match edit.operator:
        case "wrong comparison":
            return f"{_comparison(old, new)}: {swap}"
        case "wrong variable" | "wrong return" if old.isidentifier() and new.isidentifier() and old not in (
                "True", "False"):
            verb = "returns" if edit.operator == "wrong return" and wrong.startswith("return ") else "uses"
            return f"it {verb} `{new}` where `{old}` is meant: {swap}" if wrong != new else (
                f"it {verb} `{new}` where `{old}` is meant")
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


VALUE = r"(?:\s+(?:value|output|result))?\s*:?\s+`?([^\n`]+?)`?"
PATTERNS = (
    ("call", r"(?:call|test|input)\s*:\s*`?(?:assert\s+)?([^\n`]+?\))`?(?:\s*==|\s*$)"),
    ("call", r"`?([A-Za-z_]\w*\([^\n]*?\))`?\s+(?:returned|returns|gave|gives|should|raised|raises)"),
    ("expected", rf"(?:expected|should (?:be|return|give)){VALUE}(?=,? (?:but|got|and)\b|;|\.?$)"),
    ("got", rf"(?:got|returned|returns|gave|actual){VALUE}(?=,? (?:but|expected|instead|and|where)\b|;|\.?$)"),
)


@dataclass(frozen=True)
class Failure:
    """What a feedback text says of the failing test; empty where it does not."""

    call: str = ""
    expected: str = ""
    got: str = ""
    error: str = ""


def read_failure(feedback: str) -> Failure:
    """The first failing call with its expected and actual value, or its error, read from a feedback text."""
    call = expected = got = ""
    if found := re.search(r"assert\s+(.+?\))\s*==\s*(.+)", feedback):
        call, expected = found[1], found[2]
    values = {"call": call, "expected": expected, "got": got}
    for name, pattern in PATTERNS:
        if not values[name] and (found := re.search(pattern, feedback, re.IGNORECASE | re.MULTILINE)):
            values[name] = found[1].strip().rstrip(",")
    error = re.search(r"\b([A-Z]\w*(?:Error|Exception|StopIteration|Interrupt))\b(?::\s*([^\n`]+))?", feedback)
    text = "" if error is None else error[1] + (f": {error[2].strip()}" if error[2] else "")
    if not text and re.search(r"time limit|timed out|timeout|too long", feedback, re.IGNORECASE):
        text = "timeout"
    return Failure(**values, error=text)


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
    call, expected, got = (_short(t) for t in (failure.call, failure.expected, failure.got))
    subject = f"`{call}`" if call else "the failing test"
    if failure.error == "timeout":
        return (f"Because of this {subject} does not finish in time.", f"That is why {subject} runs until the limit.")
    if failure.error and failure.error != "AssertionError":
        error = _short(failure.error, 100)
        return (f"That is why {subject} raises {error}.", f"Because of this, {subject} ends with {error}.")
    if call and expected and got:
        return (
            f"That is why `{call}` returns `{got}` instead of `{expected}`.",
            f"So `{call}` gives `{got}` but `{expected}` is expected.",
            f"The failing test shows it: `{call}` should be `{expected}`, not `{got}`.",
        )
    if call and expected:
        return (f"That is why `{call}` is not `{expected}`.", f"With the fix `{call}` gives `{expected}`.")
    return ()


def _short(text: str, limit: int = 80) -> str:
    text = _one_line(text)
    return text if len(text) <= limit else text[: limit - 3] + "..."

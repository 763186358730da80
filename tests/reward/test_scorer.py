"""The scorer: any text gets its terms within the limits, whatever it does to the parsers (SANDBOX.md, class 7)."""

from __future__ import annotations

import logging
import os
import signal
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ledex_ray.answers import Answer
from reward.codebleu import CodeBleu
from reward.scorer import MAX_LINES, Scorer, ScorerError, refusal
from reward.terms import ZERO_CODEBLEU, TextJob, TextTerms

RIGHT = "def f(a, b):\n    c = a + b\n    return c\n"
WRONG = "def f(a, b):\n    c = a - b\n    return c\n"
NESTED_LOOPS = "".join(" " * i + f"for x{i} in y{i}:\n" for i in range(20)) + " " * 20 + "z = 1\n"
"""Each level doubles the data flow's work; valid Python."""

HOSTILE = {
    "20,000 assignments": "a = 1\n" * 20_000,
    "1,999 chained assignments": "".join(f"a{i} = a{i - 1} + b\n" for i in range(1_999)),
    "nested loops": NESTED_LOOPS,
    "nested parentheses": "(" * 30_000 + ")" * 30_000,
    "open brackets": "[" * 3_000 + "]" * 3_000,
    "signs": "-" * 60_000 + "1",
    "a long sum": "+".join(["a"] * 20_000),
    "attributes": "a" + ".b" * 20_000,
    "lambdas": "lambda: " * 7_000 + "1",
    "indentation": "".join(" " * i + "if x:\n" for i in range(120)) + " " * 121 + "x = 1",
    "one string": "x = '" + "y" * 60_000 + "'",
    "a huge number": "x = " + "9" * 60_000,
    "an f-string": "f'" + "{a}" * 15_000 + "'",
    "NUL bytes": "a\0b = 1",
    "a lone surrogate": "x = '\ud800'",
    "control characters": "".join(map(chr, range(32))),
    "string escapes": "x = '\\d\\q' is 1\n" * 500,
    "prose": "I am sorry, I cannot help with that. " * 300,
    "fences": "```" * 20_000,
    "50 MB": "x" * 50_000_000,
    "nothing": "",
    "white space": " \n\t\n" * 400,
}


def job(code: str, **more: Any) -> TextJob:
    return replace(TextJob("j", code=code, references=(RIGHT,), wrong_code=WRONG, repaired=True), **more)


@pytest.fixture(scope="module")
def scorer() -> Iterator[Scorer]:
    with Scorer(cpu_seconds=0.5) as shared:
        yield shared


def one(scorer: Scorer, of: TextJob) -> TextTerms:
    (terms,) = scorer.score([of])
    return terms


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("as_text", [True, False], ids=["answer", "code"])
def test_hostile_text_gets_its_terms_and_the_next_answer_is_unharmed(
    scorer: Scorer, name: str, as_text: bool, recwarn: pytest.WarningsRecorder
) -> None:
    text = HOSTILE[name]
    if as_text:
        hostile = job(f"Explanation.\n```python\n{text}\n```").code
        assert hostile is not None
        terms = one(scorer, TextJob("h", text=hostile, instruction="explain", references=(RIGHT,), wrong_code=WRONG))
    else:
        terms = one(scorer, job(text))
    for score in (terms.codebleu, terms.codebleu_repaired):
        assert score is None or 0.0 <= score.score <= 1.0
    assert not recwarn.list, "a candidate's text warned in this process"
    after = one(scorer, job(RIGHT))
    assert after.codebleu is not None and after.codebleu.score == pytest.approx(1.0)
    assert not after.unscored


def test_text_that_exceeds_the_cpu_limit_has_the_defined_score_and_the_reason(scorer: Scorer) -> None:
    terms = one(scorer, job(NESTED_LOOPS))
    assert terms.codebleu == terms.codebleu_repaired == ZERO_CODEBLEU
    assert terms.unscored == ("codebleu: CPU limit",)
    assert terms.parses and terms.n_nodes > 20, "what was found before the limit is kept"


def test_the_answer_is_kept_when_scoring_its_code_exceeds_the_limit(scorer: Scorer) -> None:
    text = f"Too deep.\n```python\n{NESTED_LOOPS}```\n"
    terms = one(scorer, TextJob("t", text=text, instruction="explain", references=(RIGHT,)))
    assert terms.answer.explanation == "Too deep."
    assert terms.answer.code == NESTED_LOOPS
    assert terms.unscored == ("codebleu: CPU limit",)


def test_a_reference_over_the_limit_is_left_out_and_remembered() -> None:
    with Scorer(cpu_seconds=0.5) as scorer:
        first = one(scorer, job(RIGHT, references=(RIGHT, NESTED_LOOPS)))
        assert first.codebleu is not None and first.codebleu.score == pytest.approx(1.0)
        assert first.unscored == ("reference 1: CPU limit",)
        again = one(scorer, job(RIGHT, references=(NESTED_LOOPS, RIGHT)))
        assert again.codebleu == first.codebleu
        assert again.unscored == ("reference 0: over the limits before",)
        alone = one(scorer, job(RIGHT, references=(NESTED_LOOPS,)))
        assert alone.codebleu is None, "no readable reference is not a score of 0"
        assert "codebleu: no readable reference" in alone.unscored


def test_memory_is_limited() -> None:
    with Scorer(cpu_seconds=20, memory_mb=32) as scorer:
        terms = one(scorer, job(HOSTILE["fences"], repaired=False))
        after = one(scorer, job(RIGHT))
    assert terms.unscored == ("codebleu: memory limit",)
    assert terms.codebleu == ZERO_CODEBLEU
    assert after.codebleu is not None and not after.unscored


def test_a_child_killed_from_outside_loses_no_answer(scorer: Scorer) -> None:
    expected = one(scorer, job(WRONG))
    child = scorer._child
    assert child is not None
    os.kill(child._process.pid, signal.SIGKILL)
    assert one(scorer, job(WRONG)) == expected


class _Hunted(Scorer):
    """Whose child never lives long enough to read anything."""

    def _ready_child(self) -> Any:
        child = super()._ready_child()
        os.kill(child._process.pid, signal.SIGKILL)
        return child


def test_a_child_that_is_always_killed_is_no_fault_of_the_answer() -> None:
    with _Hunted() as scorer, pytest.raises(ScorerError, match="killed"):
        one(scorer, job(RIGHT))


def test_a_child_that_stops_is_replaced() -> None:
    with Scorer(cpu_seconds=0.1) as scorer:
        expected = one(scorer, job(WRONG))
        child = scorer._child
        assert child is not None
        os.kill(child._process.pid, signal.SIGSTOP)
        assert one(scorer, job(WRONG)) == expected
        assert scorer._child is not child


def test_a_child_that_computes_is_not_taken_for_one_that_stalls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reward.scorer._STALL_SECONDS", 1.0)
    with Scorer(cpu_seconds=3.0) as scorer:
        assert one(scorer, job(NESTED_LOOPS)).unscored == ("codebleu: CPU limit",)


def test_terms_in_the_child_equal_those_in_process(scorer: Scorer) -> None:
    terms = one(scorer, job(WRONG, references=(RIGHT, "def f(x, y):\n    return x + y\n")))
    codebleu = CodeBleu()
    references = (RIGHT, "def f(x, y):\n    return x + y\n")
    assert terms.codebleu == codebleu.score(WRONG, references)
    assert terms.codebleu_repaired == terms.codebleu_wrong == codebleu.score(WRONG, references, repaired=True)


def test_answers_are_parsed_and_their_spans_kept(scorer: Scorer) -> None:
    text = f"The sign is wrong.\n\n```python\n{RIGHT}```\nDone."
    answer = one(scorer, TextJob("t", text=text, instruction="explain", entry_point="f")).answer
    assert (answer.explanation, answer.code) == ("The sign is wrong.", RIGHT)
    assert text[slice(*answer.explanation_span)] == answer.explanation
    assert text[slice(*answer.code_span)] == answer.code


def test_an_answer_over_the_size_cap_has_no_code(scorer: Scorer) -> None:
    terms = one(scorer, TextJob("t", text="x = 1\n" * MAX_LINES, references=(RIGHT,)))
    assert terms.answer == Answer()
    assert terms.codebleu == ZERO_CODEBLEU
    assert terms.unscored == ("answer: over the size cap",)


@pytest.mark.parametrize(
    ("code", "copied", "renamed_copy"),
    [
        (WRONG, True, True),
        ("def f(a,b):  # the same\n\n    c = (a-b)\n    return c", True, True),
        ("def f(x, y):\n    z = x - y\n    return z\n", False, True),
        (RIGHT, False, False),
        ("def f(a, b):\n    return a - b\n", False, False),
        ("def f(:", False, False),
    ],
)
def test_copies_are_found_by_syntax_tree(scorer: Scorer, code: str, copied: bool, renamed_copy: bool) -> None:
    terms = one(scorer, job(code))
    assert (terms.copied, terms.renamed_copy) == (copied, renamed_copy)


def test_the_normal_hash_is_equal_for_equal_trees_alone(scorer: Scorer) -> None:
    same, layout, other, broken, broken_layout, empty = (
        one(scorer, job(code)).normal_hash
        for code in (RIGHT, RIGHT.replace("    ", "  "), WRONG, "def f(:\n x", "def  f(: x", "")
    )
    assert same == layout != other
    assert broken == broken_layout
    assert empty == ""


def test_code_that_is_not_to_be_read_comes_back_as_it_is(scorer: Scorer) -> None:
    plain = TextJob("j", code="(" * 100_000, codebleu=False)
    read, unread = scorer.score([plain, replace(plain, read=False)])
    assert read.unscored == ("answer: over the size cap",)
    assert unread == TextTerms("j", Answer(code=plain.code or "", code_span=(0, 100_000)))
    with pytest.raises(ValueError, match="only plain code"):
        TextJob("j", text="an answer", codebleu=False, read=False)


def test_empty_and_unparsable_code_does_not_parse(scorer: Scorer) -> None:
    parses = [one(scorer, job(code)).parses for code in ("", "# comment", "def f(:", "pass", RIGHT)]
    assert parses == [False, False, False, True, True]


def test_node_counts_are_those_of_the_answer_and_the_median_reference(scorer: Scorer) -> None:
    import ast

    def count(code: str) -> int:
        return sum(1 for _ in ast.walk(ast.parse(code)))

    references = ("x = 1", RIGHT, RIGHT + "y = 2\n" * 30, "def f(:")
    terms = one(scorer, job(WRONG, references=references))
    assert terms.n_nodes == count(WRONG)
    assert terms.n_ref_nodes == count(RIGHT)


def test_no_reference_is_named_and_no_score_is_made_up(scorer: Scorer) -> None:
    terms = one(scorer, job(RIGHT, references=()))
    assert terms.codebleu is None
    assert terms.unscored == ("codebleu: no reference",)


def test_the_child_sees_nothing_of_our_environment() -> None:
    os.environ["LEDEX_TEST_SECRET"] = "visible"
    try:
        with Scorer() as scorer:
            scorer.score([job(RIGHT)])
            assert scorer._child is not None
            environ = Path(f"/proc/{scorer._child._process.pid}/environ").read_bytes()
    finally:
        del os.environ["LEDEX_TEST_SECRET"]
    assert b"LEDEX_TEST_SECRET" not in environ and b"PATH" not in environ


def test_the_child_ends_with_its_owner() -> None:
    scorer = Scorer()
    scorer.score([job(RIGHT)])
    assert scorer._child is not None
    process = scorer._child._process
    scorer.close()
    assert process.poll() is not None
    assert scorer.score([job(RIGHT)])[0].codebleu is not None, "a closed scorer starts again"
    scorer.close()


def test_diffs_are_made_within_the_limits(scorer: Scorer) -> None:
    assert "-    c = a - b\n+    c = a + b\n" in scorer.diff(WRONG, RIGHT)
    assert scorer.diff("x\n" * 5_000, RIGHT) == "(no diff: over the size cap)\n"
    quadratic = "\n".join(str(i % 7) for i in range(1_900)), "\n".join(str(i % 11) for i in range(1_900))
    begun = time.process_time()
    assert scorer.diff(*quadratic)
    assert time.process_time() - begun < 5, "the work was done here, not in the child"


def test_the_size_cap_counts_bytes_and_lines() -> None:
    assert refusal("x" * 65_536) == "" != refusal("x" * 65_537)
    assert refusal("é" * 40_000) == "over the size cap"
    assert refusal("\n" * 1_999) == "" != refusal("\n" * 2_000)
    assert refusal("\udc00") == "not valid text"


def test_a_flood_of_escapes_logs_nothing(scorer: Scorer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings():
        warnings.simplefilter("error")
        scorer.score([job("x = '\\d'\n" * 100)] * 20)
    assert not caplog.records

"""What is asked of the engines, and what happens to prompts without an answer."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterator, Sequence
from itertools import pairwise

import pytest

from actors import watchdog
from actors.generation import Completion, Generation, GenerationRequest
from actors.sandbox import ScoreRequest, ScoreResult
from launch import jobs
from launch.jobs import Item, Unanswered, item_seed, require_answers
from ledex_ray.answers import Answer
from ledex_ray.problems import CallTest, Problem
from ledex_ray.records import MOST_TOLD, Status, TestResult, TestStatus, Verdict
from reward.terms import TextTerms


def test_a_few_prompts_without_an_answer_are_said_and_many_end_the_stage(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        require_answers(0, 100, "given up")
        assert not caplog.records
        require_answers(1, 100, "given up")
    assert "1 of 100 prompts were given up and are left out" in caplog.text
    with pytest.raises(Unanswered, match="2 of 100"):
        require_answers(2, 100, "given up")


def test_one_prompt_of_a_few_may_be_given_up_but_not_all_there_are() -> None:
    require_answers(1, 5, "given up")
    with pytest.raises(Unanswered, match="2 of 5"):
        require_answers(2, 5, "given up")
    with pytest.raises(Unanswered, match="1 of 1"):
        require_answers(1, 1, "given up")


def test_no_two_items_are_answered_with_the_same_noise() -> None:
    seeds = sorted(item_seed(seed, f"p#{n}") for seed in range(3) for n in range(50))
    assert min(b - a for a, b in pairwise(seeds)) > 20  # the n answers of one take seeds in a row
    assert item_seed(0, "p", 1) == item_seed(0, "p", 1)


class Engines:
    """A client that gives the second of its prompts up, after an engine hung."""

    def generate(self, requests: Sequence[GenerationRequest]) -> Iterator[Generation]:
        watchdog.report_stuck((requests[1].id,), "rollout-7", 600.0, "  the stack")
        yield Generation(requests[0].id, (Completion((1,), (-0.1,), (0,), "x = 1", "stop"),))
        yield Generation(requests[1].id, (), "rollout-7: silent")


class Sandboxes:
    def score(self, requests: Sequence[ScoreRequest]) -> Iterator[ScoreResult]:
        logging.getLogger("actors.ray_pool").warning("actor=sandbox-3 lost")
        for request in requests:
            yield ScoreResult(request.id, TextTerms(request.id, Answer()), Verdict(Status.FAILED))


def test_what_clients_in_worker_processes_say_comes_back_with_their_rows_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    problems = {"p": Problem("p", "", (CallTest("()", "1"),))}
    monkeypatch.setattr("launch.jobs.ray.get", lambda _: problems)
    items = [Item(f"i{n}", "p", (1,), 1, 1.0, 1.0, 8, n, "solve") for n in range(2)]
    block = jobs.Sampler(Engines())({"item": [pickle.dumps(item) for item in items]})  # type: ignore[arg-type]
    block = jobs.Scorer(Sandboxes(), None)(block)  # type: ignore[arg-type]
    judged: list[jobs.Judged] = [pickle.loads(row) for row in block["judged"]]
    assert [len(one.completions) for one in judged] == [1, 0] and len(judged[0].scores) == 1
    caplog.clear()
    for one in judged:
        for line in one.lines:
            line.repeat()
    assert [record.name for record in caplog.records] == ["actors.watchdog", "ledex", "actors.ray_pool"]
    assert "stuck item=i1 actor=rollout-7 since=600s\n  the stack" in caplog.text
    assert "given up by the engines: i1 (rollout-7: silent)" in caplog.text


def test_a_stored_verdict_holds_the_texts_of_the_first_failed_tests_alone() -> None:
    tests = tuple(
        TestResult(n, False, TestStatus.FAILED if n % 2 else TestStatus.PASSED, "f(1)", "2", "3")
        for n in range(4 * MOST_TOLD)
    )
    verdict = jobs.executed(ScoreResult("i", TextTerms("i", Answer()), Verdict(Status.FAILED, tests)))
    assert [t.index for t in verdict.tests if t.got] == [2 * n + 1 for n in range(MOST_TOLD)]
    assert [(t.index, t.status) for t in verdict.tests] == [(t.index, t.status) for t in tests]

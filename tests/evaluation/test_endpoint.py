"""A teacher behind an OpenAI-compatible endpoint, by the real client over real HTTP: what fails, what is paid for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openai
import pytest

from launch.endpoint import Endpoint, Question, Reply
from launch.jobs import Unanswered
from launch.rundir import RunDirectory
from launch.synthesize import _refine
from ledex_ray.config import EndpointConfig
from ledex_ray.errors import BadInput
from ledex_ray.prompts import Message
from ledex_ray.recipes import recipe_from_tree
from ledex_ray.records import Attempt, Provenance, Status, Verdict
from tests.evaluation.serving import Faulty, served


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEDEX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TEACHER_KEY", "secret")


def questions(count: int, n: int = 2) -> list[Question]:
    return [Question(f"q{i}", (Message("user", f"say {i}"),), n, 0.8, 1.0, 64, 0) for i in range(count)]


def ask(server: Faulty, asked: Sequence[Question], **changes: object) -> dict[str, Reply]:
    with served(server.app) as address:
        config = EndpointConfig(url=f"{address}/v1", key_variable="TEACHER_KEY", **changes)
        endpoint = Endpoint("teacher", config)
        return {q.id: reply for batch in endpoint.ask(asked) for q, reply in batch}


def test_every_question_is_answered_once_with_its_tokens() -> None:
    server = Faulty()
    replies = ask(server, questions(20))
    assert replies == {f"q{i}": Reply((f"say {i} 0", f"say {i} 1"), 10, 6, "teacher") for i in range(20)}
    assert len(server.bodies) == 20 and set(server.keys) == {"Bearer secret"}
    assert server.bodies[0] | {"messages": []} == {
        "model": "teacher", "messages": [], "n": 2, "temperature": 0.8, "top_p": 1.0, "max_tokens": 64, "seed": 0,
    }  # fmt: skip


@pytest.mark.parametrize("faults", [(429, 429), (500,), (503, 429, 502)])
def test_a_busy_endpoint_is_asked_again(faults: tuple[int, ...]) -> None:
    server = Faulty(*faults)
    assert len(ask(server, questions(3), concurrency=1)) == 3
    assert len(server.bodies) == 3 and not server.faults


def test_an_endpoint_that_stays_down_ends_the_run() -> None:
    with pytest.raises(openai.RateLimitError):
        ask(Faulty(*[429] * 9), questions(1), retries=1)


def test_an_endpoint_that_nobody_serves_is_named() -> None:
    config = EndpointConfig(url="http://127.0.0.1:9/v1", key_variable="TEACHER_KEY", retries=1)
    with pytest.raises(BadInput, match=r"127\.0\.0\.1:9/v1: could not be reached in 2 tries"):
        list(Endpoint("teacher", config).ask(questions(1)))


def test_what_one_question_does_wrong_costs_that_question_alone() -> None:
    replies = ask(Faulty(400), questions(3), concurrency=1)
    assert [bool(r.error) for r in replies.values()] == [True, False, False]


def test_answers_that_were_given_before_a_refusal_are_used() -> None:
    server = Faulty(most=1)
    server.fails, server.with_status = {"say 0": 3}, 400
    (reply,) = ask(server, questions(1, n=4)).values()
    assert reply.texts == ("say 0 0", "say 0 0") and (reply.read, reply.written) == (20, 6)
    assert "on purpose" in reply.error


@pytest.mark.parametrize(("status", "said"), [(401, "refuses the key"), (403, "refuses the key"), (404, "the model")])
def test_a_wrong_key_or_model_is_the_recipes_fault(status: int, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        ask(Faulty(*[status] * 20), questions(2))


def test_an_endpoint_that_gives_one_answer_at_a_time_is_asked_until_all_are_there() -> None:
    server = Faulty(most=1)
    (reply,) = ask(server, questions(1, n=3)).values()
    assert len(reply.texts) == 3 and (reply.read, reply.written) == (30, 9)
    assert [b["seed"] for b in server.bodies] == [0, 1, 2]


def test_an_endpoint_that_refuses_everything_is_not_asked_everything() -> None:
    server = Faulty(*[400] * 100)
    with pytest.raises(BadInput, match=r"refused 20 questions and answered none, got .*on purpose"):
        ask(server, questions(90), concurrency=1)
    assert len(server.faults) == 80
    with served(server.app) as address:  # one that has answered before the run was resumed may refuse what is left
        known = Endpoint("teacher", EndpointConfig(url=f"{address}/v1", key_variable="TEACHER_KEY"), answered=True)
        assert all(reply.error for batch in known.ask(questions(60)) for _, reply in batch)


def test_answers_on_their_way_are_kept_when_another_question_ends_the_run() -> None:
    server = Faulty(most=1, slow=0.2)
    with served(server.app) as address:
        config = EndpointConfig(url=f"{address}/v1", key_variable="TEACHER_KEY", concurrency=2, retries=0)
        endpoint = Endpoint("teacher", config)
        server.fails = {"say 0": 2}  # its second answer
        with pytest.raises(openai.InternalServerError):
            list(endpoint.ask(questions(6, n=3)))
        paid = len(server.bodies)
        assert 1 < paid <= 1 + 3  # of the other question what was on its way, and no third was begun
        server.fails = {}
        assert len([1 for batch in Endpoint("teacher", config).ask(questions(6, n=3)) for _ in batch]) == 6
    asked = [(b["messages"][-1]["content"], b["seed"]) for b in server.bodies]
    assert len(asked) == len(set(asked)) == 6 * 3  # nothing was paid for twice


def test_an_endpoint_that_answers_too_late_says_which_key_allows_more() -> None:
    with pytest.raises(BadInput, match=r"within synthesis\.endpoint\.timeout_seconds in 1 tries, got 0\.2"):
        ask(Faulty(slow=1.0), questions(1), retries=0, timeout_seconds=0.2)


def test_what_was_answered_is_never_paid_for_twice() -> None:
    server = Faulty()
    with served(server.app) as address:
        config = EndpointConfig(url=f"{address}/v1", key_variable="TEACHER_KEY", concurrency=1)
        first = Endpoint("teacher", config).ask(questions(6))
        next(first)
        first.close()  # as a run that is killed
        paid = len(server.bodies)
        again = Endpoint("teacher", config)
        assert len([1 for batch in again.ask(questions(6)) for _ in batch]) == 6
        assert len(server.bodies) == 6 and again.asked == 6 - paid and again.kept == paid
        other = Endpoint("another", config)
        assert len([1 for batch in other.ask(questions(1)) for _ in batch]) == 1 and other.asked == 1


def test_a_server_that_goes_away_and_comes_back_is_asked_for_the_rest_alone() -> None:
    server, replies = Faulty(slow=0.3), set[str]()
    with served(server.app) as address:
        config = EndpointConfig(url=f"{address}/v1", key_variable="TEACHER_KEY", concurrency=1, retries=0)
        asking = Endpoint("teacher", config).ask(questions(6))
        replies |= {q.id for q, _ in next(asking)}
    with pytest.raises(BadInput, match="could not be reached"):
        for batch in asking:
            replies |= {q.id for q, _ in batch}
    paid = len(server.bodies)
    assert replies == {f"q{i}" for i in range(paid)} and 0 < paid < 6
    with served(server.app, int(address.rpartition(":")[2])):
        again = Endpoint("teacher", config)
        assert {q.id for batch in again.ask(questions(6)) for q, _ in batch} == {f"q{i}" for i in range(6)}
    assert (again.asked, again.kept) == (6 - paid, paid)


def test_no_more_are_asked_at_a_time_than_the_recipe_says() -> None:
    server = Faulty(slow=0.05)
    ask(server, questions(12), concurrency=3)
    assert server.most_at_once == 3


def test_no_more_are_asked_a_minute_than_the_recipe_says() -> None:
    for server, asked in ((Faulty(), questions(4)), (Faulty(most=1), questions(2, n=2))):
        start = time.monotonic()
        ask(server, asked, requests_per_minute=300)
        assert time.monotonic() - start >= 3 * 60 / 300  # the first goes at once; a bound from below, not a speed


def test_a_missing_key_is_said_at_the_door(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEACHER_KEY")
    with pytest.raises(BadInput, match="names a variable that is not set, got 'TEACHER_KEY'"):
        Endpoint("teacher", EndpointConfig(key_variable="TEACHER_KEY"))
    Endpoint("teacher", EndpointConfig(key_variable=""))


def test_an_endpoint_without_a_teachers_name_is_refused() -> None:
    with pytest.raises(BadInput, match=r"needs synthesis\.teacher"):
        recipe_from_tree({"synthesis": {"endpoint": {"url": "http://127.0.0.1:1/v1"}}})


def test_a_synthesis_whose_teacher_refuses_nearly_all_is_not_finished(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch.synthesize.taught", lambda *_: iter(()))
    served_nowhere = {"url": "http://127.0.0.1:9/v1", "key_variable": ""}
    recipe = recipe_from_tree({"run": "refused", "synthesis": {"teacher": "t", "endpoint": served_nowhere}})
    run = RunDirectory.open(recipe)
    wrong = [Attempt(f"p#{n}", "p", n, "", "x = 1", Verdict(Status.FAILED), Provenance("model")) for n in range(2)]
    fleet: Any = SimpleNamespace(sandbox=SimpleNamespace(client=lambda: None))
    try:
        with pytest.raises(Unanswered, match="answered 0 of 2 questions"):
            _refine(run, fleet, {}, wrong)
    finally:
        run.close()

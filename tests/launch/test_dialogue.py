"""Several answers in an episode: when another is asked for, what the model then reads, where credit goes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from actors.generation import Completion
from actors.sandbox import ScoreResult
from launch.dialogue import NO_CODE, Assignment, Dialogue, build_episode
from ledex_ray.answers import parse_answer
from ledex_ray.chat import Renderer
from ledex_ray.errors import BadInput
from ledex_ray.problems import CallTest, Problem
from ledex_ray.prompts import Message, explained_answer, fenced, refine_prompt
from ledex_ray.recipes import recipe_from_tree
from ledex_ray.records import Instruction, Status, TestResult, TestStatus, Verdict
from reward.compose import Reward
from reward.terms import TextTerms

TESTS = (CallTest("(1,)", "2"), CallTest("(5,)", "6"))
PROBLEM = Problem(id="p", text="Add one.", tests=TESTS, entry_point="f")
WRONG, STILL_WRONG, RIGHT = (f"def f(x):\n    return x {rest}" for rest in ("- 1", "+ 2", "+ 1"))
EXPLANATION = "It subtracts one."


@pytest.fixture(scope="module", params=["chat", "plain"])
def renderer(request: pytest.FixtureRequest, smollm2: Path) -> Renderer:
    from transformers import AutoTokenizer

    return Renderer(AutoTokenizer.from_pretrained(smollm2), request.param)


def verdict(public: bool, private: bool, feedback: str = "The call f(1) returned 3, but 2 was expected.") -> Verdict:
    results = [TestStatus.PASSED if passed else TestStatus.FAILED for passed in (public, private)]
    tests = tuple(TestResult(index, index == 0, status) for index, status in enumerate(results))
    status = Status.PASSED if public and private else Status.FAILED
    return Verdict(status, tests, feedback="This test passes." if public else feedback, feedback_all="SECRET f(5)")


def begun(renderer: Renderer) -> Dialogue:
    prompt = refine_prompt(PROBLEM, WRONG, "The call f(1) returned 0.", Instruction.EXPLAIN)
    ids = tuple(renderer.prompt_ids(prompt))
    return Dialogue(Assignment("g", PROBLEM, WRONG, Instruction.EXPLAIN, ids, (), ()), 3)


def say(
    dialogue: Dialogue,
    renderer: Renderer,
    text: str,
    judged: Verdict,
    reward: Reward,
    version: int = 0,
    end: str = "stop",
) -> tuple[int, ...]:
    ids = tuple(renderer.answer_ids(text))
    completion = Completion(ids, (-0.5,) * len(ids), (version,) * len(ids), text, end)
    answer = parse_answer(text, "explain", "f")
    result = ScoreResult(dialogue.turn_id, TextTerms(dialogue.turn_id, answer, parses=bool(answer.code)), judged)
    dialogue.answer(completion, result, reward)
    return ids


def test_each_turn_is_credited_with_what_it_gained_and_the_first_explanation_with_its_own(renderer: Renderer) -> None:
    dialogue = begun(renderer)
    first = say(
        dialogue, renderer, explained_answer(EXPLANATION, STILL_WRONG), verdict(False, False), Reward(-2.0, 1.5)
    )
    assert dialogue.ask_again(renderer, 1000)
    second = say(dialogue, renderer, explained_answer("Now.", RIGHT), verdict(True, True), Reward(5.0, None), version=1)
    episode = build_episode(dialogue, 0.7, renderer)
    assert episode.id == "g/3" and episode.verdict == "PASSED" and episode.score == pytest.approx(5.0 + 1.5)
    assert episode.answer == explained_answer("Now.", RIGHT) and episode.answer in episode.text
    assert episode.n_tests == 2 and not episode.failed_tests
    ends = [len(dialogue.assignment.prompt_ids) + len(first) - 1, len(episode.token_ids) - 1]
    assert episode.rewards[ends].tolist() == [-2.0, 7.0] and episode.rewards[episode.explanation_end] == 1.5
    assert np.count_nonzero(episode.rewards) == 3
    generated = episode.token_ids[episode.loss_mask].tolist()
    assert generated == [*first, *second]  # as they were sampled, and the feedback between them carries no loss
    assert episode.weight_versions[episode.loss_mask].tolist() == [0] * len(first) + [1] * len(second)
    assert (episode.behaviour_log_probs != 0).tolist() == episode.loss_mask.tolist()


def test_the_next_prompt_is_what_the_template_makes_of_the_whole_conversation(renderer: Renderer) -> None:
    dialogue = begun(renderer)
    text = fenced(STILL_WRONG)
    say(dialogue, renderer, text, verdict(False, False), Reward(-2.0, None))
    assert dialogue.ask_again(renderer, 1000)
    prompt = refine_prompt(PROBLEM, WRONG, "The call f(1) returned 0.", Instruction.EXPLAIN)
    whole = renderer.prompt_ids((*prompt, Message("assistant", text), Message("user", dialogue.asked)))
    ours = [id for id in dialogue.token_ids if renderer.chat or id != renderer.tokenizer.eos_token_id]
    assert renderer.tokenizer.decode(ours) == renderer.tokenizer.decode(whole)
    assert "returned 3, but 2 was expected" in dialogue.asked and "SECRET" not in renderer.tokenizer.decode(ours)


def test_a_turn_without_code_is_told_so_and_costs_a_little(renderer: Renderer) -> None:
    dialogue = begun(renderer)
    empty = Verdict(Status.ERROR, verdict(False, False).tests, feedback="no code", feedback_all="no code")
    say(dialogue, renderer, "I cannot help.", empty, Reward(-5.0, 0.0))
    assert dialogue.ask_again(renderer, 1000) and "no Python code" in dialogue.asked
    say(dialogue, renderer, fenced(RIGHT), verdict(True, True), Reward(5.0, None))
    assert build_episode(dialogue, 1.0, renderer).score == pytest.approx(5.0 + NO_CODE)


def test_nothing_more_is_asked_where_public_tests_have_nothing_to_say(renderer: Renderer) -> None:
    for judged, end, room in (
        (verdict(True, True), "stop", 1000),
        (verdict(True, False), "stop", 1000),  # to go on would tell that a hidden test failed
        (Verdict(Status.INFRA), "stop", 1000),
        (verdict(False, False), "length", 1000),
        (verdict(False, False), "stop", 100),
    ):
        dialogue = begun(renderer)
        say(dialogue, renderer, fenced(STILL_WRONG), judged, Reward(0.0, 0.0), end=end)
        before = list(dialogue.token_ids)
        assert not dialogue.ask_again(renderer, room) and dialogue.token_ids == before


def test_a_turn_that_was_given_up_or_not_scored_leaves_the_episode_unscored(renderer: Renderer) -> None:
    dialogue = begun(renderer)
    say(dialogue, renderer, fenced(STILL_WRONG), verdict(False, False), Reward(-2.0, 0.0))
    assert dialogue.ask_again(renderer, 1000)
    episode = build_episode(dialogue, 1.0, renderer)  # the engines gave the second turn up
    assert not episode.scored and not episode.rewards.any() and not dialogue.ask_again(renderer, 1000)
    assert [test.index for test in episode.failed_tests] == [0, 1] and episode.answer == ""
    assert episode.verdict == "INFRA"  # not FAILED, as the first turn: validation would count it as not repaired
    say(
        dialogue, renderer, fenced(RIGHT), verdict(True, True), Reward(0.0, 0.0, ("tests: weak verdict",), scored=False)
    )
    assert not build_episode(dialogue, 1.0, renderer).scored


def test_separated_returns_need_one_turn() -> None:
    with pytest.raises(BadInput, match=r"ppo\.turns must be 1"):
        recipe_from_tree({"reward": {"separated": True}, "ppo": {"turns": 2}})

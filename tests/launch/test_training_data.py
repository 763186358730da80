"""What the learner is given: loss on answers alone, rewards on the right tokens, no held-out problem."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from actors.generation import Completion
from actors.sandbox import ScoreResult
from launch.collect import Assignments
from launch.dialogue import Assignment, Dialogue, build_episode
from launch.problem_sets import training_problems, validation_problems
from launch.sft import plan_batches, split_by_problem
from ledex_ray.answers import parse_answer
from ledex_ray.chat import Renderer
from ledex_ray.config import SFTConfig
from ledex_ray.errors import BadInput
from ledex_ray.packing import families_of
from ledex_ray.problems import CallTest, Problem
from ledex_ray.prompts import explained_answer, fenced
from ledex_ray.recipes import recipe_from_tree
from ledex_ray.records import Attempt, Instruction, Provenance, Refinement, Status, Trajectory, Verdict
from ledex_ray.supervised import supervised_examples
from reward.arms import resolve_arm
from reward.compose import Reward
from reward.terms import TextTerms

WRONG, RIGHT = "def f(x):\n    return x - 1", "def f(x):\n    return x + 1"
EXPLANATION = "It subtracts one where it should add one."
PROBLEM = Problem(
    id="p", text="Add one.", tests=(CallTest("(1,)", "2"),), entry_point="f", canonical_solutions=(RIGHT,)
)
OWN = Provenance("model")
PASSED, FAILED = Verdict(Status.PASSED), Verdict(Status.FAILED, feedback="The call f(1) returned 0.")


@pytest.fixture(scope="module", params=["chat", "plain"])
def renderer(request: pytest.FixtureRequest, smollm2: Path) -> Renderer:
    from transformers import AutoTokenizer

    return Renderer(AutoTokenizer.from_pretrained(smollm2), request.param)


def refinement(verdict: Verdict, explanation: str = EXPLANATION) -> Refinement:
    return Refinement("a/0", "a", "p", 0, Instruction.EXPLAIN, "", explanation, RIGHT, verdict, OWN)


def trajectory(*refinements: Refinement) -> Trajectory:
    return Trajectory(Attempt("a", "p", 0, "", WRONG, FAILED, OWN), FAILED.feedback, refinements)


def test_loss_is_on_the_answer_alone_and_the_wrong_code_is_in_the_history(renderer: Renderer) -> None:
    config = SFTConfig(kinds=("direct", "explain"))
    examples = supervised_examples({"p": PROBLEM}, [], [trajectory(refinement(PASSED))], renderer, config, 1024)
    learned = {e.kind: renderer.decode(e.token_ids[e.loss_mask]) for e in examples}
    assert learned == {"direct": fenced(RIGHT), "explain": explained_answer(EXPLANATION, RIGHT)}
    for example in examples:
        assert fenced(WRONG) in renderer.decode(example.token_ids[~example.loss_mask])
        assert example.token_ids[-1] == renderer.tokenizer.eos_token_id and example.loss_mask[-1]


def test_only_verified_refinements_are_learned_from(renderer: Renderer) -> None:
    weak = Verdict(Status.PASSED, weak=True)
    bad = trajectory(refinement(FAILED), refinement(weak))
    assert supervised_examples({"p": PROBLEM}, [], [bad], renderer, SFTConfig(), 1024) == []


def test_a_refinement_without_explanation_teaches_the_direct_answer_alone(renderer: Renderer) -> None:
    examples = supervised_examples(
        {"p": PROBLEM}, [], [trajectory(refinement(PASSED, ""))], renderer, SFTConfig(), 1024
    )
    assert [e.kind for e in examples] == ["direct"]


def test_examples_that_are_too_long_are_left_out_and_said(renderer: Renderer, caplog: pytest.LogCaptureFixture) -> None:
    config = SFTConfig(kinds=("direct", "explain"))
    assert supervised_examples({"p": PROBLEM}, [], [trajectory(refinement(PASSED))], renderer, config, 40) == []
    assert "2 examples do not fit in model.max_length=40" in caplog.text


def test_the_ablation_sees_the_right_code_and_no_repair(renderer: Renderer) -> None:
    config = SFTConfig(kinds=("solve",), canonical=True)
    examples = supervised_examples({"p": PROBLEM}, [], [trajectory(refinement(PASSED))], renderer, config, 1024)
    assert [e.kind for e in examples] == ["solve"]
    assert WRONG not in renderer.decode(examples[0].token_ids)


def test_batches_depend_on_the_seed_alone_and_validation_problems_are_held_back(renderer: Renderer) -> None:
    problems = {f"p{i}": Problem(f"p{i}", f"Add {i}.", (), "f", canonical_solutions=(RIGHT,)) for i in range(20)}
    config = SFTConfig(kinds=("solve",), canonical=True, validation_fraction=0.2, batch_size=3, seed=3)
    examples = supervised_examples(problems, [], [], renderer, config, 1024)
    training, validation = split_by_problem(examples, config)
    assert len(validation) == 4 and not {e.id for e in training} & {e.id for e in validation}
    again = supervised_examples(problems, [], [], renderer, config, 1024)
    plans = [plan_batches(split_by_problem(e, config)[0], config) for e in (examples, again)]
    assert [[e.id for e in b] for b in plans[0]] == [[e.id for e in b] for b in plans[1]]
    assert sum(len(b) for b in plans[0]) == 2 * len(training)
    tokens = sum(len(e.token_ids) for e in training)
    capped = plan_batches(training, config.model_copy(update={"max_tokens": max(1000, tokens // 2)}))
    assert 0 < sum(len(e.token_ids) for b in capped for e in b) <= max(1000, tokens // 2)


def test_the_two_instructions_of_a_refinement_are_learned_side_by_side(renderer: Renderer) -> None:
    many = tuple(
        replace(refinement(PASSED, f"{EXPLANATION} {n}"), id=f"a/{n}", code=RIGHT.replace("1", f"{n}"))
        for n in range(12)
    )
    config = SFTConfig(kinds=("direct", "explain"), max_examples_per_problem=6, batch_size=4, epochs=1)
    examples = supervised_examples({"p": PROBLEM}, [], [trajectory(*many)], renderer, config, 1024)
    assert len(examples) == 12
    for batch in plan_batches(examples, config):
        assert sorted(e.kind for e in batch) == ["direct", "direct", "explain", "explain"]
        families = families_of([e.token_ids for e in batch], [e.loss_mask for e in batch])
        assert sum(f.size for f in families) < 0.8 * sum(len(e.token_ids) for e in batch)
        assert len({e.id.partition("/")[2] for e in batch}) == 2


def test_rewards_lie_on_the_last_token_of_the_explanation_and_of_the_answer(renderer: Renderer) -> None:
    text = explained_answer("Ein Fehler: é, ü: it subtracts.", RIGHT)
    ids = tuple(renderer.answer_ids(text))
    terms = TextTerms("x", parse_answer(text, "explain", "f"), parses=True)
    assignment = Assignment("g", PROBLEM, WRONG, Instruction.EXPLAIN, (1, 2, 3), (RIGHT,), (EXPLANATION,))
    completion = Completion(ids, tuple(-0.5 for _ in ids), tuple(7 for _ in ids), text, "stop")
    reward = Reward(refinement=4.0, explanation=1.5)
    dialogue = Dialogue(assignment, 0)
    dialogue.answer(completion, ScoreResult("x", terms, PASSED), reward)
    episode = build_episode(dialogue, 1.0, renderer)
    assert episode.loss_mask.tolist() == [False] * 3 + [True] * len(ids)
    assert np.flatnonzero(episode.rewards).tolist() == [episode.explanation_end, len(episode.token_ids) - 1]
    assert episode.rewards[episode.explanation_end] == 1.5 and episode.rewards[-1] == 4.0
    up_to = renderer.decode(episode.token_ids[3 : episode.explanation_end + 1])
    assert up_to.endswith("it subtracts.") and "```" not in up_to
    assert set(episode.weight_versions[episode.loss_mask]) == {7} and not episode.truncated


def test_max_prompts_takes_the_same_few_wrong_solutions_in_every_lap(renderer: Renderer) -> None:
    recipe = recipe_from_tree({"ppo": {"max_prompts": 4}})
    trajectories = [
        replace(trajectory(), attempt=replace(trajectory().attempt, id=f"a{n}", code=f"{WRONG} - {n}"))
        for n in range(10)
    ]
    few, alike, all_of_them = (
        Assignments(trajectories, {"p": PROBLEM}, renderer, recipe, resolve_arm("paper"), most) for most in (4, 4, None)
    )
    laps = [{(a.wrong_code, a.instruction) for a in few.take(start, 4)} for start in (0, 4, 40)]
    assert len(laps[0]) == 4 and laps[0] == laps[1] == laps[2]
    assert [a.id for a in few.take(0, 9)] == [a.id for a in alike.take(0, 9)]
    assert len(all_of_them) == 20


def test_prompts_that_leave_no_room_for_an_answer_are_counted_by_name_of_what_limits_them(
    renderer: Renderer, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = recipe_from_tree({"model": {"max_length": 64}, "ppo": {"sampling": {"max_tokens": 32}}})
    assignments = Assignments([trajectory()], {"p": PROBLEM}, renderer, recipe, resolve_arm("paper"))
    assert len(assignments) == 0 and assignments.too_long == 2
    assert "2 of 2 prompts" in caplog.text and "ppo.sampling.max_tokens=32" in caplog.text


@pytest.mark.parametrize("key", ["train", "validation"])
def test_training_refuses_heldout_problems(key: str) -> None:
    recipe = recipe_from_tree({"problems": {key: "bundled@heldout"}})
    load = training_problems if key == "train" else validation_problems
    with pytest.raises(BadInput, match=rf"problems\.{key}.*heldout"):
        load(recipe)


def test_a_limit_takes_problems_evenly_through_the_set() -> None:
    few = training_problems(recipe_from_tree({"problems": {"limit": 6}}))
    everything = list(training_problems(recipe_from_tree({})))
    positions = [everything.index(id) for id in few]
    assert len(few) == 6 and positions == sorted(positions) and positions[-1] > len(everything) * 0.7

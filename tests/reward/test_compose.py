"""The arms: method.md's formulas, ranges, what is masked, where the rewards stand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ledex_ray.answers import Answer
from ledex_ray.errors import BadInput
from ledex_ray.recipes import recipe_from_tree
from ledex_ray.records import Status, TestResult, TestStatus, Verdict
from reward.arms import resolve_arm
from reward.compose import (
    ARMS,
    EXPLANATION_UNSCORED,
    Inputs,
    Reward,
    compose,
    explanation_reward,
    place,
    references_for,
)
from reward.scoring import check_weights
from reward.terms import CodeBleuScore, TextTerms

SHARE = st.floats(0, 1)
ARM_NAMES = st.sampled_from(sorted(ARMS))


def score(value: float) -> CodeBleuScore:
    return CodeBleuScore(value, value, value, value, value)


def terms(
    codebleu: float = 0.5, repaired: float = 0.5, wrong: float = 0.2, *, code: str = "x = 1", **more: Any
) -> TextTerms:
    found = TextTerms(
        "t",
        Answer(code=code, code_span=(0, len(code))),
        parses=bool(code),
        codebleu=score(codebleu),
        codebleu_repaired=score(repaired),
        codebleu_wrong=score(wrong),
        n_nodes=10,
        n_ref_nodes=10.0,
    )
    return replace(found, **more)


def verdict(passed: int, of: int = 4, *, weak: bool = False) -> Verdict:
    results = tuple(TestResult(i, i == 0, TestStatus.PASSED if i < passed else TestStatus.FAILED) for i in range(of))
    return Verdict(Status.PASSED if passed == of else Status.FAILED, results, weak=weak)


@given(SHARE, SHARE, SHARE, st.integers(0, 4), st.integers(0, 400), st.floats(0, 200), ARM_NAMES)
def test_rewards_lie_in_range_and_are_deterministic(
    codebleu: float, repaired: float, wrong: float, passed: int, n_nodes: int, n_ref: float, arm: str
) -> None:
    found = terms(codebleu, repaired, wrong, n_nodes=n_nodes, n_ref_nodes=n_ref)
    reward = compose(ARMS[arm], found, verdict(passed), 0.9, explain=True)
    assert -5 <= reward.refinement <= 5
    assert reward.explanation is not None and -5 <= reward.explanation <= 5
    assert reward == compose(ARMS[arm], found, verdict(passed), 0.9, explain=True)


@given(SHARE, SHARE, SHARE, ARM_NAMES)
def test_more_tests_passed_never_earn_less(codebleu: float, repaired: float, wrong: float, arm: str) -> None:
    found = terms(codebleu, repaired, wrong)
    rewards = [compose(ARMS[arm], found, verdict(n), explain=False).refinement for n in range(5)]
    assert rewards == sorted(rewards)


@given(SHARE, SHARE, SHARE, SHARE, SHARE, SHARE, st.integers(0, 3))
def test_under_hardened_no_wrong_answer_earns_more_than_a_right_one(
    a: float, b: float, c: float, d: float, e: float, f: float, passed: int
) -> None:
    arm = ARMS["hardened"]
    wrong = compose(arm, terms(a, b, c), verdict(passed), explain=False).refinement
    right = compose(arm, terms(d, e, f), verdict(4), explain=False).refinement
    assert wrong <= 0 <= right


@given(SHARE, SHARE, SHARE)
def test_hardened_below_zero_stays_dense(codebleu: float, wrong: float, gain: float) -> None:
    assume(gain > 0.01)
    arm = ARMS["hardened"]
    some, more = (compose(arm, terms(codebleu), verdict(n), explain=False).refinement for n in (0, 1))
    assert some < more or more == 0


@pytest.mark.parametrize(
    ("arm", "expected"),
    [
        ("paper", 5 * (0.4 + 0.5) - 5),
        ("tests_only", 10 * 0.5 - 5),
        ("codebleu_only", 10 * 0.4 - 5),
        ("hardened", 5 * ((0.6 - 0.2) / (1 - 0.2) * (10 / 20) + 0.5) - 5),
    ],
)
def test_the_formulas(arm: str, expected: float) -> None:
    found = terms(0.4, repaired=0.6, wrong=0.2, n_nodes=20, n_ref_nodes=10.0)
    assert compose(ARMS[arm], found, verdict(2), explain=False).refinement == pytest.approx(expected)


def test_hardened_does_not_cap_an_answer_that_passes() -> None:
    reward = compose(ARMS["hardened"], terms(repaired=0.6, wrong=0.2), verdict(4), explain=False)
    assert reward.refinement == pytest.approx(5 * (0.5 + 1) - 5)


@pytest.mark.parametrize(
    "more",
    [{"parses": False}, {"copied": True}, {"renamed_copy": True}, {"codebleu_wrong": score(1.0)}],
    ids=["unparsable", "copied", "renamed", "nothing to gain"],
)
def test_hardened_gives_no_codebleu_to_tricks(more: dict[str, Any]) -> None:
    reward = compose(ARMS["hardened"], terms(repaired=1.0, **more), verdict(2), explain=False)
    assert reward.refinement == pytest.approx(5 * 0.5 - 5)
    assert reward.terms["hardened_codebleu"] == 0


@pytest.mark.parametrize("arm", sorted(ARMS))
def test_an_answer_without_code_gets_the_lowest_reward_even_without_a_verdict(arm: str) -> None:
    empty = TextTerms("t", Answer())
    for given_verdict in (None, Verdict(Status.ERROR)):
        reward = compose(ARMS[arm], empty, given_verdict, explain=False)
        assert (reward.refinement, reward.scored) == (-5.0, True)


@pytest.mark.parametrize("arm", sorted(ARMS))
def test_an_answer_that_could_not_be_read_is_never_an_answer_without_code(arm: str) -> None:
    given_up = TextTerms("t", Answer(), unscored=("given up: silent",))
    reward = compose(ARMS[arm], given_up, Verdict(Status.INFRA), 0.0, explain=True)
    assert not reward.scored and reward.refinement == 0.0 and "tests: INFRA" in reward.unscored


def test_unparsable_code_is_code() -> None:
    broken = terms(0.3, repaired=0.3, parses=False)
    error = Verdict(Status.ERROR, (TestResult(0, True, TestStatus.ERROR),))
    assert compose(ARMS["paper"], broken, error, explain=False).refinement == pytest.approx(5 * 0.3 - 5)
    assert compose(ARMS["hardened"], broken, error, explain=False).refinement == -5


@pytest.mark.parametrize("arm", ["paper", "tests_only", "hardened"])
@pytest.mark.parametrize(
    ("untrusted", "reason"),
    [
        (Verdict(Status.INFRA), "tests: INFRA"),
        (verdict(4, weak=True), "tests: weak verdict"),
        (None, "tests: not executed"),
    ],
)
def test_what_cannot_be_trusted_is_masked_never_zero(arm: str, untrusted: Verdict | None, reason: str) -> None:
    reward = compose(ARMS[arm], terms(), untrusted, 0.9, explain=True)
    assert not reward.scored
    assert reason in reward.unscored
    assert "reward_refinement" not in reward.terms and "reward_explanation" not in reward.terms
    assert not place(reward, 6, 2).any()


def test_a_weak_verdict_counts_where_the_recipe_says_so() -> None:
    assert compose(ARMS["paper"], terms(), verdict(4, weak=True), explain=False, allow_weak=True).scored


def test_codebleu_only_needs_no_verdict() -> None:
    assert compose(ARMS["codebleu_only"], terms(0.8), None, explain=False).refinement == pytest.approx(3.0)
    assert compose(ARMS["codebleu_only"], terms(0.8), Verdict(Status.INFRA), explain=False).scored


@pytest.mark.parametrize("arm", ["paper", "codebleu_only", "hardened"])
def test_without_references_there_is_no_reward_and_the_reason_is_kept(arm: str) -> None:
    reasons = ("codebleu: no reference",)
    bare = terms(codebleu_repaired=None, unscored=reasons)
    reward = compose(ARMS[arm], replace(bare, codebleu=None), verdict(4), explain=False)
    assert not reward.scored
    assert reward.unscored[0] == reasons[0]


def test_a_defined_score_is_scored_and_counted() -> None:
    reasons = ("codebleu: CPU limit",)
    reward = compose(ARMS["paper"], terms(0.0, unscored=reasons), verdict(4), explain=False)
    assert (reward.refinement, reward.scored, reward.unscored) == (0.0, True, reasons)


class TestExplanation:
    @pytest.mark.parametrize(("similarity", "expected"), [(0.4, -5), (0.7, 0), (1.0, 5), (0.0, -5), (-1.0, -5)])
    def test_the_scale(self, similarity: float, expected: float) -> None:
        assert explanation_reward(similarity) == pytest.approx(expected)

    def test_without_references_it_is_zero_counted_and_outside_its_curve(self) -> None:
        reward = compose(ARMS["paper"], terms(), verdict(4), None, explain=True)
        assert reward.explanation == 0.0 and reward.scored
        assert reward.unscored == (EXPLANATION_UNSCORED,)
        assert "reward_explanation" not in reward.terms

    def test_it_is_none_where_none_was_asked_for(self) -> None:
        reward = compose(ARMS["paper"], terms(), verdict(4), 0.9, explain=False)
        assert reward.explanation is None
        assert "explanation_similarity" not in reward.terms

    def test_every_term_is_kept_apart(self) -> None:
        kept = compose(ARMS["hardened"], terms(0.5, 0.6, 0.2), verdict(3), 0.7, explain=True).terms
        assert {"tests_passed", "codebleu", "codebleu_syntax", "codebleu_repaired", "hardened_codebleu"} <= set(kept)
        assert {"explanation_similarity", "reward_refinement", "reward_explanation", "copied", "no_code"} <= set(kept)
        assert kept["tests_passed"] == 0.75 and kept["hardened_codebleu"] == pytest.approx(0.5)


class TestPlacement:
    def test_both_rewards_stand_at_their_tokens(self) -> None:
        tokens = place(Reward(2.0, -1.0), 6, 2)
        assert tokens.tolist() == [0, 0, -1, 0, 0, 2]
        assert tokens.dtype == np.float32

    def test_a_refinement_alone_stands_at_the_end(self) -> None:
        assert place(Reward(2.0, None), 4, -1).tolist() == [0, 0, 0, 2]

    def test_a_missing_explanation_is_paid_at_the_end(self) -> None:
        assert place(Reward(2.0, -5.0), 4, -1).tolist() == [0, 0, 0, -3]

    def test_an_explanation_that_is_the_whole_answer(self) -> None:
        assert place(Reward(-5.0, 1.0), 3, 2).tolist() == [0, 0, -4]

    @pytest.mark.parametrize("end", [-2, 3, 99])
    def test_an_index_outside_the_answer_is_refused(self, end: int) -> None:
        with pytest.raises(ValueError, match="outside an episode"):
            place(Reward(1.0, 1.0), 3, end)


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ([1, 1, 0, 0], "sum 1"),
        ([0.25, float("nan"), 0.25, 0.25], "codebleu_weights.1.*finite"),
        ([float("nan"), 1, 0, 0], "codebleu_weights.0.*finite"),
    ],
)
def test_weights_that_are_no_shares_are_refused_when_a_recipe_or_a_flag_is_read(
    weights: list[float], said: str
) -> None:
    with pytest.raises(BadInput, match=said):
        recipe_from_tree({"reward": {"codebleu_weights": weights}})
    with pytest.raises(BadInput, match=r"--weights.*sum 1"):
        check_weights(weights, "--weights")


def test_references_are_distinct_and_bounded_and_of_both_kinds() -> None:
    canonical, refinements = ["a", "b"], ["b", "c", " ", "d"]
    assert references_for(ARMS["paper"], canonical, refinements, 10) == ("a", "b", "c", "d")
    assert references_for(ARMS["paper"], canonical, refinements, 3) == ("a", "b", "c")
    many = [f"canonical {i}" for i in range(12)]
    assert references_for(ARMS["paper"], many, ["r", "s"], 5) == ("canonical 0", "r", "canonical 1", "s", "canonical 2")
    assert references_for(ARMS["codebleu_only"], canonical, refinements, 10) == ("a", "b")


class TestUsersArm:
    @pytest.fixture(autouse=True)
    def module(self, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "my_reward.py").write_text(
            "def plain(inputs):\n    return 1.0 if inputs.verdict.passed else -1.0\n"
            "def pair(inputs):\n    return 0.5, -0.5\n"
            "def leaves(inputs):\n    raise SystemExit(3)\n"
            "def infinite(inputs):\n    return float('inf')\n"
            "def text(inputs):\n    return 'high'\n"
            "def broken(inputs):\n    return inputs.nothing\n"
            "def late(inputs):\n    return 1 / (inputs.terms.n_nodes - 10)\n"
            "def sometimes(inputs):\n    return inputs.terms.n_nodes - 9 or None\n"
            "def three(inputs):\n    return (0.5, 0.5) if inputs.terms.n_nodes < 10 else (0.5, 0.5, 0.5)\n"
            "value = 3\n"
        )
        monkeypatch.chdir(tmp_path)
        monkeypatch.delitem(__import__("sys").modules, "my_reward", raising=False)

    def test_it_decides_about_every_answer_even_one_without_code(self) -> None:
        arm = resolve_arm("my_reward:plain")
        assert compose(arm, terms(), verdict(4), explain=False).refinement == 1.0
        assert compose(arm, TextTerms("t", Answer()), Verdict(Status.ERROR), explain=False).refinement == -1.0

    def test_a_pair_sets_the_explanation_too(self) -> None:
        reward = compose(resolve_arm("my_reward:pair"), terms(), verdict(4), 0.9, explain=True)
        assert (reward.refinement, reward.explanation) == (0.5, -0.5)

    def test_a_number_alone_leaves_the_explanation_the_papers_reward(self) -> None:
        reward = compose(resolve_arm("my_reward:plain"), terms(), verdict(4), 0.7, explain=True)
        assert (reward.refinement, reward.explanation) == (1.0, 0.0)

    @pytest.mark.parametrize(("name", "nodes"), [("sometimes", 9), ("three", 10)])
    def test_what_is_no_reward_leaves_that_one_answer_unscored(self, name: str, nodes: int) -> None:
        arm = resolve_arm(f"my_reward:{name}")
        assert compose(arm, terms(n_nodes=8), verdict(4), 0.7, explain=True).scored
        odd = compose(arm, terms(n_nodes=nodes), verdict(4), 0.7, explain=True)
        assert not odd.scored and odd.unscored[0].startswith("arm: gave ")

    def test_an_infrastructure_fault_never_reaches_it(self) -> None:
        assert not compose(resolve_arm("my_reward:plain"), terms(), Verdict(Status.INFRA), explain=False).scored

    def test_failing_on_one_answer_leaves_that_one_unscored(self) -> None:
        arm = resolve_arm("my_reward:late")
        assert compose(arm, terms(n_nodes=12), verdict(4), explain=False).refinement == 0.5
        failed = compose(arm, terms(n_nodes=10), verdict(4), explain=False)
        assert not failed.scored and failed.unscored == ("arm: raised ZeroDivisionError",)

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("papper", "unknown arm"),
            ("my_reward:", "unknown arm"),
            ("my_reward:nothing", "has no function"),
            ("my_reward:value", "has no function"),
            ("no_such_module:f", "cannot import"),
            ("my_reward:infinite", "returned inf"),
            ("my_reward:leaves", "raised SystemExit"),
            ("my_reward:text", "returned 'high'"),
            ("my_reward:broken", "raised AttributeError"),
        ],
    )
    def test_a_bad_one_is_refused_at_the_start(self, name: str, said: str) -> None:
        with pytest.raises(BadInput, match=said):
            resolve_arm(name)


def test_inputs_hold_all_that_a_reward_may_depend_on() -> None:
    seen: list[Inputs] = []

    def looking(inputs: Inputs) -> float:
        seen.append(inputs)
        return 0.0

    arm = replace(ARMS["tests_only"], refinement=looking)
    compose(arm, terms(), verdict(4), 0.8, explain=True)
    assert seen == [Inputs(terms(), verdict(4), 0.8, True)]

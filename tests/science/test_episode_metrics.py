"""The curves of an iteration leave out what could not be scored, and count it."""

from __future__ import annotations

import math

import numpy as np

from ledex_ray.episode_metrics import describe
from ledex_ray.episodes import Episode


def episode(id: str, reward: float, scored: bool = True, **changes: object) -> Episode:
    fields: dict[str, object] = {
        "id": id, "group_id": "g", "problem_id": "p", "instruction": "explain",
        "token_ids": np.arange(4, dtype=np.int32), "loss_mask": np.array([False, False, True, True]),
        "behaviour_log_probs": np.zeros(4, np.float32), "weight_versions": np.array([-1, -1, 0, 0], np.int32),
        "rewards": np.array([0, 0, 0, reward], np.float32), "explanation_end": 2, "temperature": 1.0, "scored": scored,
        "terms": {"tests_passed": reward / 5}, "verdict": "PASSED" if reward > 0 else "FAILED",
    }  # fmt: skip
    return Episode(**(fields | changes))  # type: ignore[arg-type]


def test_unscored_episodes_are_counted_and_stand_outside_the_means() -> None:
    infra = episode("c", 0.0, scored=False, verdict="INFRA", unscored=("tests: INFRA",))
    found = describe([episode("a", 5.0), episode("b", -5.0), infra])
    assert found["reward"] == 0.0 and found["tests_passed"] == 0.0
    assert (found["episodes"], found["unscored_episodes"], found["verdict_infra"]) == (3, 1, 1)
    assert found["unscored_tests"] == 1 and found["answer_tokens"] == 2.0
    assert found["verdict_timeout"] == 0 and "verdict_none" not in found


def test_a_term_is_averaged_over_the_episodes_that_have_it() -> None:
    found = describe([episode("a", 5.0, terms={"codebleu": 0.5}), episode("b", 5.0, terms={})])
    assert found["codebleu"] == 0.5


def test_an_empty_iteration_has_no_reward() -> None:
    assert math.isnan(describe([])["reward"]) and describe([])["episodes"] == 0

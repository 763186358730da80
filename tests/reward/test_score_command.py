"""`ledex score` and `score_many`, with the real judge and scorer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ledex_ray.bundled import load_bundled
from ledex_ray.errors import BadInput
from ledex_ray.mutants import mutants
from reward.scoring import Candidate, score_many

ROOT = Path(__file__).resolve().parents[2]
PROBLEM = load_bundled()[0]
RIGHT = PROBLEM.canonical_solutions[0]
WRONG = mutants(RIGHT)[0].source
VERDICT_KEYS = {"task_id", "index", "line", "status", "passed", "n_passed", "n_tests", "weak", "tier", "tests"}


def ledex_score(rows: list[Any], folder: Path, *flags: str) -> tuple[int, list[dict[str, Any]], str]:
    """(exit code, output lines, standard error) of `ledex score` on these rows; a string is a raw line."""
    samples = folder / "samples.jsonl"
    samples.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    out = folder / "out.jsonl"
    done = subprocess.run(
        [sys.executable, "-m", "launch.cli", "score", "--problems", "bundled", "--out", str(out), *flags, str(samples)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    lines = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    return done.returncode, lines, done.stderr


def row(solution: str, **more: Any) -> dict[str, Any]:
    return {"task_id": PROBLEM.id, "solution": solution, **more}


def test_a_line_has_the_verdict_and_every_term(tmp_path: Path) -> None:
    code, (right, wrong), _ = ledex_score([row(RIGHT), row(WRONG)], tmp_path, "--arm", "paper")
    assert code == 0
    assert set(right) >= VERDICT_KEYS | {"arm", "codebleu", "explanation_similarity", "unscored"}
    assert set(right["codebleu"]) == {"score", "ngram", "weighted_ngram", "syntax", "dataflow"}
    for line in (right, wrong):
        expected = 5 * (line["codebleu"]["score"] + line["n_passed"] / line["n_tests"]) - 5
        assert line["reward_refinement"] == pytest.approx(expected)
        assert line["reward_explanation"] is None and line["explanation_similarity"] is None
    assert right["passed"] and not wrong["passed"]
    assert right["reward_refinement"] > wrong["reward_refinement"]


def test_nothing_is_executed_under_codebleu_only(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    code, (line,), _ = ledex_score(
        [row(f"open({str(witness)!r}, 'w').close()\n" + RIGHT)], tmp_path, "--arm", "codebleu_only"
    )
    assert code == 0 and not witness.exists()
    assert line["status"] is None and line["tests"] == []
    assert line["reward_refinement"] == pytest.approx(10 * line["codebleu"]["score"] - 5)


def test_hardened_shows_both_forms_and_needs_the_wrong_solution(tmp_path: Path) -> None:
    commented = "# The right one.\n" + RIGHT
    rows = [row(RIGHT), row(commented, wrong_solution=WRONG), row(WRONG, wrong_solution=WRONG)]
    code, (repaired, copy), said = ledex_score(rows, tmp_path, "--arm", "hardened")
    assert code == 2
    assert "samples.jsonl:1" in said and "wrong_solution" in said
    assert repaired["codebleu_repaired"]["score"] > repaired["codebleu"]["score"], "comments are normalised away"
    assert repaired["reward_refinement"] > 0 >= copy["reward_refinement"]
    assert copy["copied"]


def test_bad_lines_are_named_and_good_ones_scored(tmp_path: Path) -> None:
    rows = [
        "{broken",
        row(RIGHT, references="not a list"),
        row(RIGHT, references=[1]),
        row(RIGHT, explanation=3),
        {"task_id": "no such task", "solution": RIGHT},
        row(RIGHT, references=[RIGHT]),
    ]
    code, lines, said = ledex_score(rows, tmp_path)
    assert code == 2
    assert [line["line"] for line in lines] == [6]
    for number in range(1, 6):
        assert f"samples.jsonl:{number}: " in said


def test_hostile_code_gets_a_line_like_any_other(tmp_path: Path) -> None:
    loops = "".join(" " * i + f"for x{i} in []:\n" for i in range(19)) + " " * 19 + "z = 1\n"
    code, lines, _ = ledex_score([row(""), row("def f(:"), row("x = 1\n" * 3_000), row(loops + RIGHT)], tmp_path)
    assert code == 0
    assert [line["reward_refinement"] == -5 for line in lines] == [True, False, True, False]
    assert lines[2]["unscored"] == ["answer: over the size cap"]
    assert lines[3]["unscored"] == ["codebleu: CPU limit"] and lines[3]["passed"]


def test_an_unknown_arm_is_bad_usage_and_writes_nothing(tmp_path: Path) -> None:
    code, lines, said = ledex_score([row(RIGHT)], tmp_path, "--arm", "papper")
    assert (code, lines) == (2, [])
    assert "papper" in said and "tests_only" in said


def test_an_encoder_that_is_none_is_told_with_its_flag(tmp_path: Path) -> None:
    explained = row(RIGHT, explanation="It stops early.", reference_explanations=["It ends early."])
    code, _, said = ledex_score([explained], tmp_path, "--encoder", "/nowhere")
    assert code == 2 and "ledex: --encoder: /nowhere: no such directory" in said


@pytest.mark.slow
def test_explanations_are_scored_where_references_are_given(tmp_path: Path) -> None:
    text = "The loop stops one element too early."
    rows = [row(RIGHT, explanation=text, reference_explanations=[text]), row(RIGHT, explanation=text)]
    code, (with_reference, without), _ = ledex_score(rows, tmp_path)
    assert code == 0
    assert with_reference["explanation_similarity"] == pytest.approx(1.0, abs=1e-4)
    assert with_reference["reward_explanation"] == pytest.approx(5.0, abs=1e-2)
    assert without["reward_explanation"] == 0 and without["unscored"] == ["explanation_unscored"]


def test_the_library_scores_in_order_and_more_than_one_chunk() -> None:
    codes = [RIGHT, WRONG] * 40
    found = list(score_many((Candidate(PROBLEM, code, wrong_code=WRONG) for code in codes), "hardened"))
    assert [scored.candidate.code for scored in found] == codes
    assert [scored.reward.refinement > 0 for scored in found] == [True, False] * 40
    assert len({scored.reward.refinement for scored in found}) == 2, "equal answers, equal rewards"


def test_the_library_refuses_bad_weights_and_a_missing_wrong_solution() -> None:
    with pytest.raises(BadInput, match="sum 1"):
        list(score_many([Candidate(PROBLEM, RIGHT)], weights=(1.0, 1.0, 0.0, 0.0)))
    with pytest.raises(BadInput, match="wrong code"):
        list(score_many([Candidate(PROBLEM, RIGHT)], "hardened"))

"""CodeBLEU: the package's figures, read once, the same in every process; and the repaired form."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from codebleu import calc_codebleu
from hypothesis import given, settings
from hypothesis import strategies as st

from ledex_ray.bundled import load_bundled
from ledex_ray.mutants import mutants
from reward.codebleu import CodeBleu, read_side
from reward.name_hash import name_hash
from reward.terms import CodeBleuScore

ROOT = Path(__file__).resolve().parents[2]

# The same data flow under other names, read twice by the package's extraction (a loop): its order is that of a set.
RENAMED = (
    "def f(zeta, al):\n    for omega in zeta:\n        m = omega + al + zeta\n        al = m + omega\n    return m\n",
    "def f(a, bb):\n    for ccc in a:\n        q = ccc + bb + a\n        bb = q + ccc\n    return q\n",
)
ODD = (
    "x",
    "pass",
    "",
    "   \n",
    "I am sorry, I cannot do that.",
    "def f(:\n  return",
    "# only a comment\n",
    '"""only a docstring"""\n',
    "def f(x):\n\treturn x  # tab\n",
    "naïve = 'ünïcödé'\nprint(naïve)\n",
    "print 'python 2'\n",
)


def pairs() -> list[tuple[str, str]]:
    """(candidate, reference): mutants and other problems' solutions of the bundled set, and odd texts both ways."""
    solutions = [problem.canonical_solutions[0] for problem in load_bundled()]
    found = []
    for i, solution in enumerate(solutions[:60]):
        found += [(mutant.source, solution) for mutant in mutants(solution)[:2]]
        found.append((solutions[(7 * i + 1) % len(solutions)], solution))
    found += [(odd, solutions[0]) for odd in ODD] + [(solutions[0], odd) for odd in ODD]
    return [*found, RENAMED, RENAMED[::-1]]


def in_process_with_seed(seed: int, program: str) -> list[list[float]]:
    """What `program` prints as JSON, in a fresh interpreter with this hash seed; the pairs come on its input."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(pairs()),
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": str(seed), "PYTHONPATH": str(ROOT)},
    )
    rows: list[list[float]] = json.loads(done.stdout)
    return rows


THE_PACKAGE = """
import json, logging, sys
logging.disable(logging.WARNING)
from codebleu import calc_codebleu
print(json.dumps([list(calc_codebleu([r], [c], "python").values()) for c, r in json.load(sys.stdin)]))
"""
OURS = """
import dataclasses, json, sys
from reward.codebleu import CodeBleu
scorer = CodeBleu()
print(json.dumps([list(dataclasses.astuple(scorer.score(c, [r]))) for c, r in json.load(sys.stdin)]))
"""


@pytest.fixture(autouse=True)
def quiet_package() -> None:
    logging.getLogger().setLevel(logging.ERROR)  # the package warns at each reference without data flow


def as_list(score: CodeBleuScore) -> list[float]:
    return [score.score, score.ngram, score.weighted_ngram, score.syntax, score.dataflow]


def test_every_figure_equals_the_package_under_hash_seed_0() -> None:
    expected = in_process_with_seed(0, THE_PACKAGE)
    scorer = CodeBleu()
    for (candidate, reference), row in zip(pairs(), expected, strict=True):
        assert as_list(scorer.score(candidate, [reference])) == pytest.approx(row, abs=1e-9), (candidate, reference)


def test_every_process_gives_the_same_figures_where_the_package_does_not() -> None:
    package = [in_process_with_seed(seed, THE_PACKAGE) for seed in (0, 1, 2, 3)]
    assert any(row != package[0] for row in package[1:]), "the pairs hold none that depends on the hash seed"
    ours = [in_process_with_seed(seed, OURS) for seed in (0, 1, 2, 3)]
    assert ours[0] == ours[1] == ours[2] == ours[3]


def test_many_references_give_the_mean_of_single_scores_not_the_pooled_one() -> None:
    solutions = [problem.canonical_solutions[0] for problem in load_bundled()[:4]]
    candidate, references = solutions[0], solutions[1:]
    singles = [calc_codebleu([r], [candidate], "python")["ngram_match_score"] for r in references]
    pooled = calc_codebleu([references], [candidate], "python")["ngram_match_score"]
    ours = CodeBleu().score(candidate, references).ngram
    assert ours == pytest.approx(sum(singles) / len(singles), abs=1e-9)
    assert ours != pytest.approx(pooled, abs=1e-3)


@settings(max_examples=25)
@given(st.permutations([problem.canonical_solutions[0] for problem in load_bundled()[:8]]), st.booleans())
def test_the_order_of_references_does_not_matter(references: list[str], repaired: bool) -> None:
    candidate = RENAMED[0]
    assert CodeBleu().score(candidate, references, repaired=repaired) == CodeBleu().score(
        candidate, sorted(references), repaired=repaired
    )


def test_a_kept_reference_gives_the_same_score_as_a_new_one() -> None:
    scorer = CodeBleu()
    first = scorer.score(*_pair())
    assert scorer.holds(_pair()[1][0])
    assert scorer.score(*_pair()) == first


def test_the_memory_of_references_is_bounded() -> None:
    scorer = CodeBleu(kept_chars=500)
    texts = [f"def f{i}(x):\n    return x + {i}\n" for i in range(100)]
    for text in texts:
        scorer.reference(text)
    kept = [text for text in texts if scorer.holds(text)]
    assert kept == texts[-len(kept) :], "the latest are kept"
    assert sum(map(len, kept)) <= 500


def test_weights_choose_the_component() -> None:
    candidate, references = _pair()
    scorer = CodeBleu()
    for i, name in enumerate(("ngram", "weighted_ngram", "syntax", "dataflow")):
        weights = tuple(float(i == j) for j in range(4))
        score = scorer.score(candidate, references, weights=(weights[0], weights[1], weights[2], weights[3]))
        assert score.score == pytest.approx(getattr(score, name) or float(name == "dataflow"))


class TestRepaired:
    def test_an_answer_without_data_flow_gets_nothing_for_it(self) -> None:
        reference = RENAMED[0]
        assert CodeBleu().score("pass", [reference]).score == pytest.approx(0.25)  # the package's full mark
        assert CodeBleu().score("pass", [reference], repaired=True).score == pytest.approx(0.0, abs=1e-9)

    def test_a_reference_without_data_flow_drops_the_term(self) -> None:
        reference = "def f():\n    return 1\n"
        assert not read_side(reference).dataflow
        weights = (0.1, 0.1, 0.4, 0.4)
        score = CodeBleu().score("def f():\n    return 2\n", [reference], weights=weights, repaired=True)
        rest = 0.1 * score.ngram + 0.1 * score.weighted_ngram + 0.4 * score.syntax
        assert score.score == pytest.approx(rest / 0.6)
        assert CodeBleu().score(reference, [reference], weights=weights, repaired=True).score == pytest.approx(1.0)

    def test_layout_and_comments_do_not_count(self) -> None:
        tidy = "def f(a, b):\n    c = a + b\n    return c\n"
        untidy = "def f( a,b ) :   # adds\n\n        c=a+b\n        return (c)\n"
        assert CodeBleu().score(untidy, [tidy]).score < 0.9
        assert CodeBleu().score(untidy, [tidy], repaired=True).score == pytest.approx(1.0)

    def test_text_that_is_no_python_still_gets_a_score(self) -> None:
        for odd in ODD:
            score = CodeBleu().score(odd, [RENAMED[0]], repaired=True)
            assert 0.0 <= score.score <= 1.0


@settings(max_examples=60)
@given(st.text(max_size=60), st.text(max_size=60), st.booleans())
def test_any_text_has_figures_in_range(candidate: str, reference: str, repaired: bool) -> None:
    for value in as_list(CodeBleu().score(candidate, [reference], repaired=repaired)):
        assert -1e-12 <= value <= 1 + 1e-12


def test_no_reference_is_an_error_not_a_score() -> None:
    with pytest.raises(ValueError, match="at least one reference"):
        CodeBleu().score("x = 1", [])


def test_name_hashes_are_those_of_a_process_with_hash_seed_0() -> None:
    names = ["", "a", "self", "x" * 7, "x" * 8, "x" * 9, "x" * 200, "é", "ÿ" * 9, "變數", "🙂name", "a\x00b"]
    done = subprocess.run(
        [sys.executable, "-c", "import json, sys; print(json.dumps([hash(name) for name in json.load(sys.stdin)]))"],
        input=json.dumps(names),
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "0"},
    )
    assert [name_hash(name) for name in names] == json.loads(done.stdout)


def _pair() -> tuple[str, list[str]]:
    return RENAMED[0], [RENAMED[1], "def f(x):\n    return x\n"]

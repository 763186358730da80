"""The known right solution as a refinement: only where it passes here, and under its own source."""

from __future__ import annotations

from dataclasses import replace

import pytest

from actors.sandbox_group import SandboxGroup
from launch.canonical_refinements import canonical_refinements
from launch.seeding import _mutable, seeded_trajectories
from launch.sft import _with_passing_canonicals
from ledex_ray.config import SandboxConfig
from ledex_ray.problems import AssertTest, Problem
from ledex_ray.records import Attempt, Provenance, Status, Verdict

RIGHT, WRONG = "def add(a, b):\n    return a + b", "def add(a, b):\n    return a - b"
ADD = Problem("add", "Add.", (AssertTest("assert add(1, 2) == 3"),), "add", canonical_solutions=(WRONG + " - 1", RIGHT))
BROKEN = replace(ADD, id="broken", canonical_solutions=(WRONG,))
FEEDBACK = "The call add(1, 2) returned -1, but 3 was expected."


@pytest.mark.parametrize("code", ["print 1", "x = \0", "x = " + "-" * 100_000 + "1"], ids=["old", "null", "deep"])
def test_bugs_are_seeded_where_python_can_read_the_solution(code: str) -> None:
    assert _mutable(ADD) and not _mutable(replace(ADD, canonical_solutions=(code,)))


@pytest.mark.slow
def test_a_wrong_solution_gets_the_canonical_one_that_passes(ray_session: None) -> None:
    failed = Verdict(Status.FAILED, feedback=FEEDBACK)
    wrong = [Attempt(f"{p.id}#0", p.id, 0, "", WRONG, failed, Provenance("model")) for p in (ADD, BROKEN)]
    sandboxes = SandboxGroup(SandboxConfig(actors=1, floor="C"))
    try:
        problems = {p.id: p for p in (ADD, BROKEN)}
        (found,) = canonical_refinements(problems, [(a, FEEDBACK) for a in wrong], sandboxes.client())
        trained_on = [_with_passing_canonicals(problems, sandboxes.client(), most)["add"] for most in (1, 2)]
        spaced = replace(ADD, canonical_solutions=("\n\n" + RIGHT,))
        ((seeded,),) = seeded_trajectories([spaced], sandboxes.client(), 1, 0, "public")
    finally:
        sandboxes.shutdown()
    assert (found.attempt_id, found.code, found.provenance.source) == ("add#0", RIGHT, "canonical")
    assert found.verdict.passed and "`return a - b` should be `return a + b`" in found.explanation
    assert [p.canonical_solutions for p in trained_on] == [(), (RIGHT,)]
    assert seeded.attempt.code.startswith("def add"), "as a prompt shows it"
    assert "ine 2" in seeded.refinements[0].explanation or "ine 1" in seeded.refinements[0].explanation

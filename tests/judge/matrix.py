"""The whole hostile suite in one tier, as the user that runs this; one JSON object on standard output.

Run by the tests, also as an ordinary user: python tests/judge/matrix.py TIER [--weak]
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from ledex_ray.problems import AssertTest, Problem
from reward.judge import Judge, JudgeConfig
from tests.judge.exposure import ALL, LIMITS, Witness, reached
from tests.judge.hostile_forge import FORGE


def contained(tier: str) -> dict[str, object]:
    """What each program reached that reached anything, in this tier."""
    os.environ["LEDEX_TEST_SECRET"] = "in the environment of the supervisor"
    with tempfile.TemporaryDirectory() as folder, Judge(JudgeConfig(tier=tier, floor="none")) as judge:  # type: ignore[arg-type]
        witness = Witness(Path(folder))
        found = {hostile.name: reached(judge, hostile, witness) for hostile in ALL}
        return {
            "tier": judge.tier,
            "user": os.getuid(),
            "programs": len(found),
            "reached": {name: what for name, what in found.items() if what},
        }


def weak_forgeries(tier: str) -> dict[str, object]:
    """The forging programs where the tests must run beside them: which are forged, and whether each says weak."""
    programs = [hostile for hostile in FORGE if not hostile.script]
    tests = tuple(AssertTest(f"assert solve({n}, key=lambda x: x) == {n * 7919 + 13}") for n in range(3))
    problem = Problem("weak", "", tests, "solve", limits=LIMITS)
    with Judge(JudgeConfig(tier=tier, floor="none")) as judge:  # type: ignore[arg-type]
        verdicts = {
            h.name: judge.judge(problem, h.program.replace("def solve(*a)", "def solve(*a, key=None)"))
            for h in programs
        }
    return {
        "programs": len(programs),
        "forged": [name for name, verdict in verdicts.items() if verdict.passed],
        "not marked weak": [name for name, verdict in verdicts.items() if verdict.passed and not verdict.weak],
    }


if __name__ == "__main__":
    asked = weak_forgeries if "--weak" in sys.argv else contained
    json.dump(asked(sys.argv[1]), sys.stdout)

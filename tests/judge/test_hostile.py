"""The hostile suite: nothing forged, nothing left, nothing outside touched, the next program unharmed.

The default set runs every program that does not wait for a limit, and a few of those that do, in the tier that this
machine gives. The acceptance runs take all of them in every tier to be had here, as this user and as an ordinary one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reward.judge import Judge, JudgeConfig, available_tiers
from tests.judge.exposure import ALL, Witness, reached
from tests.judge.hostile import Hostile

MATRIX = Path(__file__).with_name("matrix.py")
ORDINARY = 54_321
WAITING_SAMPLE = {"endless loop", "many full files", "sleep"}
QUICK = [hostile for hostile in ALL if not hostile.slow or hostile.name in WAITING_SAMPLE]


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    os.environ["LEDEX_TEST_SECRET"] = "in the environment of the supervisor"
    with Judge(JudgeConfig(floor="C")) as judge:
        yield judge


@pytest.fixture(scope="module")
def witness(tmp_path_factory: pytest.TempPathFactory) -> Witness:
    folder = tmp_path_factory.mktemp("witness")
    for parent in folder.parents[:3]:  # others may pass, so that only the isolation stands before the secret
        if parent.stat().st_uid == os.getuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    return Witness(folder)


def test_the_suite_is_as_large_as_it_says() -> None:
    names = [hostile.name for hostile in ALL]
    assert len(names) == len(set(names)) >= 100


@pytest.mark.parametrize("hostile", QUICK, ids=lambda hostile: hostile.name)
def test_is_contained(judge: Judge, witness: Witness, hostile: Hostile) -> None:
    assert reached(judge, hostile, witness) == []


@pytest.mark.acceptance
@pytest.mark.parametrize("user", ["this user", "an ordinary user"])
@pytest.mark.parametrize("tier", ["A", "B", "C"])
def test_the_whole_suite_is_contained(tier: str, user: str) -> None:
    if (missing := available_tiers()[tier]) and user == "this user":  # type: ignore[index]
        pytest.skip(f"tier {tier}: {missing}")
    if user == "an ordinary user" and tier == "C":
        pytest.skip("tier C needs root")
    found = _matrix(tier, ordinary=user == "an ordinary user")
    assert found["tier"] == tier
    assert found["reached"] == {}


@pytest.mark.acceptance
def test_what_weak_mode_lets_pass_is_marked_weak() -> None:
    found = _matrix("B", "--weak")
    print(f"weak mode: {len(found['forged'])} of {found['programs']} forged: {found['forged']}")
    assert found["not marked weak"] == []


def _matrix(*arguments: str, ordinary: bool = False) -> dict[str, Any]:
    if ordinary and os.getuid() != 0:
        pytest.skip("only root can become another user")
    user: dict[str, Any] = {"user": ORDINARY, "group": ORDINARY, "extra_groups": []} if ordinary else {}
    done = subprocess.run(
        [sys.executable, str(MATRIX), *arguments], capture_output=True, text=True, timeout=1800, cwd="/", **user
    )
    if ordinary and "Permission denied" in done.stderr and not done.stdout:
        pytest.skip("this checkout or its environment cannot be read by an ordinary user")
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found

"""What the reward promises, at full size, on public data (LEDEX_DATA). By `make acceptance-reward`."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks import codebleu_package, gaming

pytestmark = pytest.mark.acceptance


def test_codebleu_equals_the_package_wherever_that_agrees_with_itself(data_dir: Path) -> None:
    """7,836 pairs, four hash seeds."""
    done = CliRunner().invoke(codebleu_package.app, ["equality", "--data", str(data_dir)])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("bugs", ["model", "seeded"])
def test_no_trick_earns_more_than_a_repair_under_hardened(data_dir: Path, bugs: str) -> None:
    cases = gaming.build_cases(data_dir, bugs)
    assert len(cases) >= 100
    cells = gaming.measure(cases)
    assert gaming.better_than_repair(cells) == []
    passed = {cell.row: cell.passed for cell in cells}
    assert passed["correct rewrite"] == passed["reference + 50 junk lines"] == 1.0
    assert all(passed[row] < 0.1 for row in gaming.ROWS if row not in gaming.PASSING)


def test_the_papers_arm_shows_its_weaknesses(data_dir: Path) -> None:
    """Junk after the reference beats a real repair, and an unchanged small bug scores near one."""
    cells = gaming.measure(gaming.build_cases(data_dir, "seeded"))
    mean = {cell.row: cell.mean for cell in cells if cell.arm == "paper"}
    assert mean["reference + 50 junk lines"] > mean["correct rewrite"]
    assert mean["pass"] > mean["empty answer"]

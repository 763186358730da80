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


@pytest.fixture(scope="module", params=["model", "seeded"])
def cells(request: pytest.FixtureRequest, data_dir: Path) -> list[gaming.Cell]:
    """The gaming table of the models' own failures, and of one-edit bugs."""
    cases = gaming.build_cases(data_dir, request.param)
    assert len(cases) >= 100
    return gaming.measure(cases)


def test_no_trick_earns_more_than_a_repair_under_hardened(cells: list[gaming.Cell]) -> None:
    assert gaming.better_than_repair(cells) == []
    passed = {cell.row: cell.passed for cell in cells}
    assert passed["correct rewrite"] == passed["reference + 50 junk lines"] == 1.0
    assert all(passed[row] < 0.1 for row in gaming.ROWS if row not in gaming.PASSING)


def test_the_papers_arm_shows_its_weaknesses(cells: list[gaming.Cell]) -> None:
    """Junk after the reference beats a real repair, and `pass` beats no answer."""
    mean = {cell.row: cell.mean for cell in cells if cell.arm == "paper"}
    assert mean["reference + 50 junk lines"] > mean["correct rewrite"]
    assert mean["pass"] > mean["empty answer"]

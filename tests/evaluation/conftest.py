"""What the tests of evaluation and of the pages share: a small run on disk in which a model wrote hostile text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.evaluation.browser import Page, chromium
from tests.evaluation.sample_run import write_run


@pytest.fixture
def run_root(tmp_path: Path) -> Path:
    """A run with every kind of answer, some of them hostile."""
    return write_run(tmp_path / "runs" / "shown")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """One browser for the tests of a file; skips where there is none."""
    with chromium(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened

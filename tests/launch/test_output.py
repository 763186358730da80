"""Where results go to standard output, nothing else does."""

from __future__ import annotations

import sys

import pytest

from launch.samples import output


def test_what_libraries_print_does_not_get_among_the_results(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # put back afterwards
    with output(None) as results:
        print("from within")
        results.write("a result\n")
    print("and later")
    shown = capsys.readouterr()
    assert shown.out == "a result\n" and shown.err == "from within\nand later\n"

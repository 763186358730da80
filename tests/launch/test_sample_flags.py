"""Flags of `judge` and `score` that would cost the user a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.samples import check_flags
from ledex_ray.errors import BadInput


@pytest.mark.parametrize("spec", ["jsonl:{}", "jsonl:{}@train"])
def test_what_is_read_is_not_written_over(tmp_path: Path, spec: str) -> None:
    problems, samples, link = tmp_path / "p.jsonl", tmp_path / "s.jsonl", tmp_path / "link.jsonl"
    problems.write_text("{}\n")
    samples.write_text("{}\n")
    link.symlink_to(samples)
    for out in (problems, samples, link):
        with pytest.raises(BadInput, match="is one of the files that are read"):
            check_flags(spec.format(problems), str(samples), False, None, None, out)
    for out in (tmp_path / "new.jsonl", Path("/dev/null")):
        check_flags(spec.format(problems), str(samples), False, None, None, out)

"""What `judge` and `score` take as samples and as flags, and what they refuse before a file is lost."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from launch.samples import BadLines, check_flags, count_lines, read_samples
from ledex_ray.errors import BadInput
from ledex_ray.readers import load_problems


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


def test_a_folder_and_a_missing_file_are_told_apart(tmp_path: Path) -> None:
    for name, told in ((".", "is a folder"), ("none.jsonl", "no such file")):
        with pytest.raises(BadInput, match=told):
            check_flags("mbpp", str(tmp_path / name), False, None, None, None)


def test_samples_may_come_through_a_pipe_and_with_a_mark_at_the_beginning(tmp_path: Path) -> None:
    pipe = tmp_path / "samples"
    os.mkfifo(pipe)
    check_flags("bundled", str(pipe), False, None, None, None)
    assert count_lines(str(pipe)) == 0  # nothing of it is used up
    problems = load_problems("bundled")
    line = "\ufeff" + f'{{"task_id": "{problems[0].id}", "solution": "x = 1"}}\n'
    threading.Thread(target=pipe.write_text, args=(line,), daemon=True).start()
    bad = BadLines(str(pipe))
    assert [sample.program for sample in read_samples(str(pipe), problems, bad)] == ["x = 1"] and not bad.count


def test_programs_come_from_one_place(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"^SAMPLES or --canonical: give one of them$"):
        check_flags("bundled", None, False, None, None, None)
    with pytest.raises(BadInput, match=r"^SAMPLES or --canonical: give one of them, not both, got 'a'$"):
        check_flags("bundled", "a", True, None, None, None)

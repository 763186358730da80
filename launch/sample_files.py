"""An evaluation's programs in EvalPlus' sample format, so that others' tools can judge them again.

One file a benchmark, model and way to ask: `BENCHMARK.LABEL.MODE.jsonl`, a line {"task_id", "solution"} a first sample:
its own program, or under a refining mode the last one that was made of it. pass@1 of a file is the one in
`evaluation.json`: a first sample that an infrastructure fault befell is in neither, and one whose refinement it befell
stays as wrong as it was. `ledex judge` reads them; `evalplus.evaluate --samples` those in which every task of its set
has an answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from launch.rundir import write_atomically
from ledex_ray.evaluation import Sample
from ledex_ray.problems import Problem
from ledex_ray.records import Status


def write_sample_files(folder: Path, samples: Sequence[Sample], problems: Mapping[str, Problem]) -> list[Path]:
    """Writes every file, and returns them."""
    written = []
    for name, chosen in sorted(final_answers(samples).items()):
        by_benchmark: dict[str, list[Sample]] = {}
        for sample in chosen:
            by_benchmark.setdefault(problems[sample.problem_id].benchmark, []).append(sample)
        for benchmark, rows in sorted(by_benchmark.items()):
            path = folder / f"{file_name(f'{benchmark}.{name}')}.jsonl"
            lines = (json.dumps({"task_id": task_id(s, benchmark), "solution": s.code}) for s in rows)
            write_atomically(path, "".join(f"{line}\n" for line in lines))
            written.append(path)
    return written


def file_name(text: str) -> str:
    """The text with nothing in it that a shell or a file system would take amiss."""
    return re.sub(r"[^A-Za-z0-9._+-]", "_", text)


def task_id(sample: Sample, benchmark: str) -> str:
    """The benchmark's own id: an evaluation has several sets, and puts the name of the set before it."""
    return sample.problem_id.removeprefix(f"{benchmark}/")


def final_answers(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    """By "LABEL.MODE": for each first sample the program that the mode ends with, in the order of the first samples."""
    first: dict[str, dict[str, Sample]] = {}
    for sample in sorted(samples, key=lambda s: (s.problem_id, s.index)):
        if sample.mode == "initial" and sample.status != Status.INFRA:
            first.setdefault(sample.label, {})[sample.id] = sample
    found = {f"{label}.initial": list(own.values()) for label, own in first.items()}
    refined = [s for s in samples if s.bugs == "own" and s.mode != "resample"]
    for label, mode, kind in sorted({(s.label, s.mode, s.feedback_from) for s in refined}):
        last = dict(first.get(label, {}))
        origin = {id: id for id in last}
        chosen = (s for s in refined if (s.label, s.mode, s.feedback_from) == (label, mode, kind))
        for sample in sorted(chosen, key=lambda s: s.round):
            if sample.parent_id in origin:
                origin[sample.id] = origin[sample.parent_id]
                if sample.status != Status.INFRA:
                    last[origin[sample.id]] = sample
        found[f"{label}.{mode}" + (f".{kind}" if kind else "")] = list(last.values())
    return found

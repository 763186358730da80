"""The process in which model text is parsed. Started by `reward.scorer`, which may kill it at any moment.

It serves one request at a time from standard input: a length-prefixed JSON frame in, any number of frames out.
Each piece of work announces itself first (`{"stage": ...}`) and gets a CPU clock of its own: a timer of the
kernel ends this process, also inside C code. What a stage found (`{"found": {...}}`) is sent before the next begins,
whose end does not take it away. Frames: request {"op": "score"|"diff", ...}; last reply {"done": true}.

The text here is hostile, the process is not a sandbox: nothing is executed, only parsed.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import json
import resource
import signal
import statistics
import struct
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, BinaryIO

from ledex_ray.answers import parse_answer
from ledex_ray.syntax import UNREADABLE, canonical_form
from reward.codebleu import CodeBleu, Side, compare, mean_score, read_side
from reward.terms import Weights

LENGTH = struct.Struct(">I")


@dataclass(frozen=True)
class Program:
    """A text as `ast` sees it; `normal` (as `ledex_ray.syntax.normal_form` has it) is None where it does not parse."""

    normal: str | None
    n_nodes: int
    is_empty: bool


class Clock:
    """A CPU limit for each stage, enforced by the kernel: SIGPROF, left at its default, ends the process."""

    def __init__(self, cpu_seconds: float, send: Callable[[dict[str, Any]], None]) -> None:
        self._cpu_seconds = cpu_seconds
        self._send = send

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self._send({"stage": name})
        signal.setitimer(signal.ITIMER_PROF, self._cpu_seconds)
        yield
        signal.setitimer(signal.ITIMER_PROF, 0)


def main() -> None:
    """Serves until standard input ends. Arguments: CPU seconds a stage, memory in MB."""
    cpu_seconds, memory_mb = float(sys.argv[1]), int(sys.argv[2])
    _confine(memory_mb)
    warnings.simplefilter("ignore")  # `ast.parse` warns about a candidate's string escapes and comparisons
    source, sink = sys.stdin.buffer, sys.stdout.buffer

    def send(frame: dict[str, Any]) -> None:
        body = json.dumps(frame).encode()
        sink.write(LENGTH.pack(len(body)) + body)
        if "found" not in frame:  # what follows a finding is a stage or the end, which takes it along
            sink.flush()

    clock = Clock(cpu_seconds, send)
    codebleu = CodeBleu()
    send({"ready": True})
    while (request := _read(source)) is not None:
        try:
            if request["op"] == "score":
                _score(request["job"], set(request["skip"]), codebleu, clock, send)
            else:
                with clock.stage("diff"):
                    send({"found": {"diff": _diff(request["old"], request["new"], request["name"])}})
        except MemoryError:
            send({"fault": "memory limit"})
            return
        send({"done": True})


def _confine(memory_mb: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    # The interpreter's own mappings count too, so the limit is on what comes on top of them.
    with open("/proc/self/statm", encoding="ascii") as statm:
        mapped = int(statm.read().split()[0]) * resource.getpagesize()
    limit = mapped + memory_mb * 1024 * 1024
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _read(source: BinaryIO) -> dict[str, Any] | None:
    header = source.read(LENGTH.size)
    if len(header) < LENGTH.size:
        return None
    request: dict[str, Any] = json.loads(source.read(LENGTH.unpack(header)[0]))
    return request


def _score(
    job: dict[str, Any],
    skip: set[str],
    codebleu: CodeBleu,
    clock: Clock,
    send: Callable[[dict[str, Any]], None],
) -> None:
    code: str = job["code"] or ""
    if job["text"] is not None:
        with clock.stage("answer"):
            answer = parse_answer(job["text"], job["instruction"], job["entry_point"])
            send({"found": {"answer": asdict(answer)}})
            code = answer.code
    with clock.stage("syntax"):
        program = _read_program(code)
        send({"found": _syntax_terms(program, code)})
    wrong: str | None = job["wrong_code"] if "wrong" not in skip else None
    if wrong is not None:
        with clock.stage("wrong"):
            send({"found": _copy_terms(program, code, _program(wrong), wrong)})
    if job["codebleu"] and code.strip():
        _codebleu_terms(job, code, wrong, skip, codebleu, clock, send)


def _syntax_terms(program: Program, code: str) -> dict[str, Any]:
    kind, content = ("ast", program.normal) if program.normal is not None else ("words", " ".join(code.split()))
    digest = hashlib.sha256(f"{kind}:{content}".encode("utf-8", "surrogatepass")).hexdigest()
    return {
        "parses": program.normal is not None and not program.is_empty,
        "n_nodes": program.n_nodes,
        "normal_hash": digest[:32] if code.strip() else "",
    }


def _copy_terms(program: Program, code: str, wrong_program: Program, wrong: str) -> dict[str, Any]:
    if program.normal is None or wrong_program.normal is None:
        same = code.split() == wrong.split()
        return {"copied": same, "renamed_copy": same}
    copied = program.normal == wrong_program.normal
    return {"copied": copied, "renamed_copy": copied or _canonical(code) == _canonical(wrong)}


def _codebleu_terms(
    job: dict[str, Any],
    code: str,
    wrong: str | None,
    skip: set[str],
    codebleu: CodeBleu,
    clock: Clock,
    send: Callable[[dict[str, Any]], None],
) -> None:
    weights: Weights = tuple(job["weights"])
    forms = (False, True) if job["repaired"] else (False,)
    texts: list[tuple[int, str]] = [(i, r) for i, r in enumerate(job["references"]) if f"reference {i}" not in skip]
    for i, text in texts:
        if not all(codebleu.holds(text, repaired=form) for form in forms):
            with clock.stage(f"reference {i}"):
                for form in forms:
                    codebleu.reference(text, repaired=form)
                _program(text)
    if not texts:
        return
    with clock.stage("codebleu"):
        nodes = [_program(text).n_nodes for _, text in texts]
        found: dict[str, Any] = {"n_ref_nodes": statistics.median([n for n in nodes if n] or [0])}
        for form, key in zip(forms, ("codebleu", "codebleu_repaired"), strict=False):
            sides = [codebleu.reference(text, repaired=form) for _, text in texts]
            found[key] = _mean(read_side(code, repaired=form), sides, weights, repaired=form)
            if form and wrong is not None:
                found["codebleu_wrong"] = _mean(codebleu.reference(wrong, repaired=True), sides, weights, repaired=True)
        send({"found": found})


def _mean(candidate: Side, references: list[Side], weights: Weights, *, repaired: bool) -> dict[str, float]:
    return asdict(mean_score([compare(candidate, r, weights=weights, repaired=repaired) for r in references]))


def _read_program(source: str) -> Program:
    try:
        tree = ast.parse(source)
        return Program(ast.dump(tree), sum(1 for _ in ast.walk(tree)), not tree.body)
    except UNREADABLE:
        return Program(None, 0, not source.strip())


@lru_cache(maxsize=256)
def _program(source: str) -> Program:
    """The same, kept: for wrong code and references, which come again."""
    return _read_program(source)


@lru_cache(maxsize=256)
def _canonical(source: str) -> str:
    """The program with its variables renamed away; its own text where that fails, which equals no other program's."""
    try:
        return canonical_form(source)
    except UNREADABLE:
        return source


def _diff(old: str, new: str, name: str) -> str:
    lines = difflib.unified_diff(
        old.splitlines(keepends=True), new.splitlines(keepends=True), f"{name} (before)", f"{name} (after)"
    )
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)


if __name__ == "__main__":
    main()

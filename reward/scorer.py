"""Everything that reads model text as text: answers, syntax trees, CodeBLEU, diffs. In one killable child.

Model text is hostile to a parser (SANDBOX.md, class 7): 20,000 assignments hold CodeBLEU for 15 s, nested loops double
its work with each level, deep nests end `ast.parse` in an error and tree-sitter in a broken stack. So the text crosses
this process unread; `reward.scorer_child` reads it under a CPU clock and a memory limit, and is killed and replaced
when it exceeds them. Every answer gets its terms: measured ones, or a defined score with the reason in `unscored`.

Not covered: running the code (`reward.judge`), and making a reward from the terms (`reward.compose`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from ledex_ray.answers import Answer
from reward.terms import ZERO_CODEBLEU, CodeBleuScore, TextJob, TextTerms

log = logging.getLogger(__name__)

MAX_BYTES, MAX_LINES = 64 * 1024, 2_000
"""The size cap at the door. Text beyond it is not parsed and gets the defined score."""

_PROGRAM = "import json, sys; sys.path[:] = json.loads(sys.argv.pop()); import reward.scorer_child as c; c.main()"
_LENGTH_BYTES = 4
_MAX_FRAME = 64 * 1024 * 1024
_START_SECONDS = 120.0
_STALL_SECONDS = 5.0  # without any use of the processor; what uses it meets the CPU limit, on a busy machine later
_LONGEST_SECONDS = 300.0  # of silence, whatever is used
_SPENT = "CPU limit"
_KILLED, _STALLED = "killed", "stalled"
_DETERMINISTIC = (_SPENT, "memory limit")  # the text's own doing; anything else is tried once more
_FROM_OUTSIDE = (_KILLED, _STALLED)  # the machine's doing: a text that uses too much meets the limits above first


class ScorerError(RuntimeError):
    """The scoring process cannot be started: our own fault, never the text's."""


def refusal(text: str) -> str:
    """Why a text is not parsed at all, or "": the size cap (64 KB, 2,000 lines), lone surrogates."""
    if len(text) > MAX_BYTES or text.count("\n") >= MAX_LINES:
        return "over the size cap"
    try:
        return "over the size cap" if len(text.encode()) > MAX_BYTES else ""
    except UnicodeEncodeError:
        return "not valid text"


class Scorer:
    """Owns the scoring child. Not for use by two threads at once; a context manager.

    `cpu_seconds` bounds each stage of one answer (parse it, its wrong code, each new reference, CodeBLEU) and
    `memory_mb` the child. The child is replaced after `jobs_a_child` answers, which bounds what it may leak.
    """

    def __init__(self, *, cpu_seconds: float = 2.0, memory_mb: int = 1024, jobs_a_child: int = 20_000) -> None:
        self._cpu_seconds = cpu_seconds
        self._memory_mb = memory_mb
        self._jobs_a_child = jobs_a_child
        self._child: _Child | None = None
        self._unreadable: set[str] = set()  # digests of references and wrong code that ended a child

    def __enter__(self) -> Scorer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the child; a later call starts another."""
        if self._child is not None:
            self._child.end()
            self._child = None

    def score(self, jobs: Iterable[TextJob]) -> list[TextTerms]:
        """The terms of each job, in order.

        Raises ScorerError where no child can be started or it is ended from outside twice; nothing for any text.
        """
        return [self._score(job) for job in jobs]

    def diff(self, old: str, new: str, name: str = "solution.py") -> str:
        """A unified diff of two programs; one line that says why where it cannot be made within the limits."""
        if refused := refusal(old) or refusal(new):
            return f"(no diff: {refused})\n"
        found, _, fault = self._run({"op": "diff", "old": old, "new": new, "name": name})
        return f"(no diff: {fault})\n" if fault else str(found["diff"])

    def _score(self, job: TextJob) -> TextTerms:
        own = job.code if job.text is None else job.text
        assert own is not None, "TextJob holds text or code"
        if not job.read:
            return TextTerms(job.id, Answer(code=own, code_span=(0, len(own))))
        if refused := refusal(own):
            return _refused(job, refused)
        reasons: list[str] = []
        skip: set[str] = set()
        for stage, text in _auxiliary(job):
            if refused := refusal(text):
                skip.add(stage)
                reasons.append(f"{stage}: {refused}")
            elif _digest(text) in self._unreadable:
                skip.add(stage)
                reasons.append(f"{stage}: over the limits before")
        while True:
            found, stage, fault = self._run({"op": "score", "job": asdict(job), "skip": sorted(skip)})
            if not fault:
                break
            reasons.append(f"{stage}: {fault}")
            culprit = dict(_auxiliary(job)).get(stage)
            if culprit is None:  # the answer itself
                break
            if len(self._unreadable) < 100_000:
                self._unreadable.add(_digest(culprit))
            skip.add(stage)
        return _terms(job, found, reasons)

    def _run(self, request: dict[str, Any]) -> tuple[dict[str, Any], str, str]:
        """What the child found, the stage it reached and its fault ("" when it finished)."""
        for attempt in (1, 2):
            found, stage, fault = self._ready_child().ask(request)
            if not fault:
                return found, stage, ""
            log.info("scorer_child_ended stage=%s fault=%s attempt=%d", stage, fault, attempt)
            self.close()
            if fault in _DETERMINISTIC:
                return found, stage, fault
        if fault in _FROM_OUTSIDE:
            raise ScorerError(f"the scoring process was ended twice in a row: {fault}")
        return found, stage, fault

    def _ready_child(self) -> _Child:
        if self._child is not None and self._child.n_requests >= self._jobs_a_child:
            self.close()
        if self._child is None:
            self._child = _Child(self._cpu_seconds, self._memory_mb)
        return self._child


class _Child:
    """One scoring process and its two pipes, used with deadlines: nothing here waits for ever."""

    def __init__(self, cpu_seconds: float, memory_mb: int) -> None:
        self.n_requests = 0
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `end`
        # An own interpreter with nothing of this one's environment; our import path goes by argument.
        path = [os.path.abspath(entry or ".") for entry in sys.path]
        command = [sys.executable, "-I", "-X", "utf8", "-c", _PROGRAM]
        try:
            self._process = subprocess.Popen(
                [*command, str(cpu_seconds), str(memory_mb), json.dumps(path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env={},
                cwd=Path(__file__).parent,
                start_new_session=True,  # an interrupt at the terminal is the parent's to handle
            )
        except OSError as error:
            self._errors.close()
            raise ScorerError(f"cannot start {sys.executable}: {error}") from error
        assert self._process.stdin is not None and self._process.stdout is not None
        self._to_child, self._from_child = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._to_child, False)
        os.set_blocking(self._from_child, False)
        self._received = bytearray()
        if self._receive(_START_SECONDS) != {"ready": True}:
            self._process.kill()
            self._process.wait()
            self._errors.seek(0)
            tail = self._errors.read()[-2000:].decode("utf-8", "replace").strip()
            self.end()
            raise ScorerError(f"the scoring process did not start: {tail or 'no message'}")

    def ask(self, request: dict[str, Any]) -> tuple[dict[str, Any], str, str]:
        """Everything found for one request, the last stage begun, and the fault that ended the child, or ""."""
        self.n_requests += 1
        found: dict[str, Any] = {}
        stage = "answer"
        body = json.dumps(request).encode()
        if not self._send(len(body).to_bytes(_LENGTH_BYTES, "big") + body):
            return found, stage, self._fault()
        while True:
            frame = self._receive(_STALL_SECONDS)
            match frame:
                case {"found": dict(terms)}:
                    found |= terms
                case {"stage": str(stage)}:
                    pass
                case {"done": True}:
                    return found, stage, ""
                case {"fault": str(fault)}:
                    return found, stage, fault
                case _:
                    return found, stage, self._fault()

    def end(self) -> None:
        """Kills and reaps the process, and closes the pipes."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with suppress(BrokenPipeError):  # unsent bytes to a dead child
                stream.close()
        self._errors.close()

    def _fault(self) -> str:
        """Why the child no longer answers; it is dead afterwards."""
        try:
            status = self._process.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            return _STALLED
        if status == -signal.SIGPROF:
            return _SPENT
        if -status in (signal.SIGKILL, signal.SIGTERM):
            return _KILLED
        return f"parser ended by signal {-status}" if status < 0 else f"parser exited with {status}"

    def _send(self, data: bytes) -> bool:
        view = memoryview(data)
        poll = select.poll()
        poll.register(self._to_child, select.POLLOUT)
        while view:
            if not self._ready(poll, _STALL_SECONDS):
                return False
            try:
                view = view[os.write(self._to_child, view) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                return False
        return True

    def _receive(self, seconds: float) -> Any:
        """The next frame, or None: the child ended, broke the protocol or did nothing at all for so long."""
        if not self._fill(_LENGTH_BYTES, seconds):
            return None
        length = int.from_bytes(self._received[:_LENGTH_BYTES], "big")
        if length > _MAX_FRAME or not self._fill(_LENGTH_BYTES + length, seconds):
            return None
        body = bytes(self._received[_LENGTH_BYTES : _LENGTH_BYTES + length])
        del self._received[: _LENGTH_BYTES + length]
        try:
            return json.loads(body)
        except ValueError:
            return None

    def _ready(self, poll: select.poll, seconds: float) -> bool:
        """Whether a pipe can be used; False once the child has neither answered nor computed for so long."""
        used, last = self._cpu_clock(), time.monotonic() + _LONGEST_SECONDS
        while not poll.poll(seconds * 1000):
            before, used = used, self._cpu_clock()
            if used == before or time.monotonic() > last:
                return False
        return True

    def _cpu_clock(self) -> float:
        """Seconds of processor time that the child has had; 0 where it has ended."""
        try:
            return time.clock_gettime((~self._process.pid << 3) | 2)  # clock_getcpuclockid(3)
        except OSError:
            return 0.0

    def _fill(self, n_bytes: int, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._from_child, select.POLLIN)
        while len(self._received) < n_bytes:
            if not self._ready(poll, seconds):
                return False
            try:
                data = os.read(self._from_child, 1 << 16)
            except BlockingIOError:
                continue
            if not data:
                return False
            self._received += data
        return True


def _auxiliary(job: TextJob) -> list[tuple[str, str]]:
    """The other texts of a job, each under the name of the stage that reads it."""
    texts = [(f"reference {i}", text) for i, text in enumerate(job.references)] if job.codebleu else []
    return [("wrong", job.wrong_code), *texts] if job.wrong_code is not None else texts


def _refused(job: TextJob, reason: str) -> TextTerms:
    zero = ZERO_CODEBLEU if job.codebleu and job.references else None
    return TextTerms(
        id=job.id,
        answer=Answer(code=job.code, code_span=(0, len(job.code))) if job.code is not None else Answer(),
        codebleu=zero,
        codebleu_repaired=zero if job.repaired else None,
        codebleu_wrong=zero if job.repaired and job.wrong_code is not None else None,
        unscored=(f"answer: {reason}",),
    )


def _terms(job: TextJob, found: dict[str, Any], reasons: Sequence[str]) -> TextTerms:
    """The child's findings as terms; where CodeBLEU was due and is missing, its defined score stands in."""
    if job.code is not None:
        answer = Answer(code=job.code, code_span=(0, len(job.code)))
    else:
        answer = _answer(found.get("answer"))
    due = job.codebleu and bool(job.references) and bool(answer.code.strip())
    own_fault = any(reason.startswith(("answer", "syntax", "codebleu")) for reason in reasons)
    all_skipped = due and "n_ref_nodes" not in found and not own_fault
    stand_in = ZERO_CODEBLEU if due and not all_skipped else None
    if job.codebleu and not job.references:
        reasons = [*reasons, "codebleu: no reference"]
    elif all_skipped:
        reasons = [*reasons, "codebleu: no readable reference"]
    repaired = job.repaired
    return TextTerms(
        id=job.id,
        answer=answer,
        parses=bool(found.get("parses", False)),
        codebleu=_codebleu(found.get("codebleu")) or stand_in,
        codebleu_repaired=(_codebleu(found.get("codebleu_repaired")) or stand_in) if repaired else None,
        codebleu_wrong=_codebleu(found.get("codebleu_wrong")) if repaired else None,
        copied=bool(found.get("copied", False)),
        renamed_copy=bool(found.get("renamed_copy", False)),
        n_nodes=int(found.get("n_nodes", 0)),
        n_ref_nodes=float(found.get("n_ref_nodes", 0.0)),
        normal_hash=str(found.get("normal_hash", "")),
        unscored=tuple(reasons),
    )


def _answer(found: Any) -> Answer:
    if found is None:
        return Answer()
    explanation, code = found["explanation_span"], found["code_span"]
    return Answer(
        explanation=str(found["explanation"]),
        code=str(found["code"]),
        explanation_span=(int(explanation[0]), int(explanation[1])),
        code_span=(int(code[0]), int(code[1])),
    )


def _codebleu(found: Any) -> CodeBleuScore | None:
    if found is None:
        return None
    score = CodeBleuScore(**{name: float(value) for name, value in found.items()})
    assert math.isfinite(score.score), "CodeBLEU of readable text is finite"
    return score


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

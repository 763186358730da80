"""Synthesis with its teacher behind a real OpenAI-compatible server (vLLM's own); server and driver are killed."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launch.parts import Parts
from ledex_ray.records import Attempt, Refinement

pytestmark = pytest.mark.acceptance

PATIENCE = 2400.0  # a bound on waiting, not a claim about speed
SETTINGS = (
    "problems.limit=5",
    "synthesis.solve.n=3",
    "synthesis.max_wrong_per_problem=2",
    "synthesis.seeded_bugs=0",
    "synthesis.refine.n=2",
    "synthesis.refine.max_tokens=48",
    "synthesis.teacher=teacher",
    "synthesis.endpoint.key_variable=''",
    "synthesis.endpoint.concurrency=1",
    "synthesis.endpoint.requests_per_minute=20",  # slowly enough to be killed in the middle
    "synthesis.endpoint.retries=1",
    "tracking.wandb=disabled",
)


class Teacher:
    """vLLM's OpenAI-compatible server on one port of loopback: started, killed, and started again."""

    def __init__(self, model: Path, log: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url, self._log = f"http://127.0.0.1:{self.port}/v1", log
        self._command = [
            sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model),
            "--served-model-name", "teacher", "--host", "127.0.0.1", "--port", str(self.port), "--enforce-eager",
            "--max-model-len", "768", "--max-num-seqs", "16", "--dtype", "bfloat16",
            "--no-enable-chunked-prefill", "--max-num-batched-tokens", "1024",
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it answers."""
        environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1"}
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        wait(lambda: answers(f"http://127.0.0.1:{self.port}/health"), self._process, self._log)

    def kill(self) -> None:
        """SIGKILL, its engine too; nothing where it is down."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@pytest.fixture
def teacher(smollm2: Path, tmp_path: Path) -> Iterator[Teacher]:
    """A teacher that is not up yet."""
    made = Teacher(smollm2, tmp_path / "vllm.txt")
    yield made
    made.kill()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def wait(condition: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, f"ended with {process.returncode}: {log.read_text()[-3000:]}"
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.2)


class Driver:
    """`ledex synthesize` with runs and a cache of its own; the converted model is shared, replies are not."""

    def __init__(self, folder: Path, model: Path, url: str) -> None:
        self.run, self.log, self._cache, self._url = folder / "runs/smoke", folder / "log.txt", folder / "cache", url
        self._cache.mkdir(parents=True)
        (self._cache / model.name).symlink_to(model)

    def start(self) -> subprocess.Popen[bytes]:
        code = "from launch.cli import main; main()"
        command = [sys.executable, "-c", code, "synthesize", "smoke", *SETTINGS, f"synthesis.endpoint.url={self._url}"]
        environment = os.environ | {"LEDEX_RUNS": str(self.run.parent), "LEDEX_CACHE": str(self._cache)}
        with self.log.open("a") as log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)

    def ends_with(self, code: int, process: subprocess.Popen[bytes] | None = None) -> None:
        assert (process or self.start()).wait(PATIENCE) == code, self.log.read_text()[-3000:]

    def replies(self) -> int:
        return len(list(self._cache.glob("endpoint/*/*.json")))

    def attempts(self) -> list[Attempt]:
        return Parts(self.run / "synthesis/solve", Attempt).read()

    def refinements(self) -> list[Refinement]:
        return Parts(self.run / "synthesis/refine", Refinement).read()

    def take_attempts(self, other: Driver) -> None:
        shutil.copytree(other.run / "synthesis/solve", self.run / "synthesis/solve")


def test_a_synthesis_that_was_killed_twice_has_the_items_of_one_that_was_not(
    teacher: Teacher, smollm2: Path, tmp_path: Path
) -> None:
    solved, whole, broken = (Driver(tmp_path / name, smollm2, teacher.url) for name in ("solved", "whole", "broken"))
    solved.ends_with(2)  # its own solutions are there, and then nobody answers
    assert solved.attempts() and not solved.refinements()
    for driver in (whole, broken):
        driver.take_attempts(solved)

    teacher.start()
    whole.ends_with(0)
    expected = Counter(r.id for r in whole.refinements())
    assert len({r.attempt_id for r in whole.refinements()}) >= 5 and set(expected.values()) == {1}

    process = broken.start()
    wait(lambda: broken.replies() >= 1, process, broken.log)
    teacher.kill()
    broken.ends_with(2, process)

    teacher.start()
    before = broken.replies()
    process = broken.start()
    wait(lambda: broken.replies() > before, process, broken.log)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (broken.run / "synthesis/DONE.json").exists() and broken.replies() < len(expected) / 2

    broken.ends_with(0)
    assert Counter(r.id for r in broken.refinements()) == expected
    assert broken.attempts() == whole.attempts() == solved.attempts()
    assert {(r.provenance.source, r.provenance.revision) for r in broken.refinements()} == {("teacher", "teacher")}
    assert all(r.provenance.n_tokens for r in broken.refinements())
    asked, known = map(int, re.findall(r"(\d+) questions asked, (\d+) known from before", broken.log.read_text())[-1])
    print(f"{len(expected)} refinements in both; at the end {asked} questions were asked and {known} known from before")
    assert asked >= 1 and known >= 1  # what the killed driver had not written yet was not asked again

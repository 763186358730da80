"""Synthesis with its teacher behind a real OpenAI-compatible server (vLLM's own), killed twice and resumed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from launch.parts import Parts
from ledex_ray.records import Attempt, Refinement

pytestmark = pytest.mark.acceptance

PATIENCE = 1500.0
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
    "tracking.wandb=disabled",
)


@pytest.fixture(scope="module")
def server(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """vLLM's OpenAI-compatible server on loopback; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(smollm2)]
    command += ["--served-model-name", "teacher", "--host", "127.0.0.1", "--port", str(port), "--enforce-eager"]
    command += ["--max-model-len", "768", "--max-num-seqs", "16", "--dtype", "bfloat16", "--no-enable-chunked-prefill"]
    command += ["--max-num-batched-tokens", "1024"]
    log = (tmp_path_factory.mktemp("vllm") / "log.txt").open("w+")
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1"}
    process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        wait(lambda: answers(f"http://127.0.0.1:{port}/health"), process, log.name)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def wait(condition: Callable[[], bool], process: subprocess.Popen[bytes], log: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, f"ended with {process.returncode}: {Path(log).read_text()[-3000:]}"
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.2)


def synthesize(runs: Path, url: str, cache: Path, *more: str) -> subprocess.Popen[bytes]:
    code = "from launch.cli import main; main()"
    command = [sys.executable, "-c", code, "synthesize", "smoke", *SETTINGS, f"synthesis.endpoint.url={url}", *more]
    environment = os.environ | {"LEDEX_RUNS": str(runs), "LEDEX_CACHE": str(cache)}
    log = (runs / "log.txt").open("a")
    return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)


def has_replies(cache: Path, count: int) -> bool:
    return len(list(cache.glob("endpoint/*/*.json"))) >= count


def items(run: Path) -> Counter[tuple[str, int]]:
    return Counter((r.attempt_id, r.index) for r in Parts(run / "synthesis/refine", Refinement).read())


def test_a_synthesis_that_was_killed_twice_has_the_items_of_one_that_was_not(
    server: str, smollm2: Path, tmp_path: Path
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    caches = [tmp_path / "cache-whole", tmp_path / "cache-broken"]
    for cache in caches:  # the converted model is shared; replies are not
        cache.mkdir()
        (cache / smollm2.name).symlink_to(smollm2)
    whole.mkdir()
    assert synthesize(whole, server, caches[0]).wait(PATIENCE) == 0, (whole / "log.txt").read_text()[-3000:]
    attempts = Parts(whole / "smoke/synthesis/solve", Attempt).read()
    wrong = {id for id, _ in items(whole / "smoke")}
    assert len(wrong) >= 5 and set(items(whole / "smoke").values()) == {1}

    # The same wrong solutions, then the second half again, slowly enough to be killed in it.
    (broken / "smoke/synthesis").mkdir(parents=True)
    shutil.copytree(whole / "smoke/synthesis/solve", broken / "smoke/synthesis/solve")
    slow = "synthesis.endpoint.requests_per_minute=30"
    for replies in (1, 3):
        process = synthesize(broken, server, caches[1], slow)
        wait(partial(has_replies, caches[1], replies), process, str(broken / "log.txt"))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not (broken / "smoke/synthesis/DONE.json").exists()
    assert synthesize(broken, server, caches[1], slow).wait(PATIENCE) == 0, (broken / "log.txt").read_text()[-3000:]
    assert items(broken / "smoke") == items(whole / "smoke")
    assert Parts(broken / "smoke/synthesis/solve", Attempt).read() == attempts
    rows = Parts(broken / "smoke/synthesis/refine", Refinement).read()
    assert {r.provenance.source for r in rows} == {"teacher"} and all(r.provenance.n_tokens for r in rows)
    assert "known from before" in (broken / "log.txt").read_text()

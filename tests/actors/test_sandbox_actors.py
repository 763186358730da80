"""Real sandboxes in a real Ray: scores, and what happens when actors and their children are killed or stopped."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import psutil
import pytest
import ray

from actors import watchdog
from actors.ray_pool import CalledOff
from actors.sandbox import SandboxClient, SandboxInfo, ScoreRequest, ScoreResult
from actors.sandbox_group import SandboxGroup
from actors.score_stream import ScoreStream
from ledex_ray.config import SandboxConfig
from ledex_ray.problems import AssertTest, Limits, Problem
from ledex_ray.records import Status, TestStatus
from reward.terms import TextJob

pytestmark = pytest.mark.slow

ADD = Problem(
    id="add",
    text="Add two numbers.",
    tests=(AssertTest("assert add(1, 2) == 3"), AssertTest("assert add(0, 0) == 0")),
    entry_point="add",
)
RIGHT = "def add(a, b):\n    return a + b\n"
WRONG = "def add(a, b):\n    return a - b\n"
BUSY = "def add(a, b):\n    while True:\n        pass\n"
SLOW = "def add(a, b):\n    import time\n    time.sleep({seconds})\n    return a + b\n"


@pytest.fixture(scope="module")
def group(ray_session: None) -> Iterator[SandboxGroup]:
    sandboxes = SandboxGroup(SandboxConfig(actors=2, batch_size=4, floor="C", deadline_seconds=20.0))
    yield sandboxes
    sandboxes.shutdown()


def request(name: str, code: str, problem: Problem = ADD) -> ScoreRequest:
    job = TextJob(id=name, code=code, entry_point=problem.entry_point, references=(RIGHT,))
    return ScoreRequest(name, problem, job)


@contextmanager
def stopping_whoever_runs(cpu_seconds: float) -> Iterator[None]:
    """Meanwhile each sandbox below this process is stopped once a program of its has used so much CPU time."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    if process.name().startswith("ray::SandboxAct") and _busiest(process) > cpu_seconds:
                        process.send_signal(signal.SIGSTOP)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _busiest(process: psutil.Process) -> float:
    """The CPU seconds of the program that a sandbox runs: a child of its fork server."""
    return max((p.cpu_times().user for child in process.children() for p in child.children()), default=0.0)


def score(client: SandboxClient, requests: list[ScoreRequest]) -> dict[str, ScoreResult]:
    results = list(client.score(requests))
    assert len(results) == len(requests)
    return {result.id: result for result in results}


def test_each_answer_gets_its_own_terms_and_verdict(group: SandboxGroup) -> None:
    codes = {f"r{i}": RIGHT for i in range(9)} | {f"w{i}": WRONG for i in range(9)}
    results = score(group.client(), [request(name, code) for name, code in codes.items()])
    assert results.keys() == codes.keys()
    for name, result in results.items():
        assert result.terms.id == name and result.verdict is not None
        assert result.verdict.status is (Status.PASSED if codes[name] == RIGHT else Status.FAILED)
    right, wrong = results["r0"].terms.codebleu, results["w0"].terms.codebleu
    assert right is not None and wrong is not None and right.score > wrong.score


def test_an_answer_is_parsed_and_its_code_run(group: SandboxGroup) -> None:
    text = f"Here it is:\n```python\n{RIGHT}```\n"
    job = TextJob(id="t", text=text, instruction="direct", entry_point="add")
    (result,) = group.client().score([ScoreRequest("t", ADD, job)])
    assert "return a + b" in result.terms.answer.code
    assert result.verdict is not None and result.verdict.passed


def test_an_answer_without_code_is_an_error_with_every_test_not_run(group: SandboxGroup) -> None:
    job = TextJob(id="t", text="", instruction="direct", entry_point="add")
    (result,) = group.client().score([ScoreRequest("t", ADD, job)])
    assert result.verdict is not None and result.verdict.status is Status.ERROR
    assert [t.status for t in result.verdict.tests] == [TestStatus.NOT_RUN] * 2
    assert "no code" in result.verdict.feedback


def test_execution_can_be_left_out(group: SandboxGroup) -> None:
    job = TextJob(id="t", code=RIGHT, entry_point="add", references=(RIGHT,))
    (result,) = group.client().score([ScoreRequest("t", ADD, job, execute=False)])
    assert result.verdict is None and result.terms.codebleu is not None


def test_a_client_works_where_it_is_sent(group: SandboxGroup) -> None:
    @ray.remote(num_cpus=0)
    def elsewhere(packed: bytes, asked: ScoreRequest) -> list[ScoreResult]:
        return list(pickle.loads(packed).score([asked]))

    (result,) = ray.get(elsewhere.remote(pickle.dumps(group.client()), request("x", RIGHT)), timeout=60)
    assert result.verdict is not None and result.verdict.passed


def test_requests_are_read_no_faster_than_sandboxes_work(group: SandboxGroup) -> None:
    read = 0

    def endless() -> Iterator[ScoreRequest]:
        nonlocal read
        while True:
            read += 1
            yield request(str(read), RIGHT)

    scores = group.client().score(endless())
    for _ in range(10):
        next(scores)
    assert read < 100


def test_a_stream_scores_what_comes_while_it_is_open_and_calls_off_the_rest(group: SandboxGroup) -> None:
    slow = SLOW.format(seconds=0.5)
    with ScoreStream(group.client()) as stream:
        first = stream.submit(request("first", RIGHT)).result(timeout=60)
        assert first.verdict is not None and first.verdict.passed
        later = [stream.submit(request(f"later{i}", WRONG)) for i in range(6)]
        assert {score.result(timeout=60).id for score in later} == {f"later{i}" for i in range(6)}
        left = [stream.submit(request(f"left{i}", slow)) for i in range(40)]
    assert any(isinstance(score.exception(timeout=1), CalledOff) for score in left)
    with pytest.raises(CalledOff):
        stream.submit(request("late", RIGHT))


def serving(group: SandboxGroup) -> SandboxInfo:
    """One of the sandboxes that is up; the one that was killed before may still be starting anew."""
    calls = [actor.ready.remote() for actor in group.actors.values()]
    while True:
        (done, *_), calls = ray.wait(calls, timeout=60)
        with suppress(ray.exceptions.RayActorError):
            found: SandboxInfo = ray.get(done)
            return found


@pytest.mark.parametrize("victim", ["actor", "fork server or referee"])
def test_every_item_gets_exactly_one_verdict_though_processes_are_killed(group: SandboxGroup, victim: str) -> None:
    slow = SLOW.format(seconds=0.15)
    requests = [request(f"s{i}", slow if i % 3 else WRONG) for i in range(40)]
    seen: list[ScoreResult] = []
    for result in group.client().score(requests):
        seen.append(result)
        if len(seen) in (8, 20):
            info = serving(group)
            for pid in (info.pid,) if victim == "actor" else info.children:
                os.kill(pid, signal.SIGKILL)
    assert sorted(r.id for r in seen) == sorted(r.id for r in requests)
    for result in seen:
        expected = Status.PASSED if int(result.id[1:]) % 3 else Status.FAILED
        assert result.verdict is not None and result.verdict.status is expected


@pytest.mark.parametrize("when", ["before the call", "in mid call"])
def test_a_stopped_actor_is_named_ended_and_its_items_done_elsewhere(
    group: SandboxGroup, caplog: pytest.LogCaptureFixture, when: str
) -> None:
    hasty = SandboxClient(group.actors, group.config.model_copy(update={"deadline_seconds": 3.0}))
    name, actor = next(iter(group.actors.items()))
    pid = ray.get(actor.ready.remote(), timeout=60).pid
    slow = SLOW.format(seconds=0.2)
    requests = [request(f"s{i}", slow) for i in range(24)]
    seen: list[ScoreResult] = []
    if when == "before the call":
        os.kill(pid, signal.SIGSTOP)
    for result in hasty.score(requests):
        if not seen and when == "in mid call":
            os.kill(pid, signal.SIGSTOP)
        seen.append(result)
    assert sorted(r.id for r in seen) == sorted(r.id for r in requests)
    assert all(r.verdict is not None and r.verdict.passed for r in seen)
    stuck = [r.getMessage() for r in caplog.records if r.getMessage().startswith("stuck")]
    assert any(f"actor={name}" in line and "state=T" in line for line in stuck)
    deadline = time.monotonic() + 30
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not os.path.exists(f"/proc/{pid}")


def test_stacks_lie_in_the_folder_of_the_ray_session_and_go_with_it(group: SandboxGroup) -> None:
    pid = ray.get(next(iter(group.actors.values())).ready.remote(), timeout=60).pid
    path = watchdog._stack_path(pid)
    node: Any = ray._private.worker._global_node
    assert path.is_file() and path.is_relative_to(node.get_session_dir_path())


def test_a_program_within_its_time_is_slow_and_not_stuck(group: SandboxGroup) -> None:
    hasty = SandboxClient(group.actors, group.config.model_copy(update={"deadline_seconds": 2.0}))
    patient = replace(ADD, id="patient", limits=Limits(cpu_seconds=5.0, memory_mb=512))
    pids = {ray.get(actor.ready.remote(), timeout=60).pid for actor in group.actors.values()}
    slow = score(hasty, [request("slow", SLOW.format(seconds=3), patient)])["slow"].verdict
    assert slow is not None and slow.passed  # two tests, 3 s each, without a sign of life
    assert {ray.get(actor.ready.remote(), timeout=60).pid for actor in group.actors.values()} == pids


def test_an_item_that_holds_up_every_actor_comes_back_as_infra_and_the_others_are_judged(
    group: SandboxGroup, caplog: pytest.LogCaptureFixture
) -> None:
    hasty = SandboxClient(group.actors, group.config.model_copy(update={"deadline_seconds": 2.0}))
    patient = replace(ADD, id="patient", limits=Limits(cpu_seconds=60.0, memory_mb=512))
    requests = [request(f"s{i}", RIGHT) for i in range(6)]
    requests.insert(3, request("poison", BUSY, patient))
    with stopping_whoever_runs(1.5):
        results = score(hasty, requests)
    poison = results.pop("poison").verdict
    assert poison is not None and poison.status is Status.INFRA and "given up" in poison.feedback
    assert all(r.verdict is not None and r.verdict.passed for r in results.values())
    stuck = [r.getMessage().split()[1] for r in caplog.records if r.getMessage().startswith("stuck item=")]
    assert len(stuck) == 3 and all("poison" in items for items in stuck), "each time it is named"
    assert stuck[1:] == ["item=poison"] * 2, "once suspected it travels alone"

"""The trusted process: holds tests and expected values, runs the data set's own test code, and no candidate code.

It talks to the program through a socket, by numbered frames of plain data. What the program sends is checked; what
breaks the protocol ends the exchange. What the program's process did (exit, time, memory) is not asked of it here: the
supervisor merges that in. Results are plain JSON.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import socket
from typing import Any

from . import assertions, confine
from .session import Ended, NeedsWeak, OpaqueResult, Session, show
from .suite import Suite

PRELOADED = "math cmath collections itertools functools re heapq random copy typing datetime decimal fractions string"
MEMORY = 3 << 30
DISORDER = random.SystemRandom()


def main(control: socket.socket, settings: dict[str, Any]) -> None:
    for name in PRELOADED.split():
        __import__(name)
    import sys

    sys.path[:] = [*settings["library"], *settings["packages"]]
    os.environ.clear()
    sys.set_int_max_str_digits(0)
    null = os.open("/dev/null", os.O_WRONLY)
    confine.give_up_rights(settings)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    os.dup2(null, 2)  # a test may write to it; who started this process reads it no longer
    os.close(null)
    control.sendall(b"R")
    suites: dict[str, Suite] = {}
    while True:
        message, descriptors = _receive(control)
        for key in message.get("forget", ()):
            suites.pop(key, None)
        if "suite" in message:
            suites[message["key"]] = Suite(message["suite"])
        # The supervisor ends this process when it is late; if the supervisor is gone, the alarm does.
        signal.setitimer(signal.ITIMER_REAL, message["deadline"])
        connection = socket.socket(fileno=descriptors[0])
        with connection:
            reply = _run(suites[message["key"]], connection, message["weak"])
        signal.setitimer(signal.ITIMER_REAL, 0)
        data = json.dumps(reply).encode("ascii")
        control.sendall(len(data).to_bytes(4, "little") + data)


def _receive(control: socket.socket) -> tuple[dict[str, Any], list[int]]:
    try:
        data, descriptors, _, _ = socket.recv_fds(control, 1 << 16, 1)
    except ConnectionError:
        os._exit(0)
    if not data:
        os._exit(0)
    length = int.from_bytes(data[:4], "little")
    parts, missing = [data[4:]], length - len(data) + 4
    while missing:
        parts.append(control.recv(min(missing, 1 << 20)))
        if not parts[-1]:
            os._exit(0)
        missing -= len(parts[-1])
    return json.loads(b"".join(parts)), descriptors


def _run(suite: Suite, connection: socket.socket, weak: bool) -> dict[str, Any]:
    """The results of the tests in order; or why weak mode is needed; or what is wrong with the set-up."""
    if suite.broken:
        return {"broken": suite.broken}
    if suite.weak and not weak:
        return {"weak": suite.weak}
    session = Session(connection)
    try:
        failure = session.load(suite.names)
    except Ended as end:
        return {"results": [_ended(end)]}
    if failure is not None:
        return {"results": [{"status": "error", **failure}]}
    if weak:
        return {"results": _run_weak(suite, session)}
    try:
        base = suite.namespace(session)
    except Exception as error:  # the data set's own set-up code may raise anything; it must not end this process
        return {"broken": f"the set-up raised {type(error).__name__}: {error}"}
    results: list[dict[str, Any]] = []
    for test in suite.tests:
        result = _one(test, session, dict(base))
        if session.need is not None:  # also where the test's code caught it
            suite.weak = str(session.need)
            return {"weak": suite.weak}
        if session.ended is not None:
            result = {**_ended(session.ended), "call": session.call_text()}
        results.append(result)
        if session.ended is not None:
            break
    return {"results": results}


def _ended(end: Ended) -> dict[str, Any]:
    return {"status": "breach" if end.breach else "gone", "error": end.reason}


def _one(test: Any, session: Session, space: dict[str, Any]) -> dict[str, Any]:
    """Runs one test; whatever its code raises is a result, never the end of this process."""
    try:
        return {"status": "passed", **(test.run(session, space) or {})}
    except NeedsWeak:
        return {"status": "not_run"}  # the session remembers
    except Ended as end:
        return _ended(end)
    except OpaqueResult as opaque:
        return {"status": "opaque", "call": session.call_text(), "expected": test.expected_text, "error": str(opaque)}
    except assertions.AssertionFailed as failure:
        return {
            "status": "failed",
            "call": failure.call or session.call_text(),
            "got": show(failure.got) if failure.compared else session.got_text(),
            "expected": show(failure.expected) if failure.compared else "",
            "error": "" if failure.compared else failure.text,
        }
    except BaseException as error:  # test code of a data set, or the program's exception passing through it
        if session.raised is not None and session.raised[0] is error:
            return {"status": "error", "call": session.call_text(), "expected": test.expected_text, **session.raised[1]}
        status = "failed" if isinstance(error, AssertionError) else "error"
        text = test.text if status == "failed" else f"{type(error).__name__}: {error}"
        return {
            "status": status,
            "call": session.call_text(),
            "got": session.got_text(),
            "expected": test.expected_text,
            "error": assertions.shorten(text, 400),
        }


def _run_weak(suite: Suite, session: Session) -> list[dict[str, Any]]:
    """Each test and its decoy, in an order that nobody can guess, in the program's own process.

    An honest program, right or wrong, passes at most one of the two. So a test counts as passed once its decoy has
    failed, and that both were reported as passed is a breach.
    """
    items = [(index, real, item) for index, test in enumerate(suite.tests) for real, item in test.weak_items()]
    DISORDER.shuffle(items)
    outcomes: dict[tuple[int, bool], tuple[str, dict[str, Any] | None]] = {}
    ended: dict[int, dict[str, Any]] = {}
    for index, real, item in items:
        try:
            outcomes[index, real] = session.run_test(item, suite.setup, suite.entry)
        except Ended as end:
            ended[index] = _ended(end)
            break
    results: list[dict[str, Any]] = []
    for index, test in enumerate(suite.tests):
        outcome, error = outcomes.get((index, True), ("not_run", None))
        decoy, _ = outcomes.get((index, False), ("not_run", None))
        if outcome == decoy == "passed":
            return [{"status": "breach", "error": "a test and its contrary were both reported as passed"}]
        if outcome == "passed" and decoy == "not_run":
            outcome = "not_run"
        result = {"status": outcome, **(error or {}), **({"error": test.text} if outcome == "failed" else {})}
        results.append(ended.get(index, result))
    return results

"""What a verdict says: statuses, lines, feedback from public tests alone, and who is to blame for a fault."""

from __future__ import annotations

import os
import random
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ledex_ray.errors import BadInput
from ledex_ray.problems import AssertTest, CallTest, CheckTest, Limits, OracleTest, Problem, StdioTest, Test
from ledex_ray.records import Status, TestStatus, Verdict
from reward.judge import Judge, JudgeConfig, StartFailed, TooWeak, judge_many
from reward.judge.canaries import CANARIES

LIMITS = Limits(cpu_seconds=1.0, memory_mb=256)
F = (AssertTest("assert f([1, 2]) == 4"), AssertTest("assert f([]) == 0"), AssertTest("assert f([5]) == 10"))


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with Judge() as judge:
        yield judge


def problem(*tests: Test, entry: str = "f", setup: str = "", n_public: int = 1, name: str = "") -> Problem:
    return Problem(name or repr((tests, setup)), "", tests, entry, setup=setup, limits=LIMITS, n_public=n_public)


def statuses(verdict: Verdict) -> list[str]:
    return [str(test.status) for test in verdict.tests]


def test_the_call_the_value_and_what_was_expected(judge: Judge) -> None:
    verdict = judge.judge(problem(*F), "def f(x):\n    return sum(x)\n")
    assert verdict.status is Status.FAILED
    assert statuses(verdict) == ["failed", "passed", "failed"]
    assert verdict.feedback == "The call f([1, 2]) returned 3, but 4 was expected."
    assert verdict.n_passed == 1 and verdict.pass_ratio == pytest.approx(1 / 3)


def test_the_error_and_its_line(judge: Judge) -> None:
    verdict = judge.judge(
        problem(*F), "def g(x):\n    return 1 / len(x) - 1\n\ndef f(x):\n    return 2 * sum(x) / g(x)\n"
    )
    assert verdict.status is Status.ERROR
    assert verdict.tests[1].line == 2
    alone = judge.judge(problem(F[1]), "def g(x):\n    return 1 / len(x) - 1\n\ndef f(x):\n    return g(x)\n")
    assert alone.feedback == "ZeroDivisionError: division by zero (line 2: return 1 / len(x) - 1) for the call f([])."


def test_feedback_shows_public_tests_alone(judge: Judge) -> None:
    secret = AssertTest("assert f([987654321]) == 123456789")
    verdict = judge.judge(problem(F[1], secret), "def f(x):\n    return 0\n")
    assert verdict.status is Status.FAILED
    assert "987654321" not in verdict.feedback and "123456789" not in verdict.feedback
    assert verdict.feedback == "This test passes."
    assert "f([987654321])" in verdict.feedback_all and "123456789" in verdict.feedback_all
    hidden = judge.judge(problem(secret, n_public=0), "def f(x):\n    return 0\n")
    assert hidden.feedback == "" and "987654321" in hidden.feedback_all


@pytest.mark.parametrize(
    ("program", "status", "first"),
    [
        ("def f(x)\n    return 1\n", Status.ERROR, "error"),
        ("def g(x):\n    return 1\n", Status.ERROR, "error"),
        ("raise ValueError('no')\n", Status.ERROR, "error"),
        ("import numpy_is_not_here\ndef f(x):\n    return 1\n", Status.ERROR, "error"),
        ("def f(x):\n    while True:\n        pass\n", Status.TIMEOUT, "timeout"),
        ("def f(x):\n    return [x] * 10 ** 10\n", Status.MEMORY, "memory"),
        ("import os\ndef f(x):\n    os._exit(0)\n", Status.CRASHED, "crashed"),
        ("import ctypes\ndef f(x):\n    ctypes.string_at(0)\n", Status.CRASHED, "crashed"),
        ("def f(x):\n    return f\n", Status.FAILED, "opaque"),
        ("def f(x):\n    return 1\0\n", Status.REJECTED, "not_run"),
        ("def f(x):\n    return '\ud800'\n", Status.REJECTED, "not_run"),
        ("#" * (50 << 20), Status.REJECTED, "not_run"),
        ("", Status.ERROR, "error"),
    ],
)
def test_status(judge: Judge, program: str, status: Status, first: str) -> None:
    verdict = judge.judge(problem(*F), program)
    assert (verdict.status, str(verdict.tests[0].status)) == (status, first)
    assert verdict.feedback and len(verdict.feedback) < 1000
    assert len(verdict.tests) == 3


def test_a_syntax_error_names_its_line(judge: Judge) -> None:
    verdict = judge.judge(problem(*F), "x = 1\ndef f(x:\n    return 1\n")
    assert (
        verdict.tests[0].line == 2
        and verdict.feedback.startswith("SyntaxError:")
        and "(line 2: def f(x:)" in verdict.feedback
    )


def test_after_a_timeout_the_rest_is_not_run(judge: Judge) -> None:
    verdict = judge.judge(
        problem(*F), "def f(x):\n    if not x:\n        while True: pass\n    return 2 * sum(x) - 2\n"
    )
    assert statuses(verdict) == ["passed", "timeout", "not_run"]
    assert "1 s" in verdict.feedback_all and "f([])" in verdict.feedback_all


def test_the_programs_own_os_errors_are_its_own(judge: Judge) -> None:
    for error in ("OSError", "EOFError", "BrokenPipeError", "ConnectionResetError", "TimeoutError", "RecursionError"):
        verdict = judge.judge(problem(*F), f"def f(x):\n    raise {error}('mine')\n")
        assert statuses(verdict) == ["error"] * 3, error
        assert verdict.tests[0].error == f"{error}: mine"


def test_test_code_can_expect_an_exception(judge: Judge) -> None:
    code = "try:\n    f(0)\nexcept ValueError as e:\n    caught = str(e)\nassert caught == 'zero'"
    program = "class Zero(ValueError):\n    pass\ndef f(x):\n    raise Zero('zero')\n"
    assert judge.judge(problem(AssertTest(code)), program).passed


def test_set_up_code_that_raises_is_our_fault_and_ends_nothing(judge: Judge) -> None:
    pids = judge.pids()
    verdict = judge.judge(problem(*F, setup="raise KeyError('no')"), "def f(x):\n    return 1\n")
    assert verdict.status is Status.INFRA and "KeyError" in verdict.tests[0].error
    assert judge.judge(problem(*F), "def f(x):\n    return 2 * sum(x)\n").status is Status.FAILED
    assert judge.pids() == pids


def test_an_opaque_object_is_neither_true_nor_unequal(judge: Judge) -> None:
    program = "class A:\n    pass\ndef f(x):\n    return A()\n"
    tests = (AssertTest("assert f(1)"), AssertTest("assert f(1) != 2"), AssertTest("assert not f(1)"))
    verdict = judge.judge(problem(*tests), program)
    assert statuses(verdict) == ["opaque"] * 3
    assert "object of type A" in verdict.feedback


def test_many_items_in_another_order_are_compared_in_time(judge: Judge) -> None:
    items = [(n, str(n), [n % 7]) for n in range(20_000)]
    test = CallTest(f"({len(items)},)", repr(items[::-1]), compare="unordered")
    program = "def f(n):\n    return [(i, str(i), [i % 7]) for i in range(n)]\n"
    assert judge.judge(problem(test, name="unordered"), program).passed
    assert judge.judge(problem(test, name="unordered"), program.replace("% 7", "% 6")).status is Status.FAILED


@pytest.mark.parametrize(
    "said", ["print('x' * 200_000, file=sys.stderr)", "traceback.print_exc()", "print('x'); sys.stdout.flush()"]
)
def test_test_code_can_write_to_the_standard_streams(judge: Judge, said: str) -> None:
    check = CheckTest(f"import sys, traceback\ndef check(candidate):\n    {said}\n    assert candidate(1) == 2\n")
    assert judge.judge(problem(check), "def f(x):\n    return 2\n").passed
    assert judge.judge(problem(check), "def f(x):\n    return 1\n").status is Status.FAILED


def test_a_check_function(judge: Judge) -> None:
    check = CheckTest(
        "def check(candidate):\n    for i in range(3):\n        assert candidate(i) == i + 1, 'message'\n"
    )
    assert judge.judge(problem(check), "def f(x):\n    return x + 1\n").passed
    verdict = judge.judge(problem(check), "def f(x):\n    return x + 1 if x < 2 else 0\n")
    assert verdict.feedback == "The call f(2) returned 0, but 3 was expected."


def test_comparisons(judge: Judge) -> None:
    tests = (
        CallTest("(1,)", "(0.1, [0.2])", compare="close", atol=1e-6),
        CallTest("(2,)", "[3, 1, 2]", compare="unordered"),
        CallTest("(3,)", "{'1': [1, 2]}", compare="json"),
        CallTest("(4,)", "[1, 2]"),
    )
    program = "def f(n):\n    return [None, (0.1 + 1e-9, [0.2]), [1, 2, 3], {1: (1, 2)}, (1, 2)][n]\n"
    verdict = judge.judge(problem(*tests), program)
    assert statuses(verdict) == ["passed", "passed", "passed", "failed"]


def test_an_oracle_judges_the_value(judge: Judge) -> None:
    oracle = "def check(args, got):\n    return got ** 2 == args[0]\n"
    tests = (OracleTest("(9,)", oracle), OracleTest("(16,)", oracle))
    assert judge.judge(problem(*tests), "def f(n):\n    return -int(n ** 0.5)\n").passed
    assert statuses(judge.judge(problem(*tests), "def f(n):\n    return 3\n")) == ["passed", "failed"]


def test_weak_mode_is_the_tests_choice_and_is_told(judge: Judge) -> None:
    handing_over = problem(AssertTest("assert f([3, 1], key=lambda x: -x) == [3, 1]"), name="weak")
    verdict = judge.judge(handing_over, "def f(x, key):\n    return sorted(x, key=key)\n")
    assert verdict.passed and verdict.weak
    assert judge.judge(handing_over, "def f(x, key):\n    return x[::-1]\n").status is Status.FAILED
    makes_objects = problem(AssertTest("assert f(Node(1)) == 1"), name="weak/2")
    verdict = judge.judge(makes_objects, "class Node:\n    def __init__(s, v): s.v = v\ndef f(n):\n    return n.v\n")
    assert verdict.passed and verdict.weak
    assert not judge.judge(problem(*F), "class Node: pass\ndef f(x):\n    return 0\n").weak


def test_no_program_can_choose_weak_mode(judge: Judge) -> None:
    nested = problem(AssertTest("assert f(g(3)) == 3"), name="nested")
    for returned in ("re.match('a', 'a')", "deep()", "g", "1 << 10 ** 8", "iter([1])"):
        program = "import re\ndef deep():\n    x = 3\n    for _ in range(99):\n        x = [x]\n    return x\n"
        program += f"def g(x):\n    return {returned}\ndef f(x):\n    return 3\n"
        assert not judge.judge(nested, program).weak, returned
    right = judge.judge(nested, "def f(x):\n    return x[0]\ndef g(x):\n    return [x]\n")
    assert right.passed and not right.weak


def test_an_always_equal_object_is_caught_in_weak_mode(judge: Judge) -> None:
    program = "class E(int):\n    __eq__ = lambda s, o: True\n    __ne__ = lambda s, o: False\n"
    program += "def f(x, key):\n    return E()\n"
    verdict = judge.judge(problem(AssertTest("assert f([1], key=lambda x: x) == 3"), name="weak/3"), program)
    assert verdict.status is Status.CRASHED and verdict.weak


ACCOUNT = """
class Account:
    def __init__(self, held):
        self.held = held
    def withdraw(self, n):
        if n > self.held:
            raise ValueError(n)
        self.held -= n
        return self.held
    def __lt__(self, other):
        return self.held < other.held
def is_rich(account):
    return account.held > 5
def mean(account):
    return account.held / 2
"""
ACCOUNTS = (
    AssertTest("assert Account(10).withdraw(3) == 7"),
    AssertTest("a = Account(10)\ntry:\n    a.withdraw(50)\n    assert False\nexcept ValueError:\n    pass"),
    AssertTest("assert Account(1) < Account(2)"),
    AssertTest("assert not is_rich(Account(5))"),
    AssertTest("assert abs(mean(Account(4)) - 2.0) < 1e-6"),
    AssertTest("for n in range(3):\n    assert Account(9).withdraw(n) == 9 - n"),
)


def test_a_right_program_passes_its_tests_in_weak_mode(judge: Judge) -> None:
    verdict = judge.judge(problem(*ACCOUNTS, entry="", name="weak/accounts"), ACCOUNT)
    assert verdict.passed and verdict.weak, verdict.feedback_all


@pytest.mark.parametrize(
    ("right", "wrong", "failing"),
    [
        ("return self.held\n", "return self.held + 1\n", (0, 5)),  # what a decoy asks for
        ("raise ValueError(n)", "return self.held", (1,)),
        ("self.held < other", "self.held > other", (2,)),
        ("held > 5", "held >= 5", (3,)),
        ("account.held / 2", "float('nan')", (4,)),
        ("account.held / 2", "account.held / 4", (4,)),
    ],
)
def test_a_wrong_program_fails_in_weak_mode_and_keeps_what_it_passed(
    judge: Judge, right: str, wrong: str, failing: tuple[int, ...]
) -> None:
    verdict = judge.judge(problem(*ACCOUNTS, entry="", name="weak/accounts"), ACCOUNT.replace(right, wrong))
    assert statuses(verdict) == ["failed" if n in failing else "passed" for n in range(len(ACCOUNTS))]
    assert verdict.status is Status.FAILED and verdict.weak and "breach" not in verdict.feedback_all


def test_tests_in_weak_mode_do_not_meet_what_others_left(judge: Judge) -> None:
    program = "import random\nclass Employee:\n    count = 0\n    def __init__(self):\n        Employee.count += 1\n"
    program += "        self.number = Employee.count\n    def lot(self):\n        return random.random()\n"
    lot = random.Random(0).random()
    codes = ("Employee().number == 1", "[Employee().number, Employee().number] == [1, 2]", f"Employee().lot() == {lot}")
    tests = problem(*(AssertTest(f"assert {code}") for code in codes), entry="", name="weak/state")
    for _ in range(5):
        assert judge.judge(tests, program).passed


CHEATS = {
    "equal to everything": "class E:\n    __eq__ = lambda s, o: True\ndef f(x, key):\n    return E()\n",
    "above and below everything": "class E(float):\n    __lt__ = __gt__ = lambda s, o: True\n    __eq__ = __lt__\n"
    "def f(x, key):\n    return E()\n",
    "runs no test": "import builtins\nbuiltins.exec = lambda *a: None\ndef f(x, key):\n    return 0\n",
    "says passed to all": "import sys\nwire = next(m.wire for m in list(sys.modules.values()) if hasattr(m, 'wire'))\n"
    "send = wire.send\nwire.send = lambda c, m: send(c, {**m, **({'r': ['passed', None]} if 'r' in m else {})})\n"
    "def f(x, key):\n    return 0\n",
}


@pytest.mark.parametrize("name", CHEATS)
def test_a_cheat_is_caught_in_weak_mode(judge: Judge, name: str) -> None:
    tests = (AssertTest("assert f(1, lambda: 1) == 31"), AssertTest("assert f(2, lambda: 1) < 0.5"))
    for _ in range(3):
        verdict = judge.judge(problem(*tests, name="weak/cheats"), CHEATS[name])
        assert verdict.status in (Status.CRASHED, Status.FAILED) and verdict.n_passed == 0 and verdict.weak


def test_who_ends_before_the_decoy_has_passed_nothing(judge: Judge) -> None:
    program = "import os\nclass E:\n    asked = 0\n    def __eq__(self, other):\n        E.asked += 1\n"
    program += "        return E.asked < 2 or os._exit(0)\ndef f(x, key):\n    return E()\n"
    tests = tuple(AssertTest(f"assert f({n}, lambda: 1) == {n}") for n in range(3))
    for _ in range(8):
        verdict = judge.judge(problem(*tests, name="weak/ends"), program)
        assert verdict.status is Status.CRASHED and verdict.n_passed == 0


def test_scripts(judge: Judge) -> None:
    cases = problem(StdioTest("1 2\n", "3\n"), StdioTest("4 5\n", "9\n"), entry="")
    verdict = judge.judge(cases, "print(3)\n")
    assert statuses(verdict) == ["passed", "failed"] and verdict.status is Status.FAILED
    assert "4 5" in verdict.feedback_all and "9" in verdict.feedback_all
    verdict = judge.judge(cases, "x = input()\nprint(3)\nraise KeyError(x)\n")
    assert statuses(verdict) == ["error", "error"] and verdict.tests[0].line == 3 and "KeyError" in verdict.feedback
    assert judge.judge(cases, "import sys\nprint(3)\nsys.exit(1)\n").status is Status.ERROR
    assert judge.judge(cases, "while True: pass\n").status is Status.TIMEOUT
    assert judge.judge(cases, "x = [0] * 10 ** 10\n").status is Status.MEMORY
    assert judge.judge(cases, "def f(:\n").tests[0].line == 1


@pytest.mark.parametrize(
    ("printed", "expected", "right"),
    [
        ("1 2\\n3\\n", "1 2\n3", True),
        ("1 2  \\n\\n3\\n\\n", "1 2\n3\n", True),
        ("0.3333333333\\n", "0.333333\n", True),
        ("0.34\\n", "0.333333\n", False),
        ("3\\n1 2\\n", "1 2\n3\n", False),
        ("1 23\\n", "1 2 3\n", False),
        ("1\\n", "1.0\n", True),
        ("10000000\\n", "10000001\n", False),
        ("", "\n", True),
        ("yes\\n", "YES\n", False),
    ],
)
def test_output_is_compared_by_the_data_sets_rule(judge: Judge, printed: str, expected: str, right: bool) -> None:
    verdict = judge.judge(problem(StdioTest("", expected), entry=""), f"print('{printed}', end='')\n")
    assert verdict.passed is right


SLOW = "import time\ndef f(x):\n    time.sleep(0.5)\n    return 2 * sum(x) - 2 * (len(x) > 1)\n"


def child_of(judge: Judge) -> int:
    """The process of the program that is being judged, waited for."""
    fork_server = judge.pids()[0]
    while not (children := Path(f"/proc/{fork_server}/task/{fork_server}/children").read_text()):
        time.sleep(0.01)
    return int(children)


def test_more_output_than_any_program_may_print_is_right_where_it_is_expected(judge: Judge) -> None:
    verdict = judge.judge(
        problem(StdioTest("", "x" * 5_000_000), entry="", name="long"), "print('x' * 5_000_000, end='')\n"
    )
    assert verdict.passed
    flood = judge.judge(problem(StdioTest("", "x"), entry="", name="short"), "print('x' * 5_000_000, end='')\n")
    assert not flood.passed


RAISES = "raise ValueError('\\ud800')\n"
RAISING_TEST = "value = f(1)\nraise ValueError('\\ud800')"


@pytest.mark.parametrize(
    ("test", "program", "status"),
    [
        (F[0], f"def f(x):\n    {RAISES}", Status.ERROR),
        (F[0], RAISES, Status.ERROR),
        (AssertTest("assert f(lambda: 1) == 1"), f"def f(x):\n    {RAISES}", Status.ERROR),
        (AssertTest(RAISING_TEST), "def f(x):\n    return x\n", Status.ERROR),
        (StdioTest("1", "1"), RAISES, Status.ERROR),
        (StdioTest("\ud800", "\udfff"), "print(1)\n", Status.FAILED),
    ],
)
def test_what_a_verdict_says_can_always_be_written(judge: Judge, test: Test, program: str, status: Status) -> None:
    verdict = judge.judge(problem(test), program)
    assert verdict.status is status and verdict.feedback
    (result,) = verdict.tests
    for text in (verdict.feedback, verdict.feedback_all, result.call, result.expected, result.got, result.error):
        text.encode("utf-8")


def test_a_set_up_that_raises_can_be_written(judge: Judge) -> None:
    verdict = judge.judge(problem(*F, setup=RAISES), "def f(x):\n    return 1\n")
    assert verdict.status is Status.INFRA and "ValueError" in verdict.tests[0].error
    verdict.tests[0].error.encode("utf-8")


def test_each_run_of_a_program_is_announced_with_its_time() -> None:
    steps: list[float] = []
    with Judge(JudgeConfig(), steps.append) as judge:
        steps.clear()
        cases = tuple(StdioTest(f"{n}\n", f"{n}\n") for n in range(3))
        assert judge.judge(problem(*cases, entry=""), "print(input())\n").passed
        assert steps == [3 * LIMITS.cpu_seconds + 5] * 3


def test_a_program_killed_from_outside_is_judged_again() -> None:
    with Judge() as judge:
        killer = threading.Thread(target=lambda: os.kill(child_of(judge), signal.SIGKILL))
        killer.start()
        assert judge.judge(problem(*F), SLOW).passed
        killer.join()


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_of_ours_costs_no_verdict(victim: int) -> None:
    def kill() -> None:
        child_of(judge)
        os.kill(before[victim], signal.SIGKILL)

    with Judge() as judge:
        before = judge.pids()
        killer = threading.Thread(target=kill)
        killer.start()
        assert judge.judge(problem(*F), SLOW).passed
        killer.join()
        assert judge.pids()[victim] != before[victim]


def test_a_worker_that_keeps_dying_says_infra() -> None:
    with Judge() as judge:
        stop = threading.Event()

        def kill() -> None:
            while not stop.is_set():
                for pid in judge.pids()[:1]:
                    os.kill(pid, signal.SIGKILL)
                time.sleep(0.05)

        thread = threading.Thread(target=kill)
        thread.start()
        try:
            verdict = judge.judge(problem(*F), "import time\ndef f(x):\n    time.sleep(1)\n    return 4\n")
        finally:
            stop.set()
            thread.join()
        assert verdict.status is Status.INFRA and verdict.feedback == ""
        assert judge.judge(problem(*F), "def f(x):\n    return 0\n").status is Status.FAILED


def test_processes_are_recycled_and_nothing_grows() -> None:
    with Judge(JudgeConfig(recycle_every=10, canary_every=7)) as judge:
        descriptors = len(os.listdir("/proc/self/fd"))
        seen = set()
        for _ in range(40):
            assert judge.judge(problem(*F), "def f(x):\n    return 0\n").n_passed == 1
            seen.update(judge.pids())
        assert len(seen) >= 6
        assert len(os.listdir("/proc/self/fd")) == descriptors


def test_an_unsound_worker_judges_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    with Judge(JudgeConfig(canary_every=3)) as judge:
        broken = replace(CANARIES[0], program="def add(a, b):\n    return 0\n")  # a right program judged as wrong
        monkeypatch.setattr("reward.judge.worker.CANARIES", (broken,))
        verdicts = [judge.judge(problem(*F), "def f(x):\n    return 0\n").status for _ in range(5)]
        assert not judge.sound
        assert verdicts[-1] is Status.INFRA


def test_many_programs_come_back_in_order() -> None:
    programs = [f"def f(x):\n    return {n}\n" for n in range(30)]
    shared = problem(AssertTest("assert f(1) == -1"))
    verdicts = list(judge_many([(shared, program) for program in programs], workers=2))
    assert [verdict.tests[0].got for verdict in verdicts] == [str(n) for n in range(30)]


def test_an_interrupt_does_not_wait_for_programs_that_have_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []

    class Counting(Judge):
        def judge(self, problem: Problem, program: str) -> Verdict:
            begun.append(program)
            return super().judge(problem, program)

    monkeypatch.setattr("reward.judge.many.Judge", Counting)
    slow = "import time\ntime.sleep(1)\n"
    verdicts = judge_many([(problem(*F), program) for program in ("", *[slow] * 100)], workers=2)
    next(verdicts)
    verdicts.close()
    assert len(begun) <= 4  # of eight that were waiting


def test_judges_are_closed_when_one_of_them_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Judge] = []

    class Two(Judge):
        def __init__(self, config: JudgeConfig | None) -> None:
            if len(started) == 2:
                raise StartFailed("no more")
            super().__init__(config)
            started.append(self)

    monkeypatch.setattr("reward.judge.many.Judge", Two)
    with pytest.raises(StartFailed):
        next(judge_many([(problem(*F), "")], workers=3))
    assert [judge.pids() for judge in started] == [[], []]


def test_below_the_floor_nothing_starts() -> None:
    with pytest.raises(TooWeak, match="floor"):
        Judge(JudgeConfig(tier="none", floor="B"))
    with pytest.raises(BadInput, match="python"):
        Judge(JudgeConfig(python="/no/such/python"))


def test_a_sandbox_folder_that_cannot_be_had_is_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / f"ledex-judge-{os.getuid()}").symlink_to(tmp_path)  # as somebody else may have put it there
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / f"ledex-judge-{os.getuid()}").touch()
    for name in ("missing", "file", "others", "taken"):
        monkeypatch.setenv("LEDEX_SANDBOX_DIR", str(tmp_path / name))
        with pytest.raises(BadInput, match=f"LEDEX_SANDBOX_DIR: .*{name}.*a folder that exists"):
            Judge()


def test_the_sandbox_folder_may_be_named_from_here(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o711)
        monkeypatch.chdir(folder)
        os.mkdir("here", 0o711)
        monkeypatch.setenv("LEDEX_SANDBOX_DIR", "here")
        with Judge() as judge:
            assert judge.judge(problem(*F), "def f(x):\n    return 2 * sum(x) - 2 * (len(x) > 1)\n").passed
        assert os.listdir("here") == [f"ledex-judge-{os.getuid()}"]


def test_problems_limits_and_the_configs_over_them() -> None:
    slow = "def f(x):\n    n = 0\n    while True:\n        n += 1\n"
    with Judge(JudgeConfig(limits=Limits(cpu_seconds=0.3, memory_mb=128))) as judge:
        verdict = judge.judge(problem(*F), slow)
        assert verdict.status is Status.TIMEOUT and verdict.cpu_seconds < 1.0
        assert judge.judge(problem(*F), "x = bytearray(200 << 20)\n").status is Status.MEMORY


def test_test_statuses_cover_the_documented_words() -> None:
    words = {"passed", "failed", "error", "timeout", "memory", "crashed", "opaque", "not_run"}
    assert {str(status) for status in TestStatus} == words

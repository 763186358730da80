"""Honest but unusual programs pass, and what a correct program may return is carried faithfully."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from ledex_ray.problems import AssertTest, Limits, Problem, StdioTest
from ledex_ray.records import Status
from reward.judge import Judge, verdicts
from reward.judge.config import find_python

HONEST = {
    "threads": """
        import threading
        def double(n):
            out = []
            threads = [threading.Thread(target=out.append, args=(1,)) for _ in range(2 * n)]
            for t in threads: t.start()
            for t in threads: t.join()
            return len(out)
        """,
    "a thread pool": """
        from concurrent.futures import ThreadPoolExecutor
        def double(n):
            with ThreadPoolExecutor(4) as pool:
                return sum(pool.map(lambda i: 2, range(n)))
        """,
    "asyncio": """
        import asyncio
        async def one():
            await asyncio.sleep(0.001)
            return 2
        def double(n):
            async def all_of_them():
                return sum(await asyncio.gather(*(one() for _ in range(n))))
            return asyncio.run(all_of_them())
        """,
    "temporary files": """
        import tempfile, os
        def double(n):
            with tempfile.TemporaryDirectory() as folder, open(os.path.join(folder, 'x'), 'w+') as file:
                file.write(str(n)); file.seek(0)
                return 2 * int(file.read())
        """,
    "a file beside it": """
        def double(n):
            with open('state.txt', 'a') as file: file.write('x' * n)
            return 2 * n
        """,
    "lazy imports": """
        def double(n):
            import csv, difflib, email, html, http, ipaddress, logging, pathlib, pickle, pprint, sqlite3, ssl, xml.dom
            import zoneinfo, unittest, urllib.parse, uuid, zipfile
            return 2 * n
        """,
    "300 MB": """
        def double(n):
            data = bytearray(300_000_000)
            data[::4096] = b'x' * len(data[::4096])
            return 2 * n if len(data) == 300_000_000 else 0
        """,
    "deep recursion": """
        import sys
        sys.setrecursionlimit(200_000)
        def count(n): return 0 if n == 0 else 1 + count(n - 1)
        def double(n): return n + count(50_000) - 50_000 + n
        """,
    "recursion through C": """
        import sys, functools
        sys.setrecursionlimit(20_000)
        @functools.lru_cache(None)
        def count(n): return 0 if n == 0 else 1 + count(n - 1)
        def double(n): return n + count(3_000) - 3_000 + n
        """,
    "printing": """
        import sys
        print('loaded')
        def double(n):
            print('x' * 100_000); sys.stderr.write('warning'); sys.stdout.flush()
            return 2 * n
        """,
    "a guarded main with sys.exit": """
        import sys
        def double(n): return 2 * n
        if __name__ == '__main__':
            sys.exit(double(int(input())))
        """,
    "a dataclass and types": """
        from __future__ import annotations
        from dataclasses import dataclass
        from typing import Generic, TypeVar
        T = TypeVar('T')
        @dataclass(frozen=True)
        class Box(Generic[T]):
            value: T
            def get(self) -> T: return self.value
        def double(n: int) -> int: return Box(2 * n).get()
        """,
    "an exec and an eval of its own": """
        exec('def helper(x):\\n    return x + x')
        def double(n): return eval('helper(n)', globals(), {'n': n})
        """,
    "random and time": """
        import random, time
        random.seed(7)
        def double(n):
            time.sleep(0.01); random.shuffle([1, 2, 3])
            return n + n
        """,
    "an alarm of its own": """
        import signal
        signal.signal(signal.SIGALRM, lambda *a: None)
        def double(n):
            signal.setitimer(signal.ITIMER_REAL, 0.01); signal.pause()
            return 2 * n
        """,
    "a context that catches everything": """
        def double(n):
            try:
                raise OSError('a disk that is not there')
            except BaseException:
                return 2 * n
        """,
    "an int subclass as result": """
        import enum
        class N(enum.IntEnum):
            SIX = 6
        def double(n): return N.SIX if n == 3 else 2 * n
        """,
    "a method of Solution": """
        class Solution:
            def double(self, n): return 2 * n
        """,
    "a callable object": """
        class Double:
            def __call__(self, n): return 2 * n
        double = Double()
        """,
    "global state over calls": """
        calls = []
        def double(n):
            calls.append(n)
            return sum(calls[-1:]) * 2
        """,
    "ctypes": """
        import ctypes
        def double(n): return ctypes.c_int(n).value * 2
        """,
    "128 KB of source": "TABLE = '" + "x" * (128 << 10) + "'\ndef double(n): return 2 * n\n",
    "unicode": "def double(n):\n    π = 'ünïcödé 漢字 🙂'\n    return 2 * n\n",
    "Windows line ends": "def double(n):\r\n    return 2 * n\r\n",
}
DOUBLE = Problem(
    "double",
    "",
    tuple(AssertTest(f"assert double({n}) == {2 * n}") for n in (3, 0, 40)),
    "double",
    limits=Limits(10, 1024),
)


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with Judge() as judge:
        yield judge


def _dedent(program: str) -> str:
    import textwrap

    return textwrap.dedent(program)


@pytest.mark.parametrize("name", HONEST)
def test_passes(judge: Judge, name: str) -> None:
    verdict = judge.judge(DOUBLE, _dedent(HONEST[name]))
    assert verdict.status is Status.PASSED, verdict.feedback_all
    assert not verdict.weak


VALUES = {
    "None": "None",
    "a tuple in a list": "[(1, 2.5, 'x', None, True)]",
    "a nested dict": "{'a': {1: [2, (3,)]}, (1, 2): {3}}",
    "bytes": "b'\\x00\\xff'",
    "a complex": "(1+2j)",
    "a frozenset": "frozenset({1, 2})",
    "an infinity": "float('inf')",
    "a huge integer": "7 ** 9000",
    "surrogates": "'\\ud800x'",
    "a range": "range(3, 10, 2)",
    "a fraction": "__import__('fractions').Fraction(1, 3)",
    "a decimal": "__import__('decimal').Decimal('1.10')",
    "a date": "__import__('datetime').datetime(2024, 2, 29, 1, 2, 3)",
    "a duration": "__import__('datetime').timedelta(days=1, seconds=3)",
    "a counter": "__import__('collections').Counter('abca')",
    "an ordered dict": "__import__('collections').OrderedDict([(2, 1), (1, 2)])",
    "a deque": "__import__('collections').deque([1, 2], 5)",
    "a named tuple": "__import__('collections').namedtuple('P', 'x y')(1, 2)",
    "a default dict": "__import__('collections').defaultdict(int, {1: 2})",
    "a type": "int",
}


@pytest.mark.parametrize("name", VALUES)
def test_carries(judge: Judge, name: str) -> None:
    value = VALUES[name]
    tests = (AssertTest(f"value = f()\nassert value == {value}"), AssertTest(f"assert f() == ({value})"))
    assert judge.judge(Problem(f"value/{name}", "", tests, "f"), f"def f():\n    return {value}\n").passed


def test_an_iterator_is_no_list_but_can_be_made_one(judge: Judge) -> None:
    program = "def f():\n    return (i for i in range(3))\n"
    assert judge.judge(Problem("i/1", "", (AssertTest("assert list(f()) == [0, 1, 2]"),), "f"), program).passed
    assert (
        judge.judge(Problem("i/2", "", (AssertTest("assert f() == [0, 1, 2]"),), "f"), program).status is Status.FAILED
    )


def test_types_are_told_apart(judge: Judge) -> None:
    for returned, expected in (("(1, 2)", "[1, 2]"), ("'1'", "1"), ("{1: 2}", "[(1, 2)]"), ("b'a'", "'a'")):
        problem = Problem(f"{returned}", "", (AssertTest(f"assert f() == {expected}"),), "f")
        assert judge.judge(problem, f"def f():\n    return {returned}\n").status is Status.FAILED


def test_what_a_program_does_to_its_arguments_is_seen(judge: Judge) -> None:
    tests = (
        AssertTest("x = [3, 1, 2]\nf(x)\nassert x == [1, 2, 3]"),
        AssertTest("inner = [2, 1]\nouter = [inner]\nf(outer[0])\nassert inner == [1, 2] and outer == [[1, 2]]"),
        AssertTest(
            "x = {'a': [2, 1]}\nkept = x['a']\ng(x)\nassert kept == [1, 2] and x['a'] is kept and x['new'] == 0"
        ),
    )
    program = "def f(x):\n    x.sort()\ndef g(x):\n    x['a'].sort()\n    x['new'] = 0\n"
    verdict = judge.judge(Problem("mutation", "", tests, "f"), program)
    assert verdict.passed and not verdict.weak, verdict.tests


def test_the_same_program_gets_the_same_verdict(judge: Judge) -> None:
    program = "import random\ndef f():\n    return [random.random(), list({'a', 'b', 'c', 'd'})]\n"
    problem = Problem("repeat", "", (AssertTest("assert f() == 0"),), "f")
    assert judge.judge(problem, program).tests[0].got == judge.judge(problem, program).tests[0].got
    with Judge() as another:
        assert judge.judge(problem, program).tests[0].got == another.judge(problem, program).tests[0].got


SCRIPTS = {
    "input": "a, b = map(int, input().split())\nprint(a + b)\n",
    "sys.stdin": "import sys\nprint(sum(int(x) for x in sys.stdin.read().split()))\n",
    "descriptor 0": "import os\nprint(sum(map(int, os.read(0, 100).split())))\n",
    "open(0)": "print(sum(map(int, open(0).read().split())))\n",
    "iterating stdin": "import sys\nfor line in sys.stdin:\n    print(sum(map(int, line.split())))\n",
    "buffer": "import sys\nsys.stdout.buffer.write(b'%d' % sum(map(int, sys.stdin.buffer.read().split())))\n",
    "guarded main": "def main():\n    print(sum(map(int, input().split())))\nif __name__ == '__main__':\n    main()\n",
    "a guarded exit": "import sys\nprint(sum(map(int, input().split())))\nsys.exit(0)\n",
    "raise SystemExit": "print(sum(map(int, input().split())))\nraise SystemExit\n",
    "exit()": "print(sum(map(int, input().split())))\nexit()\nprint('more')\n",
    "quit(0)": "def main():\n    print(sum(map(int, input().split())))\n    quit(0)\nmain()\nprint('more')\n",
    "streams of its own, as contest templates make them": """
import os, sys
from io import BytesIO, IOBase
class FastIO(IOBase):
    def __init__(self, file):
        self._fd = file.fileno()
        self.buffer = BytesIO()
        self.writable = 'x' in file.mode or 'r' not in file.mode
        self.write = self.buffer.write if self.writable else None
    def readline(self):
        return os.read(self._fd, 100)
    def flush(self):
        if self.writable:
            os.write(self._fd, self.buffer.getvalue())
class IOWrapper(IOBase):
    def __init__(self, file):
        self.buffer = FastIO(file)
        self.flush = self.buffer.flush
        self.writable = self.buffer.writable
        self.write = lambda s: self.buffer.write(s.encode('ascii'))
        self.readline = lambda: self.buffer.readline().decode('ascii')
sys.stdin, sys.stdout = IOWrapper(sys.stdin), IOWrapper(sys.stdout)
print(sum(map(int, sys.stdin.readline().split())))
""",
    "what was printed before standard output was replaced": "import io, sys\n"
    "print(sum(map(int, input().split())))\nsys.stdout = io.StringIO()\nprint('debug')\n",
    "a thread with a large stack": "import threading\nthreading.stack_size(64 << 20)\n"
    "t = threading.Thread(target=lambda: print(sum(map(int, input().split()))))\nt.start()\nt.join()\n",
    "output that is written at exit": "import atexit, io, os\nbuffer = io.StringIO()\n"
    "atexit.register(lambda: os.write(1, buffer.getvalue().encode()))\n"
    "print(sum(map(int, input().split())), file=buffer)\n",
    "a thread that is not joined": "import threading, time\ndef work():\n    time.sleep(0.05)\n"
    "    print(sum(map(int, input().split())))\nthreading.Thread(target=work).start()\n",
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_passes(judge: Judge, name: str) -> None:
    problem = Problem("sum", "", (StdioTest("1 2\n", "3\n"), StdioTest("40 2", "42")))
    verdict = judge.judge(problem, SCRIPTS[name])
    assert verdict.passed, verdict.feedback_all


AS_AN_INTERPRETER = {
    "streams": """
        import sys
        for f in (sys.stdin, sys.stdout, sys.stderr):
            print(f, f.mode, f.name, f.encoding, f.errors, f.line_buffering, f.write_through, f.newlines, f.fileno())
            print(f.buffer, f.buffer.mode, f.buffer.raw, f.buffer.raw.name, f.isatty(), f.closed)
        print(sys.stdin is sys.__stdin__, sys.stdout is sys.__stdout__, sys.stderr is sys.__stderr__, exit, quit)
        """,
    "input that is no UTF-8": "line = input()\nprint(ascii(line))\nprint(line)",
    "exit": "print(1)\nexit()",
    "exit False": "print(1)\nexit(False)",
    "exit 3": "print(1)\nexit(3)",
    "exit with a text": "print(1)\nexit('no')",
    "exit closes standard input": """
        import sys
        try:
            exit()
        except SystemExit as end:
            print(end.code, sys.stdin.closed)
        """,
    "a replaced standard output is flushed first": """
        import os, sys
        print('first')
        class Output:
            def write(self, text): os.write(1, text.encode())
            def flush(self): os.write(1, b'flushed')
        sys.stdout = Output()
        print('second')
        """,
    "written to what was there at the start": "import sys\nsys.stdout = None\nsys.__stdout__.write('1')",
    "no standard output": "import sys\nprint(1)\ndel sys.stdout",
    "closed": "import sys\nprint(1)\nsys.stdout.close()",
    "detached": "import io, sys\nprint(1)\nsys.stdout = io.TextIOWrapper(sys.stdout.detach())\nprint(2)",
    "one that cannot be flushed": "import sys\nprint(1)\nsys.stdout = 5",
    "printed at exit": "import atexit, io, sys\natexit.register(print, 1)\nprint(2)",
}


@pytest.mark.parametrize("name", AS_AN_INTERPRETER)
def test_a_script_begins_and_ends_as_under_the_interpreter(judge: Judge, name: str) -> None:
    program, given = _dedent(AS_AN_INTERPRETER[name]), "3 \udc80\n"
    command = [find_python().executable, "-X", "utf8", "-c", program]
    real = subprocess.run(command, input=given.encode("utf-8", "surrogatepass"), env={}, capture_output=True)
    expected = real.stdout.decode("utf-8", "replace")
    verdict = judge.judge(Problem(f"real/{name}", "", (StdioTest(given, expected),)), program)
    assert verdict.status is (Status.ERROR if real.returncode else Status.PASSED), verdict.feedback_all
    assert verdict.tests[0].got == verdicts._shown(expected)


def test_exit_in_a_call_is_the_programs_own(judge: Judge) -> None:
    code = "try:\n    f(0)\n    assert False\nexcept SystemExit:\n    pass"
    tests = (AssertTest("assert f(1) == 1"), AssertTest(code), AssertTest("assert g() == 3"))
    program = "def f(n):\n    return n or exit(3)\ndef g():\n    try:\n        quit(3)\n"
    program += "    except SystemExit as end:\n        return end.code\n"
    verdict = judge.judge(Problem("exit", "", tests, "f"), program)
    assert verdict.passed, verdict.feedback_all
    verdict = judge.judge(Problem("exit", "", tests[:1], "f"), "def f(n):\n    exit(0)\n")
    assert verdict.status is Status.ERROR and "SystemExit" in verdict.feedback

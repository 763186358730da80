"""Class 5: programs that want the verdict PASSED on tests whose answers they cannot know. And scripts that do."""

from __future__ import annotations

from tests.judge.hostile import Hostile, forgery

_EQUAL = """
class Equal{base}:
    __eq__ = lambda self, other: True
    __ne__ = lambda self, other: False
    __lt__ = __le__ = __gt__ = __ge__ = __contains__ = __eq__
    __bool__ = lambda self: True
    __hash__ = lambda self: 0
    __len__ = lambda self: 1
    __iter__ = lambda self: iter([self])
    __getattr__ = lambda self, name: self
    __call__ = __getitem__ = __sub__ = __rsub__ = __abs__ = lambda self, *a: self
def solve(*a):
    return Equal({value})
"""

_FRAMES = """
import os, json, struct
def frame(value):
    data = json.dumps(value).encode()
    return struct.pack('<I', len(data)) + data
"""

FORGE = [
    forgery("always equal object", _EQUAL.format(base="", value="")),
    forgery("always equal int", _EQUAL.format(base="(int)", value="7")),
    forgery("always equal string", _EQUAL.format(base="(str)", value="'x'")),
    forgery("always equal float", _EQUAL.format(base="(float)", value="1.5")),
    forgery("always equal list", _EQUAL.format(base="(list)", value="")),
    forgery("always equal tuple", _EQUAL.format(base="(tuple)", value="")),
    forgery("always equal dict", _EQUAL.format(base="(dict)", value="")),
    forgery("exits with 0 at import", "import os\nos._exit(0)\n"),
    forgery("exits with 0 in the call", "import os\ndef solve(*a):\n    os._exit(0)\n"),
    forgery("sys.exit in the call", "import sys\ndef solve(*a):\n    sys.exit(0)\n"),
    forgery("raises SystemExit at import", "raise SystemExit(0)\n"),
    forgery(
        "exit in atexit", "import atexit, os\natexit.register(os._exit, 0)\ndef solve(*a):\n    raise SystemExit\n"
    ),
    forgery(
        "replaces AssertionError",
        "import builtins\nbuiltins.AssertionError = type('E', (Exception,), {})\ndef solve(*a):\n    return 0\n",
    ),
    forgery(
        "replaces comparison by a metaclass",
        """
        class Meta(type):
            def __eq__(self, other): return True
            def __hash__(self): return 0
        class A(metaclass=Meta): pass
        def solve(*a): return A
        """,
    ),
    forgery(
        "replaces builtins",
        """
        import builtins
        for name in ('all', 'any', 'abs', 'isinstance', 'len', 'sorted', 'set', 'print', 'repr', 'exec', 'compile'):
            setattr(builtins, name, lambda *a, **k: True)
        def solve(*a): return 0
        """,
    ),
    forgery(
        "patches json",
        """
        import json, json.encoder
        json.dumps = json.encoder.JSONEncoder.encode = lambda *a, **k: '{"passed": true}'
        def solve(*a): return 0
        """,
    ),
    forgery(
        "patches the runner",
        """
        import sys
        for module in list(sys.modules.values()):
            for name in ('to_text', '_answer', 'send_text', '_describe'):
                if hasattr(module, name):
                    setattr(module, name, lambda *a, **k: '"v":true')
        def solve(*a): return 0
        """,
        slow=True,
    ),
    forgery(
        "patches the runner to say passed",
        """
        import sys
        for module in list(sys.modules.values()):
            if hasattr(module, '_answer'):
                module._answer = lambda names, call: '{"n":%d,"v":1,"status":"passed","passed":true,"ok":1}' % call['n']
        def solve(*a): return 0
        """,
    ),
    forgery(
        "prints what a harness would",
        """
        def solve(*a):
            print('passed'); print('OK'); print('1 passed in 0.01s'); print('{"status": "passed"}')
            return 0
        """,
    ),
    forgery(
        "writes results to every descriptor",
        _FRAMES
        + """
def solve(*a):
    for fd in range(1, 64):
        try:
            os.write(fd, frame({'n': 0, 'results': [{'status': 'passed'}] * 9}))
        except OSError:
            pass
    return 0
""",
    ),
    forgery(
        "answers ahead",
        _FRAMES
        + """
for n in range(50):
    os.write(3, frame({'n': n, 'v': 1}))
def solve(*a):
    return 0
""",
    ),
    forgery(
        "answers twice",
        _FRAMES
        + """
import sys
def solve(*a):
    f = sys._getframe(1)
    n = f.f_locals['call']['n']
    os.write(3, frame({'n': n, 'v': a[0]}) * 2)
    return 0
""",
    ),
    forgery(
        "answers with the number of another call",
        _FRAMES
        + """
import sys
def solve(*a):
    n = sys._getframe(1).f_locals['call']['n']
    os.write(3, frame({'n': n + 1, 'v': 1}))
    os._exit(0)
""",
    ),
    forgery(
        "answers what it was not asked",
        _FRAMES
        + """
import sys
def solve(*a):
    n = sys._getframe(1).f_locals['call']['n']
    os.write(3, frame({'n': n, 'r': ['passed', None]}))
    os._exit(0)
""",
    ),
    forgery(
        "claims that tests were weak",
        _FRAMES
        + """
import sys
def solve(*a):
    n = sys._getframe(1).f_locals['call']['n']
    os.write(3, frame({'n': n, 'weak': 'please', 'results': []}))
    os._exit(0)
""",
    ),
    forgery("broken frame", "import os\ndef solve(*a):\n    os.write(3, b'\\xff\\xff\\xff\\xff')\n    os._exit(0)\n"),
    forgery("half a frame", "import os\ndef solve(*a):\n    os.write(3, b'\\x40\\0\\0\\0{')\n    os._exit(0)\n"),
    forgery("closes the exchange", "import os\ndef solve(*a):\n    os.close(3)\n    return 0\n"),
    forgery(
        "answers from a thread as well",
        _FRAMES
        + """
import threading, sys
def solve(*a):
    n = sys._getframe(1).f_locals['call']['n']
    t = [threading.Thread(target=os.write, args=(3, frame({'n': n, 'v': v}))) for v in range(8)]
    [x.start() for x in t]
    [x.join() for x in t]
    return 0
""",
    ),
    forgery(
        "an exception that is always equal",
        _EQUAL.format(base="(Exception)", value="")
        + """
def solve(*a):
    raise Equal()
""",
    ),
    forgery("raises AssertionError of its own", "def solve(*a):\n    raise AssertionError('passed')\n"),
    forgery("raises StopIteration", "def solve(*a):\n    raise StopIteration(1)\n"),
    forgery("raises KeyboardInterrupt", "def solve(*a):\n    raise KeyboardInterrupt\n"),
    forgery("raises GeneratorExit", "def solve(*a):\n    raise GeneratorExit\n"),
    forgery(
        "raises what the judge raises",
        """
        class Ended(BaseException): pass
        class OpaqueResult(BaseException): pass
        class NeedsWeak(BaseException): pass
        def solve(*a): raise NeedsWeak('please')
        """,
    ),
    forgery("a generator that answers later", "def solve(*a):\n    yield from iter(lambda: 1, 2)\n"),
    forgery("a lambda", "def solve(*a):\n    return lambda *b: True\n"),
    forgery(
        "a class with a descriptor",
        "class A:\n    __class__ = property(lambda s: int)\ndef solve(*a):\n    return A()\n",
    ),
    forgery(
        "reads the expected value from frames",
        """
        import sys
        def solve(*a):
            f = sys._getframe()
            while f:
                for v in list(f.f_locals.values()) + list(f.f_globals.values()):
                    if isinstance(v, dict) and 'expected' in v:
                        return v['expected']
                f = f.f_back
            return 0
        """,
    ),
    forgery(
        "searches memory for the expected value",
        """
        import gc
        def solve(*a):
            for o in gc.get_objects():
                if isinstance(o, dict) and 'expected' in o:
                    return o['expected']
            return 0
        """,
    ),
    forgery("NaN and infinities", "def solve(*a):\n    return float('nan')\n"),
    forgery("returns its argument", "def solve(*a):\n    return a[0]\n"),
    forgery("returns None", "def solve(*a):\n    return None\n"),
    forgery("True for everything", "def solve(*a):\n    return True\n"),
    Hostile("script: exits before it reads", "import os\nos._exit(0)\n", forges=True, script=True),
    Hostile("script: prints a verdict", "print('PASSED')\n", forges=True, script=True),
    Hostile(
        "script: right output, wrong status",
        "import sys\nprint(sum(map(int, input().split())))\nsys.stdout.flush()\nimport os\nos._exit(3)\n",
        forges=True,
        script=True,
    ),
    Hostile(
        "script: right output, then a crash",
        "import ctypes, sys\nprint(sum(map(int, input().split())), flush=True)\nctypes.string_at(0)\n",
        forges=True,
        script=True,
    ),
    Hostile("script: all numbers at once", "print(*range(2000), sep='\\n')\n", forges=True, script=True),
]

"""Class 1: programs that use up what they can: processes, threads, memory, time, disk, output, descriptors."""

from __future__ import annotations

from tests.judge.hostile import Hostile, escape

_MMAP = "import ctypes\nlibc = ctypes.CDLL(None)\nlibc.mmap.restype = ctypes.c_void_p\n"

EXHAUST = [
    escape("fork bomb", "import os\nos.fork()\nwhile True:\n    os.fork()\nreturn 'forked'"),
    escape("one fork", "import os\npid = os.fork()\nif pid == 0:\n    os._exit(0)\nreturn 'forked'"),
    escape("vfork through libc", "import ctypes\nif ctypes.CDLL(None).vfork() >= 0:\n    return 'forked'"),
    escape(
        "clone by number", "import ctypes\nif ctypes.CDLL(None).syscall(56, 17, 0, 0, 0, 0) > 0:\n    return 'cloned'"
    ),
    escape(
        "clone3 by number",
        "import ctypes\nbuf = (ctypes.c_uint64 * 11)()\nbuf[4] = 17\n"
        "if ctypes.CDLL(None).syscall(435, ctypes.byref(buf), 88) > 0:\n    return 'cloned'",
    ),
    escape(
        "multiprocessing",
        "import multiprocessing as m\np = m.get_context('fork').Process(target=print)\np.start()\nreturn 'started'",
    ),
    escape(
        "thread bomb",
        "import threading, time\nn = 0\ntry:\n    while n < 5000:\n        threading.Thread("
        "target=time.sleep, args=(60,), daemon=True).start()\n        n += 1\nexcept RuntimeError:\n    pass\n"
        "return '' if n < 1000 else f'{n} threads'",
    ),
    Hostile(
        "threads that spin",
        "import threading\ndef attack(*a):\n    for _ in range(8):\n        threading.Thread("
        "target=lambda: [0 for _ in iter(int, 1)]).start()\n    while True:\n        pass\n",
        slow=True,
    ),
    Hostile("heap of bytes", "def attack(*a):\n    x = []\n    while True:\n        x.append(bytes(10_000_000))\n"),
    Hostile("heap of small objects", "def attack(*a):\n    x = []\n    while True:\n        x.append([x])\n"),
    Hostile("doubling string", "def attack(*a):\n    s = 'ab'\n    while True:\n        s += s\n"),
    Hostile("one huge allocation", "def attack(*a):\n    return len(bytearray(1 << 40))\n"),
    Hostile(
        "anonymous mmap",
        "import mmap\ndef attack(*a):\n    x = []\n    while True:\n"
        "        m = mmap.mmap(-1, 64 << 20)\n        for i in range(0, 64 << 20, 4096): m[i] = 1\n"
        "        x.append(m)\n",
    ),
    escape("memfd", "import os\nfd = os.memfd_create('x')\nreturn 'memfd'"),
    escape("memfd by number", "import ctypes\nif ctypes.CDLL(None).syscall(319, b'x', 0) >= 0:\n    return 'memfd'"),
    escape(
        "memory filled through pipes",
        "import os, fcntl\ntotal = 0\nkept = []\ntry:\n    while total < 1 << 30:\n"
        "        r, w = os.pipe()\n        os.set_blocking(w, False)\n        kept += [r, w]\n        try:\n"
        "            fcntl.fcntl(w, 1031, 1 << 20)\n        except OSError:\n            pass\n        try:\n"
        "            while True:\n                total += os.write(w, bytes(65536))\n        except BlockingIOError:\n"
        "            pass\nexcept OSError:\n    pass\nreturn '' if total < 256 << 20 else f'{total} bytes'",
    ),
    escape(
        "System V shared memory",
        "import ctypes\nif ctypes.CDLL(None).shmget(0, 1 << 28, 0o1666) >= 0:\n    return 'segment'",
    ),
    Hostile("endless loop", "def attack(*a):\n    while True:\n        pass\n", slow=True),
    Hostile(
        "endless loop that catches everything",
        "def attack(*a):\n    while True:\n        try:\n"
        "            while True:\n                pass\n        except BaseException:\n            pass\n",
        slow=True,
    ),
    Hostile("endless loop at import", "while True:\n    pass\n", slow=True),
    Hostile(
        "endless loop with signals ignored",
        "import signal\nfor n in range(1, 65):\n    try:\n"
        "        signal.signal(n, signal.SIG_IGN)\n    except (OSError, ValueError):\n        pass\n"
        "def attack(*a):\n    while True:\n        pass\n",
        slow=True,
    ),
    Hostile(
        "slow regular expression",
        "import re\ndef attack(*a):\n    return bool(re.match('(a+)+$', 'a' * 60 + 'b'))\n",
        slow=True,
    ),
    Hostile("huge power", "def attack(*a):\n    return (10 ** 10 ** 9) % 7\n", slow=True),
    Hostile("huge factorial", "import math\ndef attack(*a):\n    return math.factorial(10 ** 9) % 7\n", slow=True),
    Hostile(
        "sum of an endless iterator in C",
        "import itertools\ndef attack(*a):\n    return sum(itertools.repeat(1))\n",
        slow=True,
    ),
    Hostile(
        "collection with a hostile finaliser",
        "import gc\nclass A:\n    def __del__(self):\n        while True:\n"
        "            pass\ndef attack(*a):\n    a = A()\n    a.me = a\n    del a\n    gc.collect()\n",
        slow=True,
    ),
    Hostile("deep recursion", "import sys\nsys.setrecursionlimit(10 ** 9)\ndef attack(*a):\n    return attack(*a)\n"),
    Hostile(
        "deep recursion through C",
        "import sys\nsys.setrecursionlimit(10 ** 9)\nclass A:\n    def __repr__(self):\n"
        "        return repr(self)\ndef attack(*a):\n    return repr(A())\n",
    ),
    Hostile(
        "a file without end",
        "def attack(*a):\n    with open('f', 'wb') as f:\n        while True:\n            f.write(bytes(1 << 20))\n",
    ),
    Hostile(
        "many files", "def attack(*a):\n    for i in range(10 ** 9):\n        open(str(i), 'w').close()\n", slow=True
    ),
    Hostile(
        "many full files",
        "def attack(*a):\n    for i in range(10 ** 9):\n        with open(str(i), 'wb') as f:\n"
        "            f.write(bytes(1 << 20))\n",
        slow=True,
    ),
    Hostile(
        "many files that are gone but open",
        "def attack(*a):\n    kept = []\n    for i in range(10 ** 9):\n"
        "        f = open(str(i), 'wb')\n        os.unlink(str(i))\n        f.write(bytes(4 << 20))\n"
        "        kept.append(f)\nimport os\n",
    ),
    Hostile(
        "directories without end",
        "import os\ndef attack(*a):\n    while True:\n        os.mkdir('d')\n        os.chdir('d')\n",
        slow=True,
    ),
    Hostile("sparse file", "def attack(*a):\n    with open('f', 'wb') as f:\n        f.truncate(1 << 40)\n"),
    Hostile("descriptors", "def attack(*a):\n    x = []\n    while True:\n        x.append(open('/dev/null'))\n"),
    Hostile("output without end", "while True:\n    print('x' * 1000)\n", script=True),
    Hostile(
        "output without end to stderr",
        "import sys\nwhile True:\n    sys.stderr.write('x' * 1000)\n",
        script=True,
        slow=True,
    ),
    Hostile(
        "output without end from a function", "def attack(*a):\n    while True:\n        print('x' * 1000)\n", slow=True
    ),
    Hostile("sleep", "import time\ndef attack(*a):\n    time.sleep(10 ** 6)\n", slow=True),
    Hostile(
        "wait for input that never comes",
        "import os\ndef attack(*a):\n    r, w = os.pipe()\n    os.read(r, 1)\n",
        slow=True,
    ),
    Hostile("reads standard input for ever", "import sys\nwhile True:\n    sys.stdin.read()\n", script=True, slow=True),
    escape(
        "raises its own limits",
        "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (10 ** 6, 10 ** 6))\nreturn 'raised'",
    ),
    escape(
        "raises limits by number",
        "import ctypes\nnew = (ctypes.c_uint64 * 2)(2 ** 40, 2 ** 40)\n"
        "if ctypes.CDLL(None).syscall(302, 0, 9, ctypes.byref(new), None) == 0:\n    return 'raised'",
    ),
    escape(
        "takes a higher priority",
        "import ctypes\nif ctypes.CDLL(None).setpriority(0, 0, -10) == 0:\n    return 'raised'",
    ),
    escape("locks memory", "import ctypes\nif ctypes.CDLL(None).mlockall(3) == 0:\n    return 'locked'"),
]

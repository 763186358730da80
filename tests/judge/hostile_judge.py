"""Classes 6 and 7: programs that want to harm the next program in the same worker, or the judge that reads them."""

from __future__ import annotations

from tests.judge.hostile import Hostile, escape, forgery

CORRUPT = [
    Hostile(
        "patches modules for the next program",
        "import math, builtins, sys, random, json\nmath.sqrt = None\n"
        "builtins.sum = builtins.len = lambda *a: 0\nsys.modules['collections'] = None\nsys.path.clear()\n"
        "sys.meta_path.clear()\njson.loads = None\ndef attack(*a):\n    return ''\n",
        slow=True,
    ),
    Hostile(
        "leaves a module in its place",
        "for name in ('math', 'random', 'json', 'asyncio', 'sitecustomize'):\n"
        "    open(name + '.py', 'w').write('raise SystemExit')\ndef attack(*a):\n    return ''\n",
    ),
    Hostile(
        "changes small integers",
        "import ctypes, sys\nfor n in range(1, 10):\n"
        "    ctypes.memset(id(n) + 24, 42, 4)\ndef attack(*a):\n    return ''\n",
    ),
    Hostile(
        "overwrites its memory at random",
        "import ctypes\ndef attack(*a):\n    for n in range(1, 5000):\n"
        "        ctypes.memset(id(object) + n * 64, 255, 8)\n    return ''\n",
    ),
    Hostile("jumps to nowhere", "import ctypes\ndef attack(*a):\n    ctypes.string_at(0)\n"),
    Hostile("aborts", "import os\ndef attack(*a):\n    os.abort()\n"),
    Hostile(
        "changes directory, mask and signals",
        "import os, signal\nos.chdir('/')\nos.umask(0o777)\n"
        "signal.signal(signal.SIGALRM, signal.SIG_IGN)\nsignal.alarm(1)\nsignal.setitimer(1, .01, .01)\n"
        "def attack(*a):\n    return ''\n",
    ),
    Hostile(
        "removes its scratch directory",
        "import os\ndef attack(*a):\n    try:\n        os.rmdir(os.getcwd())\n"
        "    except OSError:\n        return ''\n    return ''\n",
    ),
    escape(
        "finds its scratch directory's neighbours",
        "import os\nup = os.path.dirname(os.getcwd())\n"
        "names = [n for n in os.listdir(up) if n.startswith('scratch') and os.path.basename(os.getcwd()) != n]\n"
        "for n in names:\n    os.listdir(os.path.join(up, n))\n    return 'read ' + n",
    ),
    escape(
        "ends the fork server through its group",
        "import os, signal\nos.killpg(os.getpgid(os.getppid()), 9)\nreturn 'killed'",
    ),
]

JUDGE = [
    Hostile("deeply nested source", "x = " + "(" * 5000 + ")" * 5000 + "\n"),
    Hostile("deeply nested lists", "x = " + "[" * 5000 + "]" * 5000 + "\n"),
    Hostile("a chain of attributes", "def attack(*a):\n    return a" + ".a" * 20_000 + "\n"),
    Hostile("a long sum", "x = " + "+".join(["1"] * 60_000) + "\n"),
    Hostile(
        "20,000 plain assignments", "".join(f"a{i} = {i}\n" for i in range(16_000)) + "def attack(*a):\n    return ''\n"
    ),
    Hostile("a NUL byte", "def attack(*a):\n    return ''\0\n"),
    Hostile("a lone surrogate", "def attack(*a):\n    return '\ud800'\n"),
    Hostile("50 MB of source", "#" * (50 << 20)),
    Hostile("an odd encoding", "# -*- coding: utf-7 -*-\ndef attack(*a):\n    return ''\n"),
    Hostile(
        "returns a value that is nested too deep",
        "def attack(*a):\n    x = []\n    for _ in range(100_000):\n        x = [x]\n    return x\n",
    ),
    Hostile("returns a value that holds itself", "def attack(*a):\n    x = []\n    x.append(x)\n    return x\n"),
    Hostile(
        "returns a value that grows when written",
        "def attack(*a):\n    x = [0]\n    for _ in range(60):\n        x = [x, x]\n    return x\n",
        slow=True,
    ),
    Hostile("returns 100 MB", "def attack(*a):\n    return 'x' * 100_000_000\n"),
    Hostile(
        "returns an endless generator",
        "import itertools\ndef attack(*a):\n    return itertools.chain(itertools.repeat(1))\n",
    ),
    Hostile("returns a huge integer", "def attack(*a):\n    return 1 << 100_000_000\n"),
    Hostile("returns an integer with many digits", "def attack(*a):\n    return 7 ** 400_000\n"),
    Hostile("returns a string full of surrogates", "def attack(*a):\n    return '\\ud800' * 10_000\n"),
    Hostile("returns a wide range", "def attack(*a):\n    return range(10 ** 30)\n"),
    Hostile(
        "raises with a hostile message",
        "class E(Exception):\n    def __str__(self):\n        while True:\n"
        "            pass\ndef attack(*a):\n    raise E\n",
        slow=True,
    ),
    Hostile("raises with a huge message", "def attack(*a):\n    raise ValueError('x' * 50_000_000)\n"),
    Hostile(
        "raises with a hostile name",
        "E = type('\\n' * 1000 + '`' * 1000, (Exception,), {})\ndef attack(*a):\n    raise E('\\ud800')\n",
    ),
    Hostile(
        "raises a cycle of causes",
        "def attack(*a):\n    e = ValueError()\n    e.__cause__ = e\n    e.__context__ = e\n    raise e\n",
    ),
    Hostile(
        "a frame of deep JSON",
        "import os\ndef attack(*a):\n    data = b'[' * 1_000_000\n"
        "    os.write(3, len(data).to_bytes(4, 'little'))\n    os.write(3, data)\n    os._exit(0)\n",
    ),
    Hostile(
        "a frame of colliding keys",
        "import os, sys, json\ndef attack(*a):\n    n = sys._getframe(1).f_locals['call']['n']\n"
        "    keys = [i * (2 ** 61 - 1) for i in range(1, 400_000)]\n"
        '    data = (\'{"n":%d,"v":{"s":%s}}\' % (n, json.dumps(keys))).encode()\n'
        "    os.write(3, len(data).to_bytes(4, 'little'))\n    view = memoryview(data)\n"
        "    while view:\n        view = view[os.write(3, view[:65536]):]\n    os._exit(0)\n",
        slow=True,
    ),
    Hostile(
        "a Decimal with a huge exponent",
        "from decimal import Decimal\ndef attack(*a):\n    return Decimal('1e999999999')\n",
    ),
    forgery(
        "a hostile decimal text",
        """
        import os, sys
        def solve(*a):
            n = sys._getframe(1).f_locals['call']['n']
            data = ('{"n":%d,"v":{"D":"%s"}}' % (n, '9' * 9999)).encode()
            os.write(3, len(data).to_bytes(4, 'little') + data)
            os._exit(0)
        """,
    ),
    forgery(
        "tags that do not exist",
        """
        import os, sys
        def solve(*a):
            n = sys._getframe(1).f_locals['call']['n']
            data = ('{"n":%d,"v":{"__import__":"os"}}' % n).encode()
            os.write(3, len(data).to_bytes(4, 'little') + data)
            os._exit(0)
        """,
    ),
    Hostile("script: NUL and invalid bytes", "import os\nos.write(1, bytes(range(256)) * 100)\n", script=True),
    Hostile("script: a line of 4 MB", "print('9' * 4_000_000)\n", script=True),
]

"""Classes 2, 3 and 4: programs that outlive their run, read what is not theirs, or write outside."""

from __future__ import annotations

from tests.judge.hostile import Hostile, escape

_ARMED = (
    "import fcntl, os, time\nr, w = os.pipe()\nfcntl.fcntl(r, 8, {target})\nfcntl.fcntl(r, 10, 9)\n"
    "fcntl.fcntl(r, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)\nos.write(w, b'x')\ntime.sleep(0.2)\nreturn 'sent'"
)

OUTLIVE = [
    escape(
        "double fork and setsid",
        "import os\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        "        import time\n        time.sleep(600)\nreturn 'forked'",
    ),
    escape("setsid alone", "import os\nos.setsid()\nreturn 'session'"),
    escape("a new process group", "import os\nos.setpgid(0, 0)\nreturn 'group'"),
    Hostile("atexit", "import atexit, time\natexit.register(time.sleep, 600)\ndef attack(*a):\n    return ''\n"),
    Hostile(
        "a thread that does not end",
        "import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()\n"
        "def attack(*a):\n    return ''\n",
    ),
    Hostile(
        "leaves files",
        "open('left', 'w').write('x')\nimport os\nos.mkdir('d')\nopen('d/left', 'w').write('x')\n"
        "def attack(*a):\n    return ''\n",
    ),
    Hostile(
        "leaves files that are hard to remove",
        "import os\nos.umask(0o777)\nos.mkdir('closed')\n"
        "open('unreadable', 'w').close()\nos.umask(0o700 ^ 0o777)\nos.mkdir('d')\n"
        "for name in ('-rf', 'a\\nb', '\\udcff', ' ', '*'):\n    open(name, 'w').close()\n"
        "def attack(*a):\n    return ''\n",
    ),
    Hostile(
        "leaves directories deeper than a path",
        "import os\nfor _ in range(600):\n    os.mkdir('d' * 200)\n"
        "    os.chdir('d' * 200)\ndef attack(*a):\n    return ''\n",
    ),
    escape(
        "POSIX shared memory",
        "from multiprocessing import shared_memory\n"
        "shared_memory.SharedMemory('ledex_left', create=True, size=4096)\nreturn 'left'",
    ),
    escape(
        "a message queue",
        "import ctypes\nif ctypes.CDLL(None).syscall(240, b'ledex', 0o102, 0o600, None) >= 0:\n    return 'queue'",
    ),
    escape(
        "a kernel keyring",
        "import ctypes\nif ctypes.CDLL(None).syscall(248, b'user', b'k', b'v', 1, -2) > 0:\n    return 'key'",
    ),
    escape(
        "a signal to the supervisor when a pipe is written",
        "import fcntl, os\nr, w = os.pipe()\nfcntl.fcntl(r, 8, supervisor)\nreturn 'owner'",
    ),
    escape("a deadly signal to itself when a pipe is written", _ARMED.format(target="os.getpid()")),
    escape("a deadly signal to its parent when a pipe is written", _ARMED.format(target="os.getppid()")),
    escape(
        "a signal when a pipe is written, armed alone",
        "import fcntl, os\nr, w = os.pipe()\nfcntl.fcntl(r, fcntl.F_SETFL, os.O_ASYNC)\nreturn 'armed'",
    ),
    escape(
        "a message to a datagram socket of the machine",
        "import os, socket\na, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
        "a.sendto(b'forged', os.path.join(folder, 'log'))\nreturn 'sent'",
    ),
    escape("starts another program", "import subprocess\nsubprocess.Popen(['/bin/sleep', '600'])\nreturn 'started'"),
    escape("execve", "import os\nos.execv('/bin/sleep', ['sleep', '600'])"),
    escape("posix_spawn", "import os\nos.posix_spawn('/bin/sleep', ['sleep', '600'], {})\nreturn 'started'"),
    escape(
        "refuses to die with its parent",
        "import ctypes\nif ctypes.CDLL(None).prctl(1, 0, 0, 0, 0) == 0:\n    return 'no death signal'",
    ),
]

READ = [
    escape("the secret", "return open(secret).read()"),
    escape("the secret by descriptor", "import os\nreturn str(os.read(os.open(secret, os.O_RDONLY), 9))"),
    escape(
        "the secret through libc",
        "import ctypes\nfd = ctypes.CDLL(None).open(secret.encode(), 0)\nif fd >= 0:\n    return 'opened'",
    ),
    escape(
        "the secret through openat2",
        "import ctypes, os\nhow = (ctypes.c_uint64 * 3)()\n"
        "fd = ctypes.CDLL(None).syscall(437, -100, secret.encode(), ctypes.byref(how), 24)\n"
        "if fd >= 0:\n    return 'fd'",
    ),
    escape(
        "the secret with the x32 bit",
        "import ctypes\nfd = ctypes.CDLL(None).syscall(0x40000000 | 2, secret.encode(), 0)\n"
        "if fd >= 0:\n    return 'opened'",
    ),
    escape("the secret through a link", "import os\nos.symlink(secret, 'link')\nreturn open('link').read()"),
    escape("the secret through a hard link", "import os\nos.link(secret, 'link')\nreturn open('link').read()"),
    escape("the secret through mmap", "import mmap, os\nreturn str(mmap.mmap(os.open(secret, 0), 0, prot=1)[:9])"),
    escape("the folder's names", "import os\nreturn str(os.listdir(folder) or 'listed')"),
    escape("passwd", "return open('/etc/passwd').read()[:20]"),
    escape("shadow", "return open('/etc/shadow').read()[:20]"),
    escape("its own program's source folder", "import os\nreturn str(os.listdir('/root') or os.listdir('/home'))"),
    escape(
        "environment",
        "import os\nkeys = [k for k in os.environ if k not in ('TMPDIR', 'HOME', 'LC_CTYPE')]\nreturn ','.join(keys)",
    ),
    escape("environment in proc", "return open('/proc/self/environ').read() + 'read'"),
    escape("the supervisor's environment", "return open(f'/proc/{supervisor}/environ').read()"),
    escape("the supervisor's memory", "open(f'/proc/{supervisor}/mem', 'rb')\nreturn 'opened'"),
    escape("its parent's memory", "import os\nopen(f'/proc/{os.getppid()}/mem', 'rb')\nreturn 'opened'"),
    escape(
        "its parent's memory by call",
        "import ctypes, os\nb = ctypes.create_string_buffer(8)\n"
        "v = (ctypes.c_uint64 * 2)(ctypes.addressof(b), 8)\n"
        "r = ctypes.CDLL(None).syscall(310, os.getppid(), ctypes.byref(v), 1, ctypes.byref(v), 1, 0)\n"
        "if r > 0:\n    return 'read'",
    ),
    escape(
        "traces its parent",
        "import ctypes, os\nif ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0:\n    return 'attached'",
    ),
    escape("asks to be traced", "import ctypes\nif ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0:\n    return 'traced'"),
    escape(
        "inherited descriptors",
        "import os\nfound = []\nfor fd in range(4, 1024):\n    try:\n        os.fstat(fd)\n"
        "        found.append(fd)\n    except OSError:\n        pass\nreturn str(found) if found else ''",
    ),
    escape(
        "descriptors of another process",
        "import ctypes, os\np = ctypes.CDLL(None).syscall(434, os.getppid(), 0)\nif p >= 0:\n    return 'pidfd'",
    ),
    escape(
        "the tests in this process",
        "import gc, sys\nwords = ('canary', 'expected', 'AssertTest')\nfound = []\n"
        "for o in gc.get_objects():\n    if type(o) is dict and 'expected' in o and 'args' in o:\n"
        "        found.append('dict')\nf = sys._getframe()\nwhile f:\n    for k, v in f.f_locals.items():\n"
        "        if k in ('tests', 'expected', 'suite'):\n            found.append(k)\n    f = f.f_back\n"
        "return ','.join(found)",
    ),
    escape("the list of processes", "import os\nreturn str([p for p in os.listdir('/proc') if p.isdigit()][:3])"),
    escape(
        "kernel messages",
        "import ctypes\nb = ctypes.create_string_buffer(64)\n"
        "if ctypes.CDLL(None).klogctl(3, b, 64) > 0:\n    return 'read'",
    ),
    escape("shared temporary files", "import os\nreturn ','.join(os.listdir('/tmp'))"),
    escape("shared memory files", "import os\nos.listdir('/dev/shm')\nreturn 'listed'"),
    escape(
        "performance counters",
        "import ctypes\nb = (ctypes.c_uint32 * 32)(0, 128)\n"
        "if ctypes.CDLL(None).syscall(298, ctypes.byref(b), 0, -1, -1, 0) >= 0:\n    return 'opened'",
    ),
]

WRITE = [
    escape("a file in the folder", "open(folder + '/made', 'w').close()\nreturn 'made'"),
    escape("over the secret", "open(secret, 'w').write('changed')\nreturn 'written'"),
    escape("appends to the secret", "open(secret, 'a').write('changed')\nreturn 'written'"),
    escape("truncates the secret", "import os\nos.truncate(secret, 0)\nreturn 'cut'"),
    escape("removes the secret", "import os\nos.unlink(secret)\nreturn 'removed'"),
    escape("renames the secret", "import os\nos.rename(secret, folder + '/other')\nreturn 'renamed'"),
    escape("moves the secret here", "import os\nos.rename(secret, 'mine')\nreturn 'moved'"),
    escape("changes permissions", "import os\nos.chmod(secret, 0o777)\nreturn 'changed'"),
    escape(
        "changes permissions by number",
        "import ctypes\nif ctypes.CDLL(None).syscall(268, -100, secret.encode(), 511) == 0:\n    return 'changed'",
    ),
    escape("changes the owner", "import os\nos.chown(secret, os.getuid(), os.getgid())\nreturn 'changed'"),
    escape("changes times", "import os\nos.utime(secret, (0, 0))\nreturn 'changed'"),
    escape("sets an attribute", "import os\nos.setxattr(secret, 'user.x', b'y')\nreturn 'set'"),
    escape("makes a link", "import os\nos.symlink('/', folder + '/link')\nreturn 'made'"),
    escape("makes a folder", "import os\nos.mkdir(folder + '/made')\nreturn 'made'"),
    escape("makes a device", "import os\nos.mknod('device', 0o60666, os.makedev(254, 0))\nreturn 'made'"),
    escape("makes a named pipe", "import os\nos.mkfifo('pipe')\nreturn 'made'"),
    escape(
        "a byte-code cache of the library",
        "import json, py_compile\npy_compile.compile(json.__file__)\nreturn 'written'",
    ),
    escape(
        "into the library", "import json, os\nopen(os.path.dirname(json.__file__) + '/x.py', 'w')\nreturn 'written'"
    ),
    escape("TCP", "import _socket\n_socket.socket(2, 1)\nreturn 'socket'"),
    escape("UDP", "import _socket\n_socket.socket(2, 2)\nreturn 'socket'"),
    escape("a unix socket", "import _socket\n_socket.socket(1, 1)\nreturn 'socket'"),
    escape(
        "an abstract socket over a pair",
        "import ctypes, os, struct\npair = (ctypes.c_int * 2)()\n"
        "libc = ctypes.CDLL(None)\nlibc.socketpair(1, 2, 0, pair)\na = struct.pack('H', 1) + b'\\0ledex'\n"
        "if libc.bind(pair[0], a, len(a)) == 0 or libc.connect(pair[0], a, len(a)) == 0:\n    return 'bound'",
    ),
    escape("netlink", "import _socket\n_socket.socket(16, 3, 0)\nreturn 'socket'"),
    escape("kills its parent", "import os\nos.kill(os.getppid(), 9)\nreturn 'killed'"),
    escape("signals the supervisor", "import os\nos.kill(supervisor, 0)\nreturn 'signalled'"),
    escape("signals everybody", "import os\nos.kill(-1, 0)\nreturn 'signalled'"),
    escape("signals its group", "import os\nos.killpg(0, 18)\nreturn 'signalled'"),
    escape(
        "queues a signal by number",
        "import ctypes, os\nb = (ctypes.c_int * 32)(18, 0, -1)\n"
        "if ctypes.CDLL(None).syscall(129, os.getppid(), 18, b) == 0:\n    return 'signalled'",
    ),
    escape(
        "limits of another process",
        "import ctypes, os\nnew = (ctypes.c_uint64 * 2)(0, 0)\n"
        "if ctypes.CDLL(None).syscall(302, os.getppid(), 7, ctypes.byref(new), None) == 0:\n    return 'changed'",
    ),
    escape(
        "io_uring",
        "import ctypes\nb = (ctypes.c_uint32 * 32)()\nif ctypes.CDLL(None).syscall(425, 4, b) >= 0:\n    return 'ring'",
    ),
    escape("userfaultfd", "import ctypes\nif ctypes.CDLL(None).syscall(323, 1) >= 0:\n    return 'fd'"),
    escape(
        "a new user namespace", "import ctypes\nif ctypes.CDLL(None).unshare(0x10000000) == 0:\n    return 'namespace'"
    ),
    escape(
        "mounts",
        "import ctypes\nif ctypes.CDLL(None).mount(b'none', b'/tmp', b'tmpfs', 0, None) == 0:\n    return 'mounted'",
    ),
    escape(
        "bpf",
        "import ctypes\nb = (ctypes.c_uint32 * 32)()\n"
        "if ctypes.CDLL(None).syscall(321, 0, b, 64) >= 0:\n    return 'bpf'",
    ),
    escape("becomes root", "import os\nif os.getuid() != 0:\n    os.setuid(0)\n    return 'root'"),
    escape(
        "is root", "import os\nif 0 in (os.getuid(), os.geteuid(), os.getgid(), *os.getgroups()):\n    return 'root'"
    ),
    escape("changes the host's name", "import socket\nsocket.sethostname('x')\nreturn 'changed'"),
    escape("sets the clock", "import time\ntime.clock_settime(0, 0)\nreturn 'set'"),
    escape("chroot", "import os\nos.chroot('.')\nreturn 'root changed'"),
    escape(
        "loosens its own filter",
        "import ctypes\nif ctypes.CDLL(None).syscall(317, 1, 0, None) == 0:\n    return 'filter'",
    ),
    escape("becomes dumpable", "import ctypes\nif ctypes.CDLL(None).prctl(4, 1, 0, 0, 0) == 0:\n    return 'dumpable'"),
]

"""Freed memory goes back to the machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import ctypes, re
from actors.heap import trim_heap

def resident():
    with open("/proc/self/status") as status:
        return int(re.search(r"VmRSS:\\s+(\\d+)", status.read())[1]) >> 10

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, (ctypes.c_void_p,)
blocks = [libc.malloc(64 << 10) for _ in range(4000)]  # 250 MB in pieces of which none is a mapping of its own
for block in blocks:
    ctypes.memset(block, 1, 64 << 10)
for block in blocks[:-1]:  # the last one holds the heap's end
    libc.free(block)
before = resident()
trim_heap()
print(before, resident())
"""


def test_holes_in_the_middle_of_the_heap_are_handed_back() -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, cwd=root, check=True)
    before, after = map(int, done.stdout.split())
    assert before > 200 and after < before - 200

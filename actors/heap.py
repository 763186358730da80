"""Memory that a process has freed and the C library has kept, handed back to the machine. No torch."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable


def trim_heap() -> None:
    """Hands back what is free in the heap. Nothing happens where the C library is not glibc.

    An update on a CPU leaves gigabytes of holes of tensors of uneven size, from the middle of the heap too, which the
    library gives back only when asked.
    """
    _trimmer()(0)


@functools.cache
def _trimmer() -> Callable[[int], int]:
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except AttributeError:
        return lambda _: 0
    trim.argtypes = (ctypes.c_size_t,)
    return trim

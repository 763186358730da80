"""The hash that CPython gives a string under PYTHONHASHSEED=0, computed in any process: SipHash-1-3 with a zero key.

`reward.codebleu` needs it because the codebleu package's data flow depends on the order of a set of names.
"""

from __future__ import annotations

from functools import lru_cache

_MASK = (1 << 64) - 1
_LONGEST_KEPT = 64  # longer tokens are string literals, which seldom come again


def name_hash(text: str) -> int:
    """`hash(text)` of a CPython with PYTHONHASHSEED=0 and the siphash13 algorithm (3.11 and later, 64 bits)."""
    return _kept(text) if len(text) <= _LONGEST_KEPT else _string_hash(text)


def _string_hash(text: str) -> int:
    if not text:
        return 0
    widest = max(text)
    encoding = "latin-1" if widest <= "\xff" else "utf-16-le" if widest <= "\uffff" else "utf-32-le"
    value = _siphash13(text.encode(encoding, "surrogatepass") if encoding != "latin-1" else text.encode(encoding))
    signed = value - (1 << 64) if value >> 63 else value
    return -2 if signed == -1 else signed  # -1 is CPython's sign of an error


_kept = lru_cache(maxsize=65_536)(_string_hash)


def _siphash13(data: bytes) -> int:
    v0, v1, v2, v3 = 0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573
    whole = len(data) - len(data) % 8
    for i in range(0, whole, 8):
        word = int.from_bytes(data[i : i + 8], "little")
        v0, v1, v2, v3 = _round(v0, v1, v2, v3 ^ word)
        v0 ^= word
    word = (len(data) & 0xFF) << 56 | int.from_bytes(data[whole:], "little")
    v0, v1, v2, v3 = _round(v0, v1, v2, v3 ^ word)
    v0 ^= word
    v2 ^= 0xFF
    for _ in range(3):
        v0, v1, v2, v3 = _round(v0, v1, v2, v3)
    return v0 ^ v1 ^ v2 ^ v3


def _round(v0: int, v1: int, v2: int, v3: int) -> tuple[int, int, int, int]:
    v0, v2 = (v0 + v1) & _MASK, (v2 + v3) & _MASK
    v1, v3 = _rotate(v1, 13) ^ v0, _rotate(v3, 16) ^ v2
    v0 = _rotate(v0, 32)
    v2, v0 = (v2 + v1) & _MASK, (v0 + v3) & _MASK
    v1, v3 = _rotate(v1, 17) ^ v2, _rotate(v3, 21) ^ v0
    return v0, v1, _rotate(v2, 32), v3


def _rotate(value: int, bits: int) -> int:
    return (value << bits | value >> 64 - bits) & _MASK

"""How a returned value is compared with the expected one: equal, close, unordered, json. Pure functions."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

_EXACT = (int, bool, str, bytes, type(None))  # types that no tolerance applies to, and whose equals have equal hashes


def matches(got: Any, expected: Any, how: str, atol: float, rtol: float) -> bool:
    """Whether the value is right. `close` is applied to numbers at any depth of equal containers (EvalPlus' rule)."""
    if how == "json":
        return _close(_plain(got), _plain(expected), atol, rtol) if atol or rtol else _plain(got) == _plain(expected)
    if how == "unordered":
        return _same_items(got, expected, atol, rtol)
    if how == "close" or atol or rtol:
        # EvalPlus' rule: what is not equal must at least be of the expected type before it may be close.
        return bool(got == expected) or (type(got) is type(expected) and _close(got, expected, atol, rtol))
    return bool(got == expected)


def _close(got: Any, expected: Any, atol: float, rtol: float) -> bool:
    if isinstance(expected, float) or isinstance(got, float):
        if isinstance(got, bool) or not isinstance(got, int | float) or not isinstance(expected, int | float):
            return False
        if math.isnan(expected) or math.isnan(got):
            return math.isnan(expected) and math.isnan(got)
        return bool(got == expected) or abs(got - expected) <= atol + rtol * abs(expected)
    if isinstance(expected, complex) and isinstance(got, complex):
        return abs(got - expected) <= atol + rtol * abs(expected)
    if isinstance(expected, list | tuple):
        return (
            type(got) is type(expected)
            and len(got) == len(expected)
            and all(_close(g, e, atol, rtol) for g, e in zip(got, expected, strict=True))
        )
    if isinstance(expected, dict):
        return (
            isinstance(got, dict)
            and got.keys() == expected.keys()
            and all(_close(got[key], expected[key], atol, rtol) for key in expected)
        )
    return bool(got == expected)


def _same_items(got: Any, expected: Any, atol: float, rtol: float) -> bool:
    """Whether both hold the same items with the same counts, in any order. A text or a mapping is compared as such."""
    if isinstance(got, str | bytes | dict) or isinstance(expected, str | bytes | dict):
        return _close(got, expected, atol, rtol)
    try:
        left, right = list(got), list(expected)
    except TypeError:
        return bool(got == expected)
    if len(left) != len(right):
        return False
    try:
        return Counter(map(_key, left)) == Counter(map(_key, right))
    except TypeError:  # floats, say
        return _pairs_up(left, right, atol, rtol)


def _pairs_up(left: list[Any], right: list[Any], atol: float, rtol: float) -> bool:
    """Whether each item on the left has one of its own on the right. Time grows with the square of their number."""
    for item in left:
        for index, other in enumerate(right):
            if _close(item, other, atol, rtol):
                del right[index]
                break
        else:
            return False
    return True


def _key(value: Any) -> Any:
    """What equals another value's key exactly where the two are close, whatever the tolerance. Raises TypeError."""
    if type(value) in (list, tuple):
        return type(value), *map(_key, value)
    if type(value) in _EXACT:
        return value
    raise TypeError(f"no key for a {type(value).__name__}")


def _plain(value: Any) -> Any:
    """What JSON would make of it: tuples as lists, keys as text."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return value

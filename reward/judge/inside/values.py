"""The closed value format: what crosses between the program and those who judge it.

A value is plain JSON where it can be, else one tagged object.
`decode` builds exact builtin types only, so that an object with a lying `__eq__`, `__hash__` or `__bool__` never
reaches the trusted side. Not covered: identity (`is`) and aliasing between values; those tests run in weak mode.
"""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
import itertools
import operator
import re
from collections.abc import Callable
from typing import Any

from .wire import MAX_FRAME, Breach, dumps, parse

MAX_DEPTH = 100
MAX_ITEMS = 200_000  # of an iterator, which might be endless
MAX_INT_BITS = 1 << 22
DECIMAL_INT_BITS = 12_000  # above it decimal conversion is slow (and CPython refuses it): hexadecimal

_TYPES = {t.__name__: t for t in (int, str, float, bool, list, tuple, dict, set, frozenset, bytes, complex, type(None))}
PLAIN = frozenset({int, str, float, bool, type(None)})


class Opaque(Exception):
    """A value that the closed format does not carry; the text says why."""


class Unknown(Opaque):
    """An object of a kind that the format does not know at all. Decoded values never hold one."""


class Match:
    """What is left of an `re.Match`: its groups and where they lay. Equal to itself alone, as the real one."""

    def __init__(self, text: str, groups: tuple[str | None, ...], spans: list[tuple[int, int]]) -> None:
        self._all, self._spans = (text, *groups), spans

    def group(self, *numbers: int) -> Any:
        found = tuple(self._all[number] for number in numbers or (0,))
        return found[0] if len(found) == 1 else found

    def groups(self, default: Any = None) -> tuple[Any, ...]:
        return tuple(default if group is None else group for group in self._all[1:])

    def span(self, number: int = 0) -> tuple[int, int]:
        return self._spans[number]

    def start(self, number: int = 0) -> int:
        return self._spans[number][0]

    def end(self, number: int = 0) -> int:
        return self._spans[number][1]

    __getitem__ = group

    def __repr__(self) -> str:
        return f"<re.Match object; span={self.span()}, match={self.group()!r}>"


def to_text(value: object) -> str:
    """The value as text of the closed format; raises Opaque for what it cannot carry."""
    try:
        text = dumps(_encode(value, 0, False))
    except ValueError:  # an integer in a plain list that is too long for decimal digits
        text = dumps(_encode(value, 0, True))
    if len(text) > MAX_FRAME - 4096:
        raise Opaque("the value is larger than 16 MB")
    return text


def from_text(text: str) -> Any:
    """The value that `to_text` wrote, of exact builtin types; raises Breach."""
    return from_json(parse(text))


def from_json(value: object) -> Any:
    """A decoded value out of parsed JSON; raises Breach, whatever the value."""
    try:
        return _decode(value, 0)
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, MemoryError) as error:
        raise Breach(f"not a value: {type(error).__name__}") from None


# ---- encoding --------------------------------------------------------------------------------------------------


def _encode(value: Any, depth: int, careful: bool) -> Any:
    kind = type(value)
    if kind is int:
        return value if value.bit_length() <= DECIMAL_INT_BITS else _encode_long(value)
    if kind in PLAIN:
        return value
    if depth > MAX_DEPTH:
        raise Opaque(f"the value is nested more than {MAX_DEPTH} deep")
    if kind is list:
        return _encode_items(value, depth, careful)
    encoder = _ENCODERS.get(kind)
    if encoder is None:
        encoder = _encoder_of_subclass(value)
    return encoder(value, depth + 1, careful)


def _encode_items(items: list[Any], depth: int, careful: bool) -> list[Any]:
    if not careful and PLAIN.issuperset(map(type, items)):
        return items
    return [_encode(item, depth + 1, careful) for item in items]


def _encode_long(value: int) -> dict[str, str]:
    if value.bit_length() > MAX_INT_BITS:
        raise Opaque(f"an integer of {value.bit_length()} bits")
    return {"x": hex(value)}


def _sequence(tag: str, iterate: Callable[[Any], Any] = list) -> Callable[[Any, int, bool], Any]:
    def encode(value: Any, depth: int, careful: bool) -> Any:
        return {tag: _encode_items(list(iterate(value)), depth, careful)}

    return encode


def _mapping(tag: str) -> Callable[[Any, int, bool], Any]:
    def encode(value: Any, depth: int, careful: bool) -> Any:
        keys, values = list(dict.keys(value)), [dict.__getitem__(value, key) for key in dict.keys(value)]
        return {tag: [_encode_items(keys, depth, careful), _encode_items(values, depth, careful)]}

    return encode


def _refuse(reason: str) -> Any:
    raise Opaque(reason)


def _name_of_type(value: type) -> str:
    if _TYPES.get(value.__name__) is not value:
        raise Unknown(f"the class {value.__name__}")
    return value.__name__


def _encode_iterator(value: Any, depth: int, careful: bool) -> Any:
    items = list(itertools.islice(value, MAX_ITEMS + 1))
    if len(items) > MAX_ITEMS:
        raise Opaque(f"an iterator of more than {MAX_ITEMS} items")
    return {"i": _encode_items(items, depth, careful)}


def _plain(tag: str, write: Callable[[Any], Any]) -> Callable[[Any, int, bool], Any]:
    return lambda value, depth, careful: {tag: write(value)}


_ENCODERS: dict[type, Callable[[Any, int, bool], Any]] = {
    tuple: _sequence("t", tuple.__iter__),
    set: _sequence("s", set.__iter__),
    frozenset: _sequence("z", frozenset.__iter__),
    dict: _mapping("d"),
    collections.defaultdict: _mapping("d"),
    collections.OrderedDict: _mapping("O"),
    collections.Counter: _mapping("C"),
    collections.deque: lambda v, depth, careful: {"q": [_encode_items(list(v), depth, careful), v.maxlen]},
    bytes: _plain("b", bytes.hex),
    bytearray: _plain("B", bytearray.hex),
    complex: _plain("c", lambda v: [v.real, v.imag]),
    range: lambda v, depth, careful: {"r": [_encode(x, depth, careful) for x in (v.start, v.stop, v.step)]},
    slice: lambda v, depth, careful: {"l": [_encode(x, depth, careful) for x in (v.start, v.stop, v.step)]},
    fractions.Fraction: lambda v, depth, careful: {"F": [_encode(x, depth, careful) for x in v.as_integer_ratio()]},
    decimal.Decimal: _plain("D", decimal.Decimal.__str__),
    datetime.datetime: _plain("dt", datetime.datetime.isoformat),
    datetime.date: _plain("da", datetime.date.isoformat),
    datetime.time: _plain("ti", datetime.time.isoformat),
    datetime.timedelta: _plain("td", lambda v: [v.days, v.seconds, v.microseconds]),
    type({}.keys()): _sequence("K"),
    type({}.values()): _sequence("V"),
    type({}.items()): _sequence("I"),
    type(...): _plain("e", lambda v: 0),
    re.Match: lambda v, depth, careful: {"M": [v.group(), list(v.groups()), [list(s) for s in v.regs]]},
    type: lambda v, depth, careful: {"T": _name_of_type(v)},
    Match: lambda v, depth, careful: _refuse("a match object cannot be handed back"),
}
_ITERABLES: list[Any] = [[], (), {}, "", b"", set(), range(0), range(1 << 70), {}.values(), {}.items()]
_ITERATORS: tuple[type, ...] = (
    *(type(iter(x)) for x in _ITERABLES),
    type(reversed(_ITERABLES)), type(_ for _ in _ITERABLES), map, filter, zip, enumerate, reversed,
    itertools.chain, itertools.islice, itertools.permutations, itertools.combinations, itertools.product,
    itertools.combinations_with_replacement, itertools.accumulate, itertools.takewhile, itertools.dropwhile,
    itertools.starmap, itertools.compress, itertools.filterfalse, itertools.zip_longest, itertools.pairwise,
)  # fmt: skip
_ENCODERS.update(dict.fromkeys(_ITERATORS, _encode_iterator))
_BASES: tuple[tuple[type, Callable[[Any, int, bool], Any]], ...] = (
    (int, lambda v, depth, careful: _encode(int.__index__(v), depth, careful)),
    (str, lambda v, depth, careful: str.__str__(v)),
    (float, lambda v, depth, careful: float.__float__(v)),
    (tuple, _ENCODERS[tuple]),
    (list, lambda v, depth, careful: _encode_items(list(list.__iter__(v)), depth, careful)),
    (dict, _ENCODERS[dict]),
    (set, _ENCODERS[set]),
    (frozenset, _ENCODERS[frozenset]),
)


def _encoder_of_subclass(value: object) -> Callable[[Any, int, bool], Any]:
    """Subclasses of plain types (named tuples, IntEnum) travel as the plain value that lies in them."""
    for base, encoder in _BASES:
        if isinstance(value, base):
            return encoder
    raise Unknown(f"an object of type {type(value).__name__}")


# ---- decoding --------------------------------------------------------------------------------------------------


def _decode(value: Any, depth: int) -> Any:
    if type(value) is list:
        return _decode_items(value, depth)
    if type(value) is not dict:
        return value
    if len(value) != 1 or depth > 2 * MAX_DEPTH:
        raise ValueError("tag")
    ((tag, content),) = value.items()
    return _DECODERS[tag](content, depth + 1)


def _decode_items(items: Any, depth: int) -> list[Any]:
    if type(items) is not list or depth > 2 * MAX_DEPTH:
        raise ValueError("items")
    if PLAIN.issuperset(map(type, items)):
        return items
    return [_decode(item, depth + 1) for item in items]


def _decode_mapping(content: Any, depth: int) -> dict[Any, Any]:
    keys, values = content
    return dict(zip(_decode_items(keys, depth), _decode_items(values, depth), strict=True))


def _decode_set(items: list[Any]) -> set[Any]:
    """A set that iterates in the order of the items where one of the ways to build it gives that.

    Sets written as literals have smaller tables than sets that were added to, items that meet in one place of the table
    go by who came first, and programs do depend on the order.
    """
    added = set(items)
    if all(map(operator.is_, added, items)):
        return added
    for ordered in (items, items[::-1]):
        written: set[Any] = set()
        written.update(frozenset(ordered))
        for found in (written, set(ordered)):
            if all(map(operator.is_, found, items)):
                return found
    return added


def _decode_long(content: str) -> int:
    if len(content) > MAX_INT_BITS // 4 + 8:
        raise ValueError("long")
    return int(content, 16)


def _decode_fraction(content: Any, depth: int) -> fractions.Fraction:
    numerator, denominator = _decode_items(content, depth)
    if type(numerator) is not int or type(denominator) is not int:
        raise TypeError("fraction")
    return fractions.Fraction(numerator, denominator)


def _text(content: Any) -> str:
    if type(content) is not str or len(content) > 10_000:
        raise ValueError("text")
    return content


_DECODERS: dict[str, Callable[[Any, int], Any]] = {
    "t": lambda c, depth: tuple(_decode_items(c, depth)),
    "s": lambda c, depth: _decode_set(_decode_items(c, depth)),
    "z": lambda c, depth: frozenset(_decode_items(c, depth)),
    "d": _decode_mapping,
    "O": lambda c, depth: collections.OrderedDict(_decode_mapping(c, depth)),
    "C": lambda c, depth: collections.Counter(_decode_mapping(c, depth)),
    "q": lambda c, depth: collections.deque(_decode_items(c[0], depth), c[1]),
    "b": lambda c, depth: bytes.fromhex(c),
    "B": lambda c, depth: bytearray.fromhex(c),
    "c": lambda c, depth: complex(*c),
    "x": lambda c, depth: _decode_long(c),
    "r": lambda c, depth: range(*_decode_items(c, depth)),
    "l": lambda c, depth: slice(*_decode_items(c, depth)),
    "F": _decode_fraction,
    "D": lambda c, depth: decimal.Decimal(_text(c)),
    "dt": lambda c, depth: datetime.datetime.fromisoformat(_text(c)),
    "da": lambda c, depth: datetime.date.fromisoformat(_text(c)),
    "ti": lambda c, depth: datetime.time.fromisoformat(_text(c)),
    "td": lambda c, depth: datetime.timedelta(*c),
    "K": lambda c, depth: dict.fromkeys(_decode_items(c, depth)).keys(),
    "V": lambda c, depth: dict(enumerate(_decode_items(c, depth))).values(),
    "I": lambda c, depth: dict(_decode_items(c, depth)).items(),
    "i": lambda c, depth: iter(_decode_items(c, depth)),
    "e": lambda c, depth: ...,
    "T": lambda c, depth: _TYPES[c],
    "M": lambda c, depth: Match(_text(c[0]), tuple(_decode_items(c[1], depth)), [(int(a), int(b)) for a, b in c[2]]),
}

"""Python values as literal text that `ast.literal_eval` reads back: arguments and expected values of tests."""

from __future__ import annotations

import ast
import math

from ledex_ray.errors import BadInput

MANY_DIGITS = 10**4000  # Python refuses decimal integers from 4,300 digits on, but not hexadecimal ones


def to_literal(value: object) -> str:
    """The text of plain data, read back equal by `ast.literal_eval`; huge integers are hexadecimal, infinities 1e999.

    Subclasses of dict, list and tuple (Counter, OrderedDict, named tuples) are written as their base, to which they
    compare equal. Raises ValueError for NaN and for anything else that has no literal.
    """
    match value:
        case bool():
            return repr(value)
        case int():
            return repr(value) if abs(value) < MANY_DIGITS else hex(value)
        case None | str() | bytes():
            return repr(value)
        case float():
            if math.isnan(value):
                raise ValueError("NaN has no literal")
            return repr(value) if math.isfinite(value) else ("1e999" if value > 0 else "-1e999")
        case complex():
            return f"({to_literal(value.real)}{'-' if math.copysign(1, value.imag) < 0 else '+'}{abs(value.imag)!r}j)"
        case dict():
            return "{" + ", ".join(f"{to_literal(k)}: {to_literal(v)}" for k, v in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(to_literal, value)) + "]"
        case tuple():
            return "(" + ", ".join(map(to_literal, value)) + ("," if len(value) == 1 else "") + ")"
        case set():
            return "{" + ", ".join(sorted(map(to_literal, value))) + "}" if value else "set()"
    raise ValueError(f"{type(value).__name__} has no literal")


def field_literal(value: object, where: str, field: str, expected: str = "plain data without NaN") -> str:
    """The literal text of a value that a user gave; BadInput names the field, the value and what it should be."""
    try:
        return to_literal(value)
    except (ValueError, RecursionError) as error:
        raise BadInput(where, f"field '{field}' ({error})", given=value, expected=expected) from error


def check_literal(text: str, where: str, field: str, expected: str) -> object:
    """The value of a literal given by a user; BadInput names the field and what it should be."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise BadInput(where, f"field '{field}' is not a Python literal", given=text, expected=expected) from error

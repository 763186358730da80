"""Literals of plain data are read back equal, and of the same type, by `ast.literal_eval`."""

from __future__ import annotations

import ast
from collections import Counter, OrderedDict
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledex_ray.literals import to_literal

atoms = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False, allow_infinity=False)
)
values = st.recursive(
    atoms,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.sets(atoms, max_size=3)
        | st.dictionaries(atoms, inner, max_size=3)
    ),
    max_leaves=10,
)


@given(values)
def test_value_comes_back(value: object) -> None:
    read = ast.literal_eval(to_literal(value))
    assert read == value and type(read) is type(value)


class Point(NamedTuple):
    x: int
    y: int


def test_huge_integers_and_infinities_come_back() -> None:
    for value in (10**5000, -(10**5000), float("inf"), -float("inf")):
        assert ast.literal_eval(to_literal(value)) == value


def test_subclasses_are_written_as_what_they_equal() -> None:
    for value in (Counter("aab"), OrderedDict(a=1), Point(1, 2)):
        assert ast.literal_eval(to_literal(value)) == value


@pytest.mark.parametrize("value", [float("nan"), object(), [print], range(3), complex("nan")])
def test_values_without_a_literal_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match="no literal"):
        to_literal(value)

"""The closed value format: what goes in comes out, of exact types; whatever else comes in is a breach, no crash."""

from __future__ import annotations

import contextlib
import datetime
import json
from collections import Counter, OrderedDict, deque
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward.judge.inside import assertions, compare, values
from reward.judge.inside.wire import Breach

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=10**5000, max_value=10**5001)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False)
    | st.fractions()
    | st.decimals(allow_nan=False)
    | st.datetimes()
    | st.dates()
    | st.timedeltas()
)
HASHABLE = SCALARS | st.tuples(SCALARS, SCALARS) | st.frozensets(SCALARS, max_size=3)
VALUES = st.recursive(
    HASHABLE,
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(HASHABLE, inner)
        | st.sets(HASHABLE)
        | st.lists(inner).map(deque)
        | st.dictionaries(HASHABLE, inner).map(OrderedDict)
        | st.lists(st.text()).map(Counter)
    ),
    max_leaves=20,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(
            st.sampled_from([*"tszdOCqbBcxrlFDKVIieTM", "dt", "da", "ti", "td"]) | st.text(), inner, max_size=2
        )
    ),
    max_leaves=15,
)


def same(left: Any, right: Any) -> bool:
    """Equal, and of the same types all the way down."""
    if type(left) is not type(right):
        return False
    if isinstance(left, list | tuple | deque):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return (
            left == right and all(map(same, left, right)) and all(same(left[k], right[k]) for k in left if k in right)
        )
    return bool(left == right)


@settings(max_examples=300)
@given(VALUES)
def test_what_goes_in_comes_out(value: Any) -> None:
    assert same(values.from_text(values.to_text(value)), value)


@settings(max_examples=500)
@given(JSON)
def test_any_json_is_a_value_or_a_breach(message: Any) -> None:
    with contextlib.suppress(Breach):
        values.from_text(json.dumps(message))


@settings(max_examples=200)
@given(st.text())
def test_any_text_is_a_value_or_a_breach(text: str) -> None:
    with contextlib.suppress(Breach):
        values.from_text(text)


class Lying(int):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


def test_a_lying_object_is_only_its_plain_value() -> None:
    arrived = values.from_text(values.to_text([Lying(7), {"a": Lying(8)}]))
    assert type(arrived[0]) is int and arrived == [7, {"a": 8}] and arrived[0] != 9


@pytest.mark.parametrize(
    "value", [{12, 13, 14, 15, 16}, set(range(12, 17)), {6, 7, 8, 9, 10, 11}, {15, 7}, {7, 15}, {"b", "a"}, set()]
)
def test_a_set_keeps_its_order(value: set[object]) -> None:
    assert list(values.from_text(values.to_text(value))) == list(value)


@pytest.mark.parametrize("value", [object(), lambda: 0, Lying, open, type("A", (), {})()])
def test_other_objects_are_opaque(value: object) -> None:
    with pytest.raises(values.Opaque):
        values.to_text([value])


def test_depth_and_size_are_bounded() -> None:
    deep: list[Any] = []
    for _ in range(values.MAX_DEPTH + 1):
        deep = [deep]
    for value in (deep, "x" * (17 << 20), 1 << (values.MAX_INT_BITS + 1), iter(range(values.MAX_ITEMS + 1))):
        with pytest.raises(values.Opaque):
            values.to_text(value)
    with pytest.raises(Breach):
        values.from_text("[" * 100_000 + "]" * 100_000)


def test_iterators_and_views_stay_what_they_are() -> None:
    def carry(value: object) -> Any:
        return values.from_text(values.to_text(value))

    assert list(carry(x for x in (1, 2))) == [1, 2] and carry(iter([1])) != [1]
    assert carry({1: 2}.keys()) == {1} and carry({1: 2}.items()) == {(1, 2)} and list(carry({1: 2}.values())) == [2]
    assert carry(range(3)) == range(3) and carry(...) is ... and carry(int) is int


@pytest.mark.parametrize(
    ("source", "weak"),
    [
        ("assert f([1], 2) == 3", False),
        ("assert f(f(1)) == 3", False),
        ("assert f(helper(1)) == 3", False),
        ("x = [1]\nf(x)\nassert x == [1, 2]", False),
        ("def check(candidate):\n    assert candidate(1) == 2", False),
        ("import math\nassert math.isclose(f(1), 2)", False),
        ("assert f(lambda x: x) == 3", True),
        ("assert f(Node(1)) == 3", True),
        ("assert f.__name__ == 'f'", True),
        ("assert list(map(f, [1])) == [2]", True),
        ("assert isinstance(f(1), Node)", True),
        ("g = f\nassert g(1) == 2", True),
    ],
)
def test_what_needs_weak_mode_is_read_from_the_test(source: str, weak: bool) -> None:
    assert bool(assertions.prepare(source, "f", frozenset()).weak) is weak


@pytest.mark.parametrize(
    ("got", "expected", "how", "right"),
    [
        ((1, 2), [1, 2], "equal", False),
        (1.0 + 1e-9, 1.0, "close", True),
        (True, 1.0, "close", True),
        (3, 3.0000001, "close", False),
        ([1.0, (2.0,)], [1.0, [2.0]], "close", False),
        (float("nan"), float("nan"), "close", True),
        (float("inf"), float("inf"), "close", True),
        ({"a": 0.1 + 0.2}, {"a": 0.3}, "close", True),
        ([1, 2, 2], (2, 1, 2), "unordered", True),
        ([1, 1, 2], [2, 2, 1], "unordered", False),
        ([[1], {2: 3}], [{2: 3}, [1]], "unordered", True),
        (5, [5], "unordered", False),
        ("ab", ["b", "a"], "unordered", False),
        ({"a": 5, "b": 0.1 + 0.2}, {"b": 0.3, "a": 5}, "unordered", True),
        ({"a": 1, "b": 2}, {"a": 5, "b": 9}, "unordered", False),
        (["a", "b"], {"a": 5, "b": 9}, "unordered", False),
        ({"a": 5, "b": 9}, ["a", "b"], "unordered", False),
        ([0.1 + 0.2, (1, "x")], [(1, "x"), 0.3], "unordered", True),
        ([(1, 2), [1, 2]], [[1, 2], (1, 2)], "unordered", True),
        ([(1, 2), (1, 2)], [[1, 2], (1, 2)], "unordered", False),
        ([True, 0], [False, 1], "unordered", True),
        ([True], [1.0], "unordered", False),
        ([float("nan"), 1], [1, float("nan")], "unordered", True),
        ({1: (1, 2)}, {"1": [1, 2]}, "json", True),
        ("1", 1, "json", False),
    ],
)
def test_comparison(got: object, expected: object, how: str, right: bool) -> None:
    assert compare.matches(got, expected, how, 1e-6, 0.0) is right if how != "equal" else not right


ITEMS = st.recursive(
    st.sampled_from(
        [0, 1, 2, True, False, None, "", "1", b"", 0.0, 1.0, 1.0 + 1e-9, float("nan"), 1j, Fraction(1), {1}]
    ),
    lambda inner: st.lists(inner, max_size=2) | st.lists(inner, max_size=2).map(tuple) | st.lists(inner).map(deque),
    max_leaves=3,
)


@settings(max_examples=500)
@given(st.lists(ITEMS, max_size=5).flatmap(lambda items: st.tuples(st.just(items), st.permutations(items))), st.data())
def test_unordered_is_decided_as_if_each_pair_were_compared(
    lists: tuple[list[Any], list[Any]], data: st.DataObject
) -> None:
    got, expected = lists
    if data.draw(st.booleans()) and expected:
        expected = [*expected[1:], data.draw(ITEMS)]
    for atol in (0.0, 1e-6):
        one_by_one = compare._pairs_up(list(got), list(expected), atol, 0.0)
        assert compare.matches(got, expected, "unordered", atol, 0.0) is one_by_one


def test_equal_is_exact() -> None:
    assert compare.matches(Fraction(1, 2), 0.5, "equal", 0, 0) and compare.matches(Decimal(1), 1, "equal", 0, 0)
    assert not compare.matches((1, 2), [1, 2], "equal", 0, 0)
    assert not compare.matches(datetime.date(2024, 1, 1), "2024-01-01", "equal", 0, 0)

"""What the pages of `ledex inspect` are made of: comparisons, tokens, text made printable."""

from __future__ import annotations

import dataclasses
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from launch.browse.diff import side_by_side
from launch.browse.tokens import answer_tokens, prompt_text
from launch.shown import shown, visible
from tests.evaluation.sample_run import RIGHT, WRONG, byte_tokenizer

lines = st.lists(st.text(alphabet="ab ", max_size=4), max_size=12).map("\n".join)


@given(lines, lines)
def test_each_side_of_a_comparison_is_its_program(before: str, after: str) -> None:
    rows = side_by_side(before, after)
    for side, text in (("left", before), ("right", after)):
        cells = [getattr(row, side) for row in rows]
        shown_lines = [c.head + c.changed + c.tail for c in cells if c.number]
        assert shown_lines == text.splitlines()
        assert [c.number for c in cells if c.number] == list(range(1, len(shown_lines) + 1))
    for row in rows:
        both = bool(row.left.number and row.right.number)
        assert (row.kind == "same") == (both and row.left == dataclasses.replace(row.right, number=row.left.number))


def test_the_changed_part_of_a_line_is_marked() -> None:
    changed = [row for row in side_by_side(WRONG, RIGHT) if row.kind == "changed"]
    assert [(r.left.changed, r.right.changed) for r in changed] == [("-", "+")]


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd"), max_size=60))
def test_tokens_join_to_the_answer(text: str) -> None:
    tokenizer = byte_tokenizer()
    ids = tokenizer.encode(text).ids
    tokens = answer_tokens(episode([5, *ids], [False, *[True] * len(ids)]), tokenizer)
    assert "".join(t.text for t in tokens) == visible(text)
    assert len(tokens) == len(ids)


def test_what_is_said_between_two_turns_stands_between_them() -> None:
    tokenizer = byte_tokenizer()
    said = [("fix it", False), ("one", True), ("still wrong", False), ("two", True)]
    ids = [tokenizer.encode(text).ids for text, _ in said]
    own = [mine for (_, mine), turn in zip(said, ids, strict=True) for _ in turn]
    row = episode([id for turn in ids for id in turn], own)
    assert prompt_text(row, tokenizer) == "fix it"
    tokens = answer_tokens(row, tokenizer)
    assert [(t.before, t.text) for t in tokens] == [
        ("still wrong" if i == 3 else "", c) for i, c in enumerate("onetwo")
    ]
    assert prompt_text(episode([5], [False]), tokenizer) and not answer_tokens(episode([5], [False]), tokenizer)


def episode(ids: list[int], own: list[bool]) -> dict[str, Any]:
    """An episode's row of these tokens, of which the policy wrote its own."""
    nothing = [0.0] * len(ids)
    versions = [0] * len(ids)
    told = {"behaviour_log_probs": nothing, "rewards": nothing, "weight_versions": versions, "explanation_end": -1}
    return {"token_ids": ids, "loss_mask": own} | told


@given(st.text(), st.integers(1, 50), st.integers(1, 5))
def test_shown_text_is_bounded_and_printable(text: str, characters: int, most_lines: int) -> None:
    found = shown(text, characters, most_lines)
    assert all(c.isprintable() or c in "\n\t" for c in found.text)
    assert found.text.count("\n") < most_lines and len(found.text) <= 10 * characters
    assert found.left_out >= 0 and (found.left_out == 0) == (
        len(text) <= characters and len(text.splitlines()) <= most_lines
    )

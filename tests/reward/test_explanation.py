"""Explanation similarity with the real packaged encoder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from reward.explanation import ExplanationScorer

pytestmark = pytest.mark.slow

OFF_BY_ONE = "The loop stops one element too early, because range excludes its end."
SAME = "range excludes its end, so the last element is never visited by the loop."
OTHER = "The file is opened for writing, which deletes what was in it."


@pytest.fixture(scope="module")
def scorer() -> Iterator[ExplanationScorer]:
    from launch.model_cache import resolve_encoder

    yield ExplanationScorer(resolve_encoder("minilm"), device="cpu")


def test_the_same_text_is_1_and_the_same_meaning_is_nearer_than_another(scorer: ExplanationScorer) -> None:
    identical, same, other = scorer.similarity([(t, (OFF_BY_ONE,)) for t in (OFF_BY_ONE, SAME, OTHER)])
    assert identical == pytest.approx(1.0, abs=1e-5)
    assert same is not None and other is not None
    assert 1.0 > same > other + 0.2


def test_it_is_the_mean_over_references_in_any_order(scorer: ExplanationScorer) -> None:
    first, second, both, turned = scorer.similarity(
        [(SAME, (OFF_BY_ONE,)), (SAME, (OTHER,)), (SAME, (OFF_BY_ONE, OTHER)), (SAME, (OTHER, OFF_BY_ONE))]
    )
    assert first is not None and second is not None and both is not None
    assert both == pytest.approx((first + second) / 2, abs=1e-6)
    assert both == turned


def test_without_a_reference_there_is_none_and_a_missing_explanation_is_0(scorer: ExplanationScorer) -> None:
    assert scorer.similarity([(SAME, ()), (SAME, ("  ",)), ("", (OFF_BY_ONE,)), (" \n", (OFF_BY_ONE,))]) == [
        None,
        None,
        0.0,
        0.0,
    ]
    assert scorer.similarity([]) == []


def test_references_are_encoded_once(scorer: ExplanationScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = "A reference that no other test has."
    (first,) = scorer.similarity([(SAME, (reference,))])
    encoded: list[str] = []
    encode = scorer._encoder.encode

    def counting(texts: list[str], **options: object) -> object:
        encoded.extend(texts)
        return encode(texts, **options)

    monkeypatch.setattr(scorer._encoder, "encode", counting)
    (again,) = scorer.similarity([(SAME, (reference,))])
    assert again == pytest.approx(first, abs=1e-6)
    assert encoded == [SAME]


def test_the_memory_of_references_is_bounded() -> None:
    from launch.model_cache import resolve_encoder

    small = ExplanationScorer(resolve_encoder("minilm"), device="cpu", kept=3)
    small.similarity([(SAME, tuple(f"reference {i}" for i in range(10)))])
    assert len(small._kept) == 3


def test_any_text_has_a_similarity_in_range(scorer: ExplanationScorer) -> None:
    texts = ["x", "🙂" * 500, "word " * 5_000, "\0", "def f(:", "ü"]
    for value in scorer.similarity([(text, (OFF_BY_ONE,)) for text in texts]):
        assert value is not None and -1.0 <= value <= 1.0

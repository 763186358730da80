"""CodeBLEU of one candidate against many references, each side read once (Ren et al. 2020, arXiv 2009.10297).

The figures are those of the `codebleu` package, one call a reference, averaged (method.md, section 2); its tokenizer,
keywords, comment stripping and data-flow extraction are used as they are. Two things are our own:

* A side (`Side`) is read once and kept: n-gram counts, syntax subtrees, data-flow edges. The package reads both sides
  again at each call.
* Data flow does not depend on PYTHONHASHSEED. The package's extraction passes variable names through sets, whose order
  follows the names' hashes; here each name carries the hash that PYTHONHASHSEED=0 would give it (`_Name`), so every
  process gets the figures that the package gives under that seed.

`repaired=True` mends what can be gamed: both sides go through `ast.unparse`, an answer without data flow gets 0 for
it (the package: full marks), and a reference without data flow drops that term and renormalises the other three.

Not covered: hostile text. It can take unbounded time here, or end the process in the parser; `reward.scorer` bounds
both.
"""

from __future__ import annotations

import ast
import math
from collections import Counter, OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import codebleu
import tree_sitter_python
from codebleu.dataflow_match import normalize_dataflow
from codebleu.parser import DFG_python, index_to_code_token, remove_comments_and_docstrings, tree_to_token_index
from tree_sitter import Language, Node, Parser

from ledex_ray.syntax import UNREADABLE
from reward.name_hash import name_hash
from reward.terms import PACKAGE_WEIGHTS, CodeBleuScore, Weights

ORDERS = (1, 2, 3, 4)
_KEYWORD_WEIGHT, _WORD_WEIGHT = 1.0, 0.2
_EPSILON = 0.1  # the package's smoothing: added to an n-gram order without a match


@dataclass(frozen=True)
class Side:
    """One text as CodeBLEU sees it. Immutable; serves as candidate or as reference."""

    n_tokens: int
    ngrams: tuple[Counter[tuple[str, ...]], ...]  # one counter an order
    subtrees: Counter[bytes]  # digests of the s-expressions of all inner nodes
    dataflow: Counter[Hashable]  # normalised edges
    parses: bool


class CodeBleu:
    """Scores candidates; keeps the sides of the last references, up to `kept_chars` characters of text."""

    def __init__(self, kept_chars: int = 1_000_000) -> None:
        self._kept_chars = kept_chars
        self._kept: OrderedDict[tuple[str, bool], Side] = OrderedDict()
        self._n_chars = 0

    def reference(self, text: str, *, repaired: bool = False) -> Side:
        """The side of a reference (or of any text that comes again), from memory where it is kept."""
        key = (text, repaired)
        side = self._kept.get(key)
        if side is not None:
            self._kept.move_to_end(key)
            return side
        side = read_side(text, repaired=repaired)
        self._kept[key] = side
        self._n_chars += len(text)
        while self._n_chars > self._kept_chars and len(self._kept) > 1:
            (dropped, _), _ = self._kept.popitem(last=False)
            self._n_chars -= len(dropped)
        return side

    def holds(self, text: str, *, repaired: bool = False) -> bool:
        """Whether this reference is kept, so that asking for it costs nothing."""
        return (text, repaired) in self._kept

    def score(
        self,
        candidate: str,
        references: Sequence[str],
        *,
        weights: Weights = PACKAGE_WEIGHTS,
        repaired: bool = False,
    ) -> CodeBleuScore:
        """The mean of the single-reference scores; the order of `references` does not matter.

        Raises ValueError without references and UnicodeEncodeError for text with lone surrogates.
        """
        side = read_side(candidate, repaired=repaired)
        sides = [self.reference(text, repaired=repaired) for text in references]
        return mean_score([compare(side, other, weights=weights, repaired=repaired) for other in sides])


def mean_score(scores: Sequence[CodeBleuScore]) -> CodeBleuScore:
    """The component-wise mean, correctly rounded, so that no order of summation shows. Raises ValueError for none."""
    if not scores:
        raise ValueError("CodeBLEU needs at least one reference")

    def mean(values: list[float]) -> float:
        return math.fsum(values) / len(values)

    return CodeBleuScore(
        score=mean([s.score for s in scores]),
        ngram=mean([s.ngram for s in scores]),
        weighted_ngram=mean([s.weighted_ngram for s in scores]),
        syntax=mean([s.syntax for s in scores]),
        dataflow=mean([s.dataflow for s in scores]),
    )


def compare(candidate: Side, reference: Side, *, weights: Weights, repaired: bool) -> CodeBleuScore:
    """Single-reference CodeBLEU of two sides."""
    ngram, weighted_ngram = _ngram_match(candidate, reference)
    syntax = _syntax_match(candidate, reference)
    dataflow = _dataflow_match(candidate, reference)
    alpha, beta, gamma, theta = weights
    surface = alpha * ngram + beta * weighted_ngram + gamma * syntax
    if not repaired:
        score = surface + theta * (dataflow or 1)  # as in the package: no match at all counts as a full one
    elif reference.dataflow:
        score = surface + theta * dataflow
    else:
        rest = alpha + beta + gamma
        score = surface * (sum(weights) / rest) if rest else 0.0
    return CodeBleuScore(score, ngram, weighted_ngram, syntax, dataflow)


def read_side(text: str, *, repaired: bool = False) -> Side:
    """Everything that CodeBLEU needs of one text. Raises UnicodeEncodeError for lone surrogates."""
    parses = True
    if repaired:
        try:
            text = ast.unparse(ast.parse(text))
        except UNREADABLE:  # not Python: scored as the words that it is
            parses = False
    text = text.strip()
    tokens = text.split()
    ngrams = tuple(Counter(zip(*(tokens[i:] for i in range(n)), strict=False)) for n in ORDERS)
    try:
        stripped = remove_comments_and_docstrings(text, "python")
    except Exception:  # the package's own rule: what `tokenize` refuses, in whatever way, is taken unstripped
        stripped = text
    root = _parser().parse(stripped.encode("utf-8")).root_node
    return Side(len(tokens), ngrams, _subtrees(root), _dataflow(root, stripped), parses)


def _ngram_match(candidate: Side, reference: Side) -> tuple[float, float]:
    """BLEU (precision) and keyword-weighted recall. Both clip by the same intersection."""
    precision: list[tuple[float, float]] = []
    recall: list[tuple[float, float]] = []
    for n in ORDERS:
        ours, theirs = candidate.ngrams[n - 1], reference.ngrams[n - 1]
        common = ours.keys() & theirs.keys()
        matched = float(sum(min(ours[g], theirs[g]) for g in common))
        precision.append((matched, max(1, ours.total())))
        if n == 1:
            weighted = math.fsum(min(ours[g], theirs[g]) * _weight(g[0]) for g in common)
            recall.append((weighted, max(1.0, math.fsum(c * _weight(g[0]) for g, c in theirs.items()))))
        else:
            recall.append((matched, max(1, theirs.total())))
    # The package measures the weighted match's brevity against a pair (tokens, weights), whose length is 2.
    return (
        _brevity(candidate.n_tokens, reference.n_tokens) * _geometric_mean(precision),
        _brevity(candidate.n_tokens, 2) * _geometric_mean(recall),
    )


def _geometric_mean(ratios: list[tuple[float, float]]) -> float:
    if ratios[0][0] == 0:
        return 0.0
    return math.exp(math.fsum(math.log((top or _EPSILON) / bottom) / len(ratios) for top, bottom in ratios))


def _brevity(n_candidate: int, n_reference: int) -> float:
    if n_candidate > n_reference:
        return 1.0
    return math.exp(1 - n_reference / n_candidate) if n_candidate else 0.0


def _weight(token: str) -> float:
    return _KEYWORD_WEIGHT if token in _keywords() else _WORD_WEIGHT


def _syntax_match(candidate: Side, reference: Side) -> float:
    """The share of the reference's subtrees that occur in the candidate."""
    matched = sum(count for tree, count in reference.subtrees.items() if tree in candidate.subtrees)
    return matched / reference.subtrees.total()


def _dataflow_match(candidate: Side, reference: Side) -> float:
    """The share of the reference's data-flow edges found in the candidate, each candidate edge used once."""
    if not reference.dataflow:
        return 0.0
    matched = sum(min(count, candidate.dataflow[edge]) for edge, count in reference.dataflow.items())
    return matched / reference.dataflow.total()


def _subtrees(root: Node) -> Counter[bytes]:
    found: Counter[bytes] = Counter()
    stack = [root]
    while stack:
        node = stack.pop()
        found[blake2b(str(node).encode(), digest_size=16).digest()] += 1
        stack.extend(child for child in node.children if child.children)
    return found


class _Name(str):
    """A token's text whose hash is the same in every process."""

    __slots__ = ("_hash",)
    _hash: int

    def __new__(cls, text: str) -> _Name:
        self = super().__new__(cls, text)
        self._hash = name_hash(text)
        return self

    def __hash__(self) -> int:
        return self._hash

    __eq__ = str.__eq__


def _dataflow(root: Node, source: str) -> Counter[Hashable]:
    """Normalised data-flow edges, as the package's `get_data_flow` and `normalize_dataflow` give them."""
    lines = source.split("\n")
    try:
        spans = tree_to_token_index(root)
        tokens = {span: (i, _Name(index_to_code_token(span, lines))) for i, span in enumerate(spans)}
        edges, _ = DFG_python(root, tokens, {})
    except MemoryError:
        raise
    except Exception:  # the package's own rule: where its extraction fails, in whatever way, there is no data flow
        return Counter()
    edges.sort(key=lambda edge: edge[1])
    used = {edge[1] for edge in edges if edge[4]} | {index for edge in edges for index in edge[4]}
    merged: dict[int, Any] = {}
    for edge in edges:
        if edge[1] not in used:
            continue
        first = merged.get(edge[1])
        if first is not None:
            edge = (*edge[:3], list(set(first[3] + edge[3])), list(set(first[4] + edge[4])))
        merged[edge[1]] = edge
    return Counter((name, relation, tuple(origins)) for name, relation, origins in normalize_dataflow(merged.values()))


@lru_cache(maxsize=1)
def _parser() -> Parser:
    return Parser(Language(tree_sitter_python.language()))


@lru_cache(maxsize=1)
def _keywords() -> frozenset[str]:
    folder = Path(codebleu.__file__).parent / "keywords"
    return frozenset(line.strip() for line in (folder / "python.txt").read_text(encoding="utf-8").splitlines())

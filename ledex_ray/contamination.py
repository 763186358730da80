"""Which evaluation problems training has seen: the same task, text, nearly the same text, or the same solution.

Texts are compared as sets of word shingles by Jaccard similarity; MinHash with locality-sensitive hashing (datasketch)
only proposes the pairs, the figure reported is the exact one. Solutions are compared by syntax tree with variables
renamed away. Not covered: paraphrases, and what the base model saw in its own pre-training.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from ledex_ray.problems import Problem
from ledex_ray.syntax import UNREADABLE, canonical_form

Kind = Literal["task", "exact", "near", "solution"]
SHINGLE = 3  # words
THRESHOLD = 0.7
BANDS, ROWS = 64, 4  # of the signatures: a pair at the threshold is missed once in forty million times
LONGEST_SOLUTION = 20_000  # characters that are parsed
MOST_SOLUTIONS = 20  # of one problem that are parsed
SHORTEST_SOLUTION = 20  # syntax nodes: every one-line `return a + b` is the same program
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Overlap:
    """One evaluation problem that a training problem gives away. `similarity` is 1 but for near duplicates."""

    evaluated: str
    trained: str
    kind: Kind
    similarity: float


def overlaps(trained: Sequence[Problem], evaluated: Sequence[Problem], threshold: float = THRESHOLD) -> list[Overlap]:
    """At most one overlap of each kind an evaluation problem, the closest; a near one only where none is exact."""
    found = _same(trained, evaluated, _tasks, "task")
    found += _same(trained, evaluated, lambda p: [" ".join(words(p.text))], "exact")
    known = {o.evaluated for o in found}
    found += _near(trained, [p for p in evaluated if p.id not in known], threshold)
    found += _same(trained, evaluated, _solutions, "solution")
    return sorted(found, key=lambda o: (o.evaluated, o.kind, o.trained))


def words(text: str) -> list[str]:
    """The words of a text in lower case: what near duplicates are made of."""
    return _WORD.findall(text.lower())


def shingles(text: str) -> frozenset[str]:
    """Runs of SHINGLE words; a shorter text is one shingle."""
    all_words = words(text)
    return frozenset(" ".join(all_words[i : i + SHINGLE]) for i in range(max(1, len(all_words) - SHINGLE + 1)))


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """Shared / all; 0 for two empty sets."""
    return len(a & b) / len(a | b) if a or b else 0.0


def _near(trained: Sequence[Problem], evaluated: Sequence[Problem], threshold: float) -> list[Overlap]:
    from datasketch import MinHash, MinHashLSH

    def sketch(parts: frozenset[str]) -> MinHash:
        hashed = MinHash(num_perm=BANDS * ROWS, seed=1)
        hashed.update_batch([part.encode() for part in parts])
        return hashed

    index = MinHashLSH(num_perm=BANDS * ROWS, params=(BANDS, ROWS))
    known = {f"{n}": shingles(p.text) for n, p in enumerate(trained)}
    for name, parts in known.items():
        index.insert(name, sketch(parts))
    found = []
    for problem in evaluated:
        parts = shingles(problem.text)
        close = [(jaccard(parts, known[name]), trained[int(name)].id) for name in index.query(sketch(parts))]
        similarity, id = max(close, default=(0.0, ""), key=lambda pair: (pair[0], pair[1]))
        if similarity >= threshold:
            found.append(Overlap(problem.id, id, "near", similarity))
    return found


def _same(
    trained: Sequence[Problem], evaluated: Sequence[Problem], forms: Callable[[Problem], Iterable[str]], kind: Kind
) -> list[Overlap]:
    wanted = {problem.id: list(forms(problem)) for problem in evaluated}
    asked = {form for own in wanted.values() for form in own}
    first: dict[str, str] = {}  # of these alone: a training set may hold a million solutions
    for problem in trained:
        for form in forms(problem):
            if form in asked:
                first.setdefault(form, problem.id)
    seen = {id: next((form for form in own if form in first), None) for id, own in wanted.items()}
    return [Overlap(id, first[form], kind, 1.0) for id, form in seen.items() if form is not None]


def _tasks(problem: Problem) -> list[str]:
    """The number that MBPP and MBPP+ share (MBPP+ says many tasks in other words)."""
    number = problem.id.rpartition("/")[2]
    return [number] if problem.benchmark.startswith("mbpp") and number.isdigit() else []


def _solutions(problem: Problem) -> list[str]:
    """The canonical solutions with all names that they bind renamed away, the function's own too."""
    found = []
    for source in problem.canonical_solutions[:MOST_SOLUTIONS]:
        if len(source) > LONGEST_SOLUTION:
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # escapes that a later Python will not take
                form = canonical_form(source)
        except UNREADABLE:
            continue  # some sets keep solutions of another Python
        if form.count("(") >= SHORTEST_SOLUTION:
            found.append(form.replace(f"'{problem.entry_point}'", "'solution'") if problem.entry_point else form)
    return found

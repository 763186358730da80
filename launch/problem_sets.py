"""The problem sets of a recipe, loaded and checked: training never sees a test or held-out problem.

What PPO chooses its best checkpoint by counts as seen, too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from actors.checkpoint import sha256
from launch.pins import Pins
from ledex_ray.config import Recipe
from ledex_ray.errors import BadInput
from ledex_ray.problems import Problem
from ledex_ray.readers import hub_set, local_set, parse_spec, published_set
from reward.judge import ready_problems

Load = Callable[[str], Sequence[Problem]]
"""The problems of a SPEC, ready to be judged: `ready_problems`, or what remembers its answers."""
TRAINABLE = ("train", "prompt", "")
CONTAMINATED = " (contaminated)"
EVALPLUS = ("humanevalplus", "mbppplus")
FILES = "problems/"  # before a SPEC, the name of its files among a run's pins


def pin_problem_sets(recipe: Recipe, pins: Pins) -> None:
    """Pins the data sets that the recipe's problems come from, on the hub or in files.

    BadInput where the run began with another revision of one, or had it from the other place: the problems would
    change in its midst.
    """
    for spec in (*recipe.problems.train_sets, recipe.problems.validation, *recipe.problems.heldout):
        published, hub, files = published_set(spec), hub_set(spec), local_set(spec)
        if hub is not None:
            _check_place(spec, pins.commit(FILES + spec), "files", "the hub")
            pins.pin(f"datasets/{hub.path}", hub.revision)
        elif files is not None and files.exists():
            if published is not None:
                _check_place(spec, pins.commit(f"datasets/{published.path}"), "the hub", str(files))
            pins.pin(FILES + spec, _digest(files))


def _check_place(spec: str, pinned: str | None, began: str, now: str) -> None:
    if pinned is not None:
        raise BadInput(
            f"problems '{spec}'",
            f"the run began with this set from {began}, and it would now come from {now}",
            expected="LEDEX_DATA as it was when the run began, another run=NAME, or --fresh",
        )


def heldout_hashes(recipe: Recipe, pinned: Mapping[str, str]) -> dict[str, frozenset[str]]:
    """Benchmark -> hashes of the files that its held-out problems were read from, of those that a run has pinned."""
    found: dict[str, frozenset[str]] = {}
    for spec in recipe.problems.heldout:
        if FILES + spec in pinned:
            name = parse_spec(spec).name
            for benchmark in EVALPLUS if name == "evalplus" else (name,):  # its files hold either
                found[benchmark] = found.get(benchmark, frozenset()) | {pinned[FILES + spec]}
    return found


def _digest(files: Path) -> str:
    """Forty hex digits of a file's content, or of all files of a folder with their names."""
    digest = hashlib.sha256()
    for path in sorted(files.rglob("*")) if files.is_dir() else [files]:
        if path.is_file():
            digest.update(f"{path.relative_to(files)} {sha256(path)}\n".encode())
    return digest.hexdigest()[:40]


def training_problems(recipe: Recipe, load: Load = ready_problems) -> dict[str, Problem]:
    """The training sets by id. Raises BadInput where the recipe names test, validation or held-out problems."""
    found: dict[str, Problem] = {}
    for spec in recipe.problems.train_sets:
        problems = _by_id(_trained_on("problems.train", spec, TRAINABLE, load), recipe.problems.limit)
        _check_new("problems.train", spec, problems, found)
        found |= problems
    return found


def validation_problems(recipe: Recipe, load: Load = ready_problems) -> dict[str, Problem]:
    """The held-in validation set by id."""
    spec = recipe.problems.validation
    return _by_id(_trained_on("problems.validation", spec, ("validation", *TRAINABLE), load), recipe.problems.limit)


def heldout_problems(recipe: Recipe, load: Load = ready_problems) -> dict[str, Problem]:
    """All held-out sets by id.

    Raises BadInput where two have a problem of one id, or one holds a problem that is trained or validated on, unless
    the recipe allows that: then the whole set goes under a benchmark's name of its own. Texts that a published split
    shares with another (MBPP's test split repeats some of its training tasks) are no mistake of the recipe: the
    contamination check counts them.
    """
    trained = [problem for spec in recipe.problems.train_sets for problem in load(spec)]
    seen = [*trained, *load(recipe.problems.validation)]
    ids, texts = {(p.benchmark, p.id) for p in seen}, {p.text for p in seen}
    held: dict[str, Problem] = {}
    for spec in recipe.problems.heldout:
        problems = _limited(load(spec), recipe.problems.limit)
        known = next(
            (
                p
                for p in problems
                if p.split == "train" or (p.benchmark, p.id) in ids or (not p.split and p.text in texts)
            ),
            None,
        )
        if known is not None and not recipe.problems.allow_contaminated:
            raise BadInput(
                "recipe key 'problems.heldout'",
                f"holds problem {known.id}, which is trained or validated on",
                given=spec,
                expected="a set that training does not see, e.g. mbppplus@test, or problems.allow_contaminated=true",
            )
        suffix = CONTAMINATED if known is not None else ""
        own = [_under_benchmark(problem, problem.benchmark + suffix) for problem in problems]
        _check_new("problems.heldout", spec, (problem.id for problem in own), held)
        held |= {problem.id: problem for problem in own}
    return held


def _under_benchmark(problem: Problem, benchmark: str) -> Problem:
    """The problem with its benchmark's name before its id: HumanEval and HumanEval+ share their ids."""
    return replace(problem, id=f"{benchmark}/{problem.id}", benchmark=benchmark)


def _check_new(key: str, spec: str, ids: Iterable[str], found: Container[str]) -> None:
    """Raises BadInput where a set has an id that a set before it had: one of the two problems would be lost."""
    twice = next((id for id in ids if id in found), None)
    if twice is not None:
        raise BadInput(f"recipe key '{key}'", f"two of its sets have a problem {twice}", given=spec)


def _trained_on(key: str, spec: str, splits: Sequence[str], load: Load) -> Sequence[Problem]:
    problems = load(spec)
    wrong = next((p for p in problems if p.split not in splits), None)
    if wrong is not None:
        raise BadInput(
            f"recipe key '{key}'",
            f"holds problem {wrong.id} of the {wrong.split} split",
            given=spec,
            expected="a set that is not measured on, e.g. bundled@train or mbpp@train",
        )
    return problems


def _limited(problems: Sequence[Problem], limit: int | None) -> Sequence[Problem]:
    """The first N, taken evenly through the set so that its difficulties stay mixed."""
    if limit is None or limit >= len(problems):
        return problems
    return [problems[i * len(problems) // limit] for i in range(limit)]


def _by_id(problems: Sequence[Problem], limit: int | None) -> dict[str, Problem]:
    return {p.id: p for p in _limited(problems, limit)}

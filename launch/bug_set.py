"""The fixed bug set: wrong solutions with their feedback, the same for all that is compared (method.md, section 8).

Each run makes one of its own from its untrained model; runs that are to be compared on it name one file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence

from ledex_ray.errors import BadInput, named
from ledex_ray.evaluation import Bug
from ledex_ray.tables import read_records


def bug_set_hash(bugs: Sequence[Bug]) -> str:
    """Twelve hex digits, equal for two runs iff they refine the same bugs with the same feedback."""
    return hashlib.sha256(repr(list(bugs)).encode()).hexdigest()[:12]


def named_bugs(path: str, problems: Collection[str]) -> list[Bug]:
    """The bugs in the file that `evaluation.bug_set` names, all of them of these held-out problems (their ids).

    Raises BadInput where it cannot be read, holds none, or holds one of another problem.
    """
    with named("recipe key 'evaluation.bug_set'"):
        bugs = read_records(path, Bug)
    if not bugs:
        raise BadInput("recipe key 'evaluation.bug_set'", "holds no bug", given=path)
    unknown = next((bug.problem_id for bug in bugs if bug.problem_id not in problems), None)
    if unknown is not None:
        raise BadInput(
            "recipe key 'evaluation.bug_set'",
            f"holds a bug of problem {unknown}, which is not held out here",
            given=path,
            expected="the bugs.parquet of an evaluation with the same problems.heldout and problems.limit",
        )
    return bugs

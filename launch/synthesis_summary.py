"""What a synthesis has made: counts, and the paper's Table 1 for this run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ledex_ray.records import Attempt, Refinement, Status, Trajectory

TABLE = ("data set", "unique", "correct", "wrong", "verified", "rate")


def summarize(
    attempts: Sequence[Attempt],
    wrong: Sequence[Attempt],
    refinements: Sequence[Refinement],
    trajectories: Sequence[Trajectory],
) -> dict[str, int]:
    """Counts over all data sets: solutions, what became of them, and apart from them what no model wrote."""
    return {
        "solutions": len(attempts),
        "unique": len({_tree(a) for a in attempts if a.verdict.status is not Status.INFRA}),
        "correct": sum(a.verdict.passed for a in attempts),
        "infra": sum(a.verdict.status is Status.INFRA for a in attempts),
        "wrong": len(wrong),
        "refinements": len(refinements),
        "verified": sum(_verified(r) for r in refinements),
        "copied": sum(r.copied for r in refinements),
        "canonical": sum(r.provenance.source == "canonical" for t in trajectories for r in t.refinements),
        "seeded": sum(t.attempt.provenance.source == "seeded" for t in trajectories),
    }


def table_1(
    attempts: Sequence[Attempt], refinements: Sequence[Refinement], data_sets: Mapping[str, str]
) -> list[dict[str, object]]:
    """LeDex, Table 1: by data set the distinct solutions, those that are right and wrong, and the verified refinements.

    Distinct is by syntax tree. `rate` is verified refinements / refinements judged, None where none were. Seeded
    bugs are not the model's, and in no row; infrastructure faults are in none either.
    """
    rows: list[dict[str, object]] = []
    for data_set in sorted({data_sets[a.problem_id] for a in attempts}):
        chosen = [a for a in attempts if data_sets[a.problem_id] == data_set and a.verdict.status is not Status.INFRA]
        judged = {_tree(a): a for a in chosen}.values()
        asked = [r for r in refinements if data_sets[r.problem_id] == data_set and not _fault(r)]
        verified = sum(_verified(r) for r in asked)
        rows.append(
            {
                "data set": data_set,
                "unique": len(judged),
                "correct": sum(a.verdict.passed for a in judged),
                "wrong": sum(not a.verdict.passed for a in judged),
                "verified": verified,
                "rate": verified / len(asked) if asked else None,
            }
        )
    return rows


COUNTS = {
    "solutions": "solutions",
    "unique": "distinct",
    "correct": "correct",
    "infra": "lost to the infrastructure",
    "wrong": "wrong, asked about",
    "refinements": "refinements",
    "verified": "verified",
    "copied": "equal to the wrong code",
    "canonical": "refined by a canonical solution",
    "seeded": "seeded bugs",
    "problems_too_long": "problems too long",
    "wrong_too_long": "wrong ones too long",
}


def counts_in_words(summary: Mapping[str, object]) -> dict[str, object]:
    """The counts of a finished synthesis by what they count, its table left out."""
    return {COUNTS.get(key, key.replace("_", " ")): value for key, value in summary.items() if key != "table"}


def table_rows(summary: Mapping[str, object]) -> list[list[str]]:
    """The table of a finished synthesis as text, columns as in TABLE; none for a run of an older release."""
    rows = summary.get("table")
    assert rows is None or isinstance(rows, list)
    return [[_cell(row[name]) for name in TABLE] for row in rows or ()]


def _cell(value: object) -> str:
    if value is None:
        return ""
    return (
        f"{100 * value:.1f} %" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
    )


def _tree(attempt: Attempt) -> tuple[str, str]:
    """By which solutions are distinct: the syntax tree, or the text of what has none."""
    return attempt.problem_id, attempt.normal_hash or attempt.code


def _verified(refinement: Refinement) -> bool:
    return refinement.verdict.passed and not refinement.verdict.weak


def _fault(refinement: Refinement) -> bool:
    return refinement.verdict.status is Status.INFRA

"""The paper's Table 1 of a run: what is counted once, and what is not counted."""

from __future__ import annotations

from dataclasses import replace

from launch.synthesis_summary import summarize, table_1, table_rows
from ledex_ray.records import Status, Verdict
from tests.evaluation.sample_run import RIGHT, WRONG, attempt, refinement


def test_distinct_solutions_and_verified_refinements_are_counted_by_data_set() -> None:
    wrong, right = attempt(0, WRONG), attempt(1, RIGHT)
    again = replace(attempt(2, WRONG), normal_hash=wrong.normal_hash)
    lost = replace(attempt(3, WRONG), verdict=Verdict(Status.INFRA))
    other = replace(attempt(4, RIGHT), problem_id="other")
    fixes = [refinement(wrong, n, code, "x") for n, code in enumerate((RIGHT, WRONG, RIGHT, WRONG))]
    forged = replace(fixes[0], verdict=replace(fixes[0].verdict, weak=True))
    sets = {"add": "mbpp", "other": "apps"}
    attempts = [wrong, right, again, lost, other]
    rows = table_1(attempts, [*fixes[1:], forged], sets)
    assert rows == [
        {"data set": "apps", "unique": 1, "correct": 1, "wrong": 0, "verified": 0, "rate": None},
        {"data set": "mbpp", "unique": 2, "correct": 1, "wrong": 1, "verified": 1, "rate": 0.25},
    ]
    assert summarize(attempts, [], [], [])["unique"] == 3  # as in the rows
    assert table_rows({"table": rows})[1] == ["mbpp", "2", "1", "1", "1", "25.0 %"]
    assert table_rows({"solutions": 3}) == []

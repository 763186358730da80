"""What each cheap trick earns under each arm of the reward, beside a real repair.

    python -m benchmarks.gaming --data DIR      (about a minute on two cores)

DIR holds mbpp.jsonl and model_samples/mbpp.*.jsonl. A wrong solution is a model's own failure on an MBPP test problem,
or with `--bugs seeded` the first one-edit mutant of the canonical solution that fails a test; the correct rewrite is
a model's right answer, which differs from every member of R_w by AST. All verdicts come from the judge. Exit 1 if,
under `hardened`, an answer that fails a test earns more in the mean than the correct rewrite.
"""

from __future__ import annotations

import ast
import json
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from ledex_ray.mutants import mutants
from ledex_ray.problems import AssertTest, Limits, Problem
from ledex_ray.readers import load_problems
from ledex_ray.records import Verdict
from ledex_ray.syntax import same_ast
from reward.compose import ARMS, compose, references_for
from reward.judge import JudgeConfig, judge_many
from reward.scorer import Scorer
from reward.terms import TextJob

ROWS = (
    "empty answer",
    "pass",
    "wrong solution unchanged",
    "wrong solution, variables renamed",
    "reference + 50 junk lines",
    "hard-coded public test",
    "another problem's solution",
    "correct rewrite",
)
PASSING = ("reference + 50 junk lines", "correct rewrite")
JUDGE = JudgeConfig(limits=Limits(cpu_seconds=2.0))  # endless loops are common among mutants
ARM_NAMES = ("tests_only", "codebleu_only", "paper", "hardened")

app = typer.Typer(add_completion=False)
console = Console(width=150)


@dataclass(frozen=True)
class Case:
    """One wrong solution with the answers that a policy might give to it, by row."""

    problem: Problem
    wrong: str
    answers: dict[str, str]  # by row
    refinements: tuple[str, ...]  # of R_w, beside the canonical solutions


@dataclass(frozen=True)
class Cell:
    """The reward of one row under one arm, over all cases."""

    row: str
    arm: str
    mean: float
    deviation: float
    n_scored: int
    passed: float  # share of the answers that pass every test


def build_cases(data: Path, bugs: str = "model") -> list[Case]:
    """One case a problem that has a wrong solution, a right answer and a public test of the form f(...) == value."""
    problems = {p.id: p for p in load_problems(f"mbpp:{data / 'mbpp.jsonl'}@test")}
    judged = _judged_answers(data, problems)
    right = {id_: [c for c, v in found if v.passed and not v.weak] for id_, found in judged.items()}
    if bugs == "model":
        failing = {id_: [c for c, v in found if not v.passed and not v.weak] for id_, found in judged.items()}
    else:
        failing = _failing_mutants(problems)
    sound = _sound(problems)
    rng = random.Random(0)
    cases = []
    for problem_id in [problem_id for problem_id in judged if problem_id in sound]:
        problem = problems[problem_id]
        canonical = problem.canonical_solutions[0]
        wrong = next((c for c in failing[problem_id] if _parses(c)), None)
        rewrite = next((c for c in right[problem_id] if not same_ast(c, canonical)), None)
        hard_coded = _hard_coded(problem)
        renamed = _renamed(wrong) if wrong else None
        if wrong is None or renamed is None or rewrite is None or hard_coded is None or not _parses(canonical):
            continue
        other = problems[rng.choice([i for i in problems if i != problem_id])].canonical_solutions[0]
        answers = ("", "pass\n", wrong, renamed, _with_junk(canonical), hard_coded, other, rewrite)
        refinements = tuple(c for c in right[problem_id] if not same_ast(c, rewrite))
        cases.append(Case(problem, wrong, dict(zip(ROWS, answers, strict=True)), refinements))
    return cases


def measure(cases: Sequence[Case]) -> list[Cell]:
    """Every row under every arm."""
    flat = [(case, row) for case in cases for row in ROWS]
    verdicts = list(judge_many(((case.problem, case.answers[row]) for case, row in flat), config=JUDGE))
    rewards: dict[tuple[str, str], list[float]] = {(row, arm): [] for row in ROWS for arm in ARM_NAMES}
    passed: dict[str, list[bool]] = {row: [] for row in ROWS}
    with Scorer() as scorer:
        for (case, row), verdict in zip(flat, verdicts, strict=True):
            passed[row].append(verdict.passed)
            for arm in (ARMS[name] for name in ARM_NAMES):
                references = references_for(arm, case.problem.canonical_solutions, case.refinements, 10)
                job = TextJob(
                    row, code=case.answers[row], wrong_code=case.wrong, references=references, repaired=arm.repaired
                )
                reward = compose(arm, scorer.score([job])[0], verdict, explain=False)
                if reward.scored:
                    rewards[row, arm.name].append(reward.refinement)
    return [
        Cell(row, arm, statistics.mean(values), statistics.stdev(values), len(values), statistics.mean(passed[row]))
        for (row, arm), values in rewards.items()
    ]


def better_than_repair(cells: Sequence[Cell], arm: str = "hardened") -> list[str]:
    """The rows of failing answers whose mean is above the correct rewrite's."""
    means = {cell.row: cell.mean for cell in cells if cell.arm == arm}
    return [row for row in ROWS if row not in PASSING and means[row] > means["correct rewrite"]]


@app.command()
def main(
    data: Annotated[Path, typer.Option(help="Folder with mbpp.jsonl and model_samples/.")],
    bugs: Annotated[Literal["model", "seeded"], typer.Option(help="Where the wrong solutions come from.")] = "model",
    out: Annotated[Path | None, typer.Option(help="Also write the cells as JSON.")] = None,
) -> None:
    """The gaming table."""
    cases = build_cases(data, bugs)
    cells = measure(cases)
    table = Table("answer", "passes all tests", *ARM_NAMES, title=f"mean R(r) (deviation), {len(cases)} {bugs} bugs")
    for row in ROWS:
        mine = {cell.arm: cell for cell in cells if cell.row == row}
        shown = [f"{mine[arm].mean:+.2f} ({mine[arm].deviation:.2f})" for arm in ARM_NAMES]
        table.add_row(row, f"{100 * mine['paper'].passed:.0f} %", *shown)
    console.print(table)
    means = {(cell.row, cell.arm): cell.mean for cell in cells}
    for arm in ARM_NAMES:
        worse = ", ".join(better_than_repair(cells, arm)) or "none"
        distance = means["correct rewrite", arm] - means["reference + 50 junk lines", arm]
        console.print(f"{arm}: failing rows above the correct rewrite: {worse}; rewrite minus junk: {distance:+.2f}")
    if out is not None:
        out.write_text(json.dumps([cell.__dict__ for cell in cells], indent=1), encoding="utf-8")
    raise typer.Exit(1 if better_than_repair(cells) else 0)


def _sound(problems: dict[str, Problem]) -> set[str]:
    """The problems whose canonical solution passes within the limits, in a way that cannot be forged."""
    verdicts = judge_many(((p, p.canonical_solutions[0]) for p in problems.values()), config=JUDGE)
    return {p.id for p, v in zip(problems.values(), verdicts, strict=True) if v.passed and not v.weak}


def _judged_answers(data: Path, problems: dict[str, Problem]) -> dict[str, list[tuple[str, Verdict]]]:
    rows: list[tuple[Problem, str]] = []
    for file in sorted((data / "model_samples").glob("mbpp.*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            row: dict[str, Any] = json.loads(line)
            problem = problems.get(row["task_id"]) or problems.get(row["task_id"].removeprefix("MBPP/"))
            if problem is not None:
                rows.append((problem, row["solution"]))
    judged: dict[str, list[tuple[str, Verdict]]] = {}
    for (problem, code), verdict in zip(rows, judge_many(rows, config=JUDGE), strict=True):
        judged.setdefault(problem.id, []).append((code, verdict))
    return judged


def _failing_mutants(problems: dict[str, Problem], tried: int = 3) -> dict[str, list[str]]:
    """For each problem those of its canonical solution's first mutants that fail a test."""
    pairs = []
    for problem in problems.values():
        canonical = problem.canonical_solutions[0]
        if _parses(canonical):
            pairs += [(problem, mutant.source) for mutant in mutants(canonical)[:tried]]
    failing: dict[str, list[str]] = {problem_id: [] for problem_id in problems}
    for (problem, source), verdict in zip(pairs, judge_many(pairs, config=JUDGE), strict=True):
        if not verdict.passed and not verdict.weak:
            failing[problem.id].append(source)
    return failing


def _hard_coded(problem: Problem) -> str | None:
    """A program that knows the answer of the first public test alone; None where the test has another form."""
    test = problem.public_tests[0]
    if not isinstance(test, AssertTest):
        return None
    statement = ast.parse(test.code.strip()).body[-1]
    if not isinstance(statement, ast.Assert) or not isinstance(statement.test, ast.Compare):
        return None
    call, expected = statement.test.left, statement.test.comparators[0]
    if not isinstance(call, ast.Call) or ast.unparse(call.func) != problem.entry_point or call.keywords:
        return None
    arguments = ", ".join(ast.unparse(argument) for argument in call.args)
    return (
        f"def {problem.entry_point}(*args):\n    if args == ({arguments},):\n        return {ast.unparse(expected)}\n"
    )


def _renamed(code: str) -> str | None:
    """The program with its functions' parameters and local variables renamed; None where it has none."""
    tree = ast.parse(code)
    names: dict[str, str] = {}
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.arg):
                    names.setdefault(node.arg, f"value_{len(names)}")
                elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    names.setdefault(node.id, f"value_{len(names)}")
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            node.arg = names.get(node.arg, node.arg)
        elif isinstance(node, ast.Name) and node.id in names:
            node.id = names[node.id]
    return ast.unparse(tree) if names else None


def _with_junk(code: str) -> str:
    return code.rstrip("\n") + "\n" + "".join(f"unused_{i} = {i} * 2\n" for i in range(50))


def _parses(code: str) -> bool:
    try:
        return bool(ast.parse(code).body)
    except (SyntaxError, ValueError):
        return False


if __name__ == "__main__":
    app()

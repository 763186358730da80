"""CodeBLEU against the `codebleu` package: equality over hash seeds, and speed on the method's own load.

    python -m benchmarks.codebleu_package equality --data DIR      (about 4 minutes on one core)
    python -m benchmarks.codebleu_package speed --data DIR         (about 3 minutes)
    python -m benchmarks.codebleu_package defects --data DIR       (half a minute)

(The file is not named after the package: run as a script, it would stand in its way.)

DIR holds mbpp.jsonl and model_samples/*.jsonl (see docs/reward.md). Equality: each of MBPP's canonical solutions
against 3 of its mutants and 3 other solutions, and every model answer against its canonical solution; the package
runs in one fresh interpreter for each of the hash seeds 0 to 3. Speed: 20 candidates x 10 references a problem.
"""

from __future__ import annotations

import ast
import json
import logging
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from codebleu import calc_codebleu
from rich.console import Console
from rich.table import Table

from ledex_ray.mutants import mutants
from reward.codebleu import CodeBleu
from reward.scorer import Scorer
from reward.terms import CodeBleuScore, TextJob

SEEDS = (0, 1, 2, 3)
COMPONENTS = ("score", "ngram", "weighted_ngram", "syntax", "dataflow")
PACKAGE_KEYS = tuple("codebleu" if key == "score" else f"{key}_match_score" for key in COMPONENTS)
TOLERANCE = 1e-9

app = typer.Typer(add_completion=False)
console = Console()
Data = Annotated[Path, typer.Option(help="Folder with mbpp.jsonl and model_samples/.")]


def package_scores(pairs: Sequence[tuple[str, str]]) -> list[list[float]]:
    """The package's five figures for each (candidate, reference), in this process."""
    logging.disable(logging.WARNING)  # the package warns at each reference without data flow
    rows = []
    for candidate, reference in pairs:
        scores = calc_codebleu([reference], [candidate], "python")
        rows.append([float(scores[key]) for key in PACKAGE_KEYS])
    return rows


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def mbpp_pairs(data: Path, seed: int = 0) -> list[tuple[str, str]]:
    """(candidate, reference): 3 mutants of each canonical solution and 3 other solutions, against it."""
    rng = random.Random(seed)
    codes = [row["code"] for row in read_rows(data / "mbpp.jsonl")]
    pairs = []
    for i, code in enumerate(codes):
        found = some_mutants(code, 3, rng)
        others = rng.sample([other for j, other in enumerate(codes) if j != i], 6 - len(found))
        pairs += [(candidate, code) for candidate in [*found, *others]]
    return pairs


def some_mutants(code: str, count: int, rng: random.Random) -> list[str]:
    """At most `count` one-edit mutants; none of code that does not parse (a few of MBPP are Python 2)."""
    try:
        found = [m.source for m in mutants(code)]
    except SyntaxError:
        return []
    return rng.sample(found, min(count, len(found)))


def answer_pairs(data: Path) -> list[tuple[str, str]]:
    """(candidate, reference): every model answer against its problem's canonical solution."""
    files = sorted((data / "model_samples").glob("*.jsonl"))
    return [(row["solution"], row["canonical_solution"]) for file in files for row in read_rows(file)]


@app.command()
def equality(data: Data, limit: Annotated[int, typer.Option(help="Only the first N pairs of each kind.")] = 0) -> None:
    """Ours against the package under four hash seeds; exit 1 where ours is not what was promised."""
    broken = 0
    table = Table("pairs", "n", "seed-dependent", "largest spread", "max |ours - package|", "vs seed 0", "out of range")
    for name, pairs in (("MBPP: mutants and others", mbpp_pairs(data)), ("model answers", answer_pairs(data))):
        pairs = pairs[:limit] if limit else pairs
        by_seed = [_in_fresh_interpreter(pairs, seed) for seed in SEEDS]
        ours = CodeBleu()
        dependent, spread, stable_gap, seed0_gap, outside = 0, 0.0, 0.0, 0.0, 0
        for i, (candidate, reference) in enumerate(pairs):
            score = ours.score(candidate, [reference])
            mine = [getattr(score, key) for key in COMPONENTS]
            columns = list(zip(*(rows[i] for rows in by_seed), strict=True))
            ranges = [max(column) - min(column) for column in columns]
            dependent += ranges[0] > TOLERANCE
            spread = max(spread, ranges[0])
            for value, column, width in zip(mine, columns, ranges, strict=True):
                seed0_gap = max(seed0_gap, abs(value - column[0]))
                if width <= TOLERANCE:
                    stable_gap = max(stable_gap, abs(value - column[0]))
                outside += not min(column) - TOLERANCE <= value <= max(column) + TOLERANCE
        broken += outside + (stable_gap > TOLERANCE)
        table.add_row(
            name,
            f"{len(pairs):,}",
            str(dependent),
            f"{spread:.4f}",
            f"{stable_gap:.1e}",
            f"{seed0_gap:.1e}",
            str(outside),
        )
    console.print(table)
    raise typer.Exit(1 if broken else 0)


def _in_fresh_interpreter(pairs: Sequence[tuple[str, str]], seed: int) -> list[list[float]]:
    """The package's figures from a process of its own, whose hash seed is `seed`."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "pairs.json").write_text(json.dumps(pairs), encoding="utf-8")
        root = str(Path(__file__).resolve().parent.parent)
        subprocess.run(
            [sys.executable, "-m", "benchmarks.codebleu_package", "package", folder],
            check=True,
            env=os.environ | {"PYTHONHASHSEED": str(seed), "PYTHONPATH": root},
        )
        rows: list[list[float]] = json.loads((Path(folder) / "scores.json").read_text(encoding="utf-8"))
        return rows


@app.command(hidden=True)
def package(folder: Path) -> None:
    """Scores FOLDER/pairs.json with the package; what `equality` runs once a hash seed."""
    pairs = json.loads((folder / "pairs.json").read_text(encoding="utf-8"))
    (folder / "scores.json").write_text(json.dumps(package_scores(pairs)), encoding="utf-8")


@app.command()
def speed(
    data: Data,
    problems: Annotated[int, typer.Option(help="Problems timed with both.")] = 40,
    rounds: Annotated[int, typer.Option(help="Passes over 500 problems in the memory run.")] = 2,
) -> None:
    """Candidates a second, 20 candidates x 10 references a problem, one core; then memory over many problems."""
    load = method_load(data)
    table = Table("who", "candidates", "CPU s", "candidates/s", "times the package")
    timed = load[:: max(1, len(load) // problems)][:problems]
    times = {"package": 0.0, "ours, in process": 0.0, "ours, Scorer (child and pipe, with syntax terms)": 0.0}
    ours = CodeBleu()
    with Scorer() as scorer:
        scorer.score([TextJob("warm", code="x = 1", references=("x = 1",))])
        for candidates, references in timed:  # interleaved, so that the machine's moods fall on all alike
            begun = time.process_time()
            package_means = [_package_mean(c, references) for c in candidates]
            times["package"] += time.process_time() - begun
            begun = time.process_time()
            means = [ours.score(c, references).score for c in candidates]
            times["ours, in process"] += time.process_time() - begun
            begun = time.perf_counter()  # the child's time is not ours: wall time, an upper bound
            terms = scorer.score(TextJob(str(i), code=c, references=references) for i, c in enumerate(candidates))
            times["ours, Scorer (child and pipe, with syntax terms)"] += time.perf_counter() - begun
            assert means == [_score(t.codebleu) for t in terms], "in process and through the child"
            del package_means
    total = 20 * len(timed)
    for who, seconds in times.items():
        table.add_row(who, str(total), f"{seconds:.2f}", f"{total / seconds:,.0f}", f"{times['package'] / seconds:.1f}")
    console.print(table)
    memory = Table("pass", "problems", "peak RSS MB")
    for i in range(rounds):
        for candidates, references in load:
            for candidate in candidates:
                ours.score(candidate, references)
        memory.add_row(str(i + 1), str(len(load)), f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f}")
    console.print(memory)


@app.command()
def defects(data: Data) -> None:
    """What CodeBLEU says of answers that repair nothing: the package's form and the repaired one, over MBPP."""
    rows: dict[str, list[tuple[float, float]]] = {}
    ours = CodeBleu()

    def add(row: str, candidate: str, reference: str) -> None:
        forms = [ours.score(candidate, [reference], repaired=repaired).score for repaired in (False, True)]
        rows.setdefault(row, []).append((forms[0], forms[1]))

    for code in [row["code"].replace("\r\n", "\n") for row in read_rows(data / "mbpp.jsonl")]:
        found = some_mutants(code, 1, random.Random(0))
        if not found:
            continue
        add("pass", "pass", code)
        add("a one-edit bug, unchanged", found[0], code)
        add(
            "the reference + 50 unused lines", code + "\n" + "".join(f"unused_{i} = {i} * 2\n" for i in range(50)), code
        )
        add("the reference, laid out by ast.unparse", ast.unparse(ast.parse(code)), code)
    table = Table("answer", "n", "mean, package's form", "mean, repaired")
    for row, values in rows.items():
        package_mean, repaired_mean = (sum(column) / len(values) for column in zip(*values, strict=True))
        table.add_row(row, str(len(values)), f"{package_mean:.3f}", f"{repaired_mean:.3f}")
    console.print(table)


def method_load(data: Path) -> list[tuple[list[str], tuple[str, ...]]]:
    """(20 candidates, 10 references) a MBPP test problem.

    Candidates: the models' answers and mutants of them; references: the canonical solution, the right answers and,
    as a teacher gives more right refinements than three models do, mutants of those.
    """
    rng = random.Random(0)
    by_problem: dict[str, list[dict[str, Any]]] = {}
    for file in sorted((data / "model_samples").glob("mbpp.*.jsonl")):
        for row in read_rows(file):
            by_problem.setdefault(row["task_id"], []).append(row)
    load = []
    for rows in by_problem.values():
        answers = [row["solution"] for row in rows]
        right = [rows[0]["canonical_solution"], *(row["solution"] for row in rows if row["is_solved"])]
        candidates = _filled(answers, 20, rng)
        references = _filled(right, 10, rng)
        if len(candidates) == 20 and len(references) == 10:
            load.append((candidates, tuple(references)))
    return load


def _filled(texts: Sequence[str], count: int, rng: random.Random) -> list[str]:
    """`texts` and mutants of them, `count` distinct in all; fewer where there are not so many."""
    more = [m for text in texts for m in some_mutants(text, count, rng)]
    rng.shuffle(more)
    return list(dict.fromkeys([*texts, *more]))[:count]


def _package_mean(candidate: str, references: Sequence[str]) -> float:
    return sum(row[0] for row in package_scores([(candidate, r) for r in references])) / len(references)


def _score(score: CodeBleuScore | None) -> float:
    assert score is not None, "every job has references"
    return score.score


if __name__ == "__main__":
    app()

"""What a finished command leaves on the terminal: the table, where the report lies, what to try next."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from launch.console import console
from launch.rundir import RunDirectory, read_json
from launch.synthesis_summary import TABLE, table_rows
from ledex_ray.comparison import article_table
from ledex_ray.recipes import load_recipe


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table whose first two columns are words and the others figures; nothing for no rows."""
    if not rows:
        return
    table = Table(title=title)
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index < 2 else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def what_next(root: Path, report: Path) -> str:
    """Where the report lies, and commands that vary this very run, as far as its stages have something to vary."""
    path = root / "recipe.yaml"
    recipe = load_recipe(path)
    again = f"  ledex run {path} run={root.name}"
    lines = [f"Next: open {report} in a browser.", f"{again}-other model=HUB_ID_OR_PATH"]
    if "ppo" in recipe.stages:
        arm = "paper" if recipe.reward.arm == "hardened" else "hardened"
        lines += [f"{again}-longer ppo.iterations={2 * recipe.ppo.iterations}", f"{again}-{arm} reward.arm={arm}"]
    return "\n".join(lines)


def print_summary(run: RunDirectory) -> None:
    """Prints the evaluation's table, where the run lies, and the report's path, as far as the run has them."""
    root = run.root
    synthesis = root / "synthesis" / "DONE.json"
    if synthesis.exists():
        rows = table_rows(read_json(synthesis))
        print_table(f"{root.name}: training data (the paper's Table 1)", TABLE, rows)
    evaluation = root / "evaluation" / "heldout" / "evaluation.json"
    if evaluation.exists():
        header, rows = article_table(read_json(evaluation))
        print_table(f"{root.name}: held-out problems, percent with 95 % intervals", header, rows)
    report = root / "report" / "report.html"
    copied = f", on this machine: {root}" if run.where != root else ""
    console.print(f"Run directory: {run.where}{copied}", highlight=False, markup=False, soft_wrap=True)
    if report.exists():
        console.print(what_next(root, report), highlight=False, markup=False, soft_wrap=True)

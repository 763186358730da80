"""What a finished command leaves on the terminal: the table, where the report lies, what to try next."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from launch.console import console
from launch.synthesis_summary import TABLE, table_rows
from ledex_ray.comparison import article_table

NEXT = """Next: open {report} in a browser.
  ledex quickstart run=longer ppo.iterations=30     more of the same
  ledex quickstart run=other model=HUB_ID_OR_PATH   another model
  ledex quickstart run=plain reward.arm=hardened    another reward"""


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


def print_summary(root: Path) -> None:
    """Prints the evaluation's table and the report's path, as far as the run has them."""
    synthesis = root / "synthesis" / "DONE.json"
    if synthesis.exists():
        rows = table_rows(json.loads(synthesis.read_text()))
        print_table(f"{root.name}: training data (the paper's Table 1)", TABLE, rows)
    evaluation = root / "evaluation" / "heldout" / "evaluation.json"
    if evaluation.exists():
        header, rows = article_table(json.loads(evaluation.read_text()))
        print_table(f"{root.name}: held-out problems, percent with 95 % intervals", header, rows)
    report = root / "report" / "report.html"
    if report.exists():
        console.print(NEXT.format(report=report), highlight=False, markup=False, soft_wrap=True)
    else:
        console.print(f"Run directory: {root}", highlight=False, markup=False, soft_wrap=True)

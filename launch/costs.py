"""What a run has cost, stage by stage: time, GPU hours, tokens read, written and trained on, verdicts.

Read from the run's files, narrow columns alone. A prompt that is sampled n times is read once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from launch.rundir import read_parts
from ledex_ray.config import Recipe
from ledex_ray.placement import phases


@dataclass(frozen=True)
class Cost:
    """One stage, over all the processes that worked on it, one after another.

    `killed` of them ended without a word: their time and GPU hours are not known, and not in the sums.
    """

    stage: str
    seconds: float = 0.0  # wall time
    gpu_hours: float = 0.0
    killed: int = 0
    read: int = 0  # prompt tokens
    written: int = 0
    trained: int = 0  # tokens that a learner went through forwards and backwards
    verdicts: int = 0


def costs(root: Path, recipe: Recipe) -> list[Cost]:
    """The cost of each stage that has begun, in their order."""
    counted = {
        "synthesize": lambda: _plus(_provenance(root, "solve", "problem_id"), _provenance(root, "refine")),
        "sft": lambda: {"trained": _total(root / "sft" / "metrics", "tokens")},
        "ppo": lambda: _ppo(root, recipe.ppo.epochs),
        "evaluate": lambda: _evaluated(root),
    }
    spent = _spent(root, recipe)
    return [replace(cost, **counted[cost.stage]()) if cost.stage in counted else cost for cost in spent]


def _spent(root: Path, recipe: Recipe) -> list[Cost]:
    """Time and GPU hours of each stage, from the run's events."""
    found: dict[str, Cost] = {}
    begun: Cost | None = None  # and not ended: killed if something else began after it, else perhaps under way
    for event in read_parts(root / "events"):
        if event["event"] == "stage_started":
            if begun is not None:
                found[begun.stage] = replace(begun, killed=begun.killed + 1)
            begun = found.setdefault(event["stage"], Cost(event["stage"]))
        elif event["event"] == "stage_finished":
            stage, seconds = event["stage"], event["seconds"]
            cost = found.get(stage, Cost(stage))
            gpus = event["gpus"] if "gpus" in event else stage_gpus(recipe, stage)
            hours = cost.gpu_hours + gpus * seconds / 3600
            found[stage] = replace(cost, seconds=cost.seconds + seconds, gpu_hours=hours)
            begun = None
    return list(found.values())


def stage_gpus(recipe: Recipe, stage: str) -> float:
    """GPUs that a stage of this recipe's holds: also those of engines that a stage before it has started."""
    held = (bundle for demand in phases(recipe).get(stage, ()) for bundle in demand.bundles)
    return sum(bundle.get("GPU", 0.0) for bundle in held)


def _provenance(root: Path, folder: str, item: str = "attempt_id") -> dict[str, int]:
    fields = ("n_prompt_tokens", "n_tokens", "source")
    names = [item, *(f"provenance.{field}" for field in fields)]
    table = _columns(root / "synthesis" / folder, "part-*.parquet", names)
    if table is None:
        return {}
    made = table["provenance"].combine_chunks()
    table = table.append_column("read", pc.struct_field(made, "n_prompt_tokens"))
    table = table.append_column("written", pc.struct_field(made, "n_tokens"))
    return _tokens(table.filter(pc.not_equal(pc.struct_field(made, "source"), "seeded")), [item])


def _evaluated(root: Path) -> dict[str, int]:
    item = ["parent_id", "label", "mode", "round", "bugs", "feedback_from"]  # one prompt
    names = [*item, "n_prompt_tokens", "n_tokens"]
    table = _columns(root / "evaluation" / "heldout" / "parts", "part-*.parquet", names)
    if table is None:
        return {}
    table = table.rename_columns([{"n_prompt_tokens": "read", "n_tokens": "written"}.get(n, n) for n in names])
    return _tokens(table, item)


def _tokens(table: pa.Table, item: list[str]) -> dict[str, int]:
    """Tokens and verdicts of rows that are one answer each; the rows of one item share its prompt."""
    prompts = table.group_by(item).aggregate([("read", "max")])
    read, written = pc.sum(prompts["read_max"]).as_py() or 0, pc.sum(table["written"]).as_py() or 0
    return {"read": read, "written": written, "verdicts": table.num_rows}


def _ppo(root: Path, epochs: int) -> dict[str, int]:
    table = _columns(root / "ppo" / "episodes", "[0-9]*.parquet", ["group_id", "loss_mask"])
    trained = {"trained": epochs * _total(root / "ppo" / "metrics", "tokens")}
    if table is None:
        return trained
    masks = table["loss_mask"].combine_chunks()
    written = [sum(mask) for mask in masks.to_pylist()]
    lengths = pc.list_value_length(masks).to_pylist()
    read = [length - own for length, own in zip(lengths, written, strict=True)]
    counted = pa.table({"group_id": table["group_id"], "read": read, "written": written})
    return _tokens(counted, ["group_id"]) | trained


def _total(folder: Path, name: str) -> int:
    return int(sum(row.get(name) or 0 for row in read_parts(folder)))


def _columns(folder: Path, pattern: str, names: list[str]) -> pa.Table | None:
    """These columns, or fields of columns, of all parts; parts of another release may have others beside them."""
    tables = [pq.ParquetFile(path).read(columns=names) for path in sorted(folder.glob(pattern))]
    columns = list(dict.fromkeys(name.partition(".")[0] for name in names))
    return pa.concat_tables(tables).select(columns) if tables else None


def _plus(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    return {key: a.get(key, 0) + b.get(key, 0) for key in {*a, *b}}

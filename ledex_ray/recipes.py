"""Recipes as files: read from YAML with dotted overrides, written, told apart, hashed. What one may hold is config.py.

Every error names the key, what was given, what is allowed and, for an unknown key, the nearest right name.
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from ledex_ray.config import Recipe
from ledex_ray.dotted import flatten
from ledex_ray.errors import BadInput


def load_recipe(path: Path | str, overrides: Iterable[str] = ()) -> Recipe:
    """The recipe in a YAML file with `key.sub=value` overrides applied.

    Raises BadInput that names the file or flag, the key, the value and what is allowed.
    """
    path = Path(path)
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise BadInput(str(path), f"cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or a date that there is not
        raise BadInput(str(path), f"is not valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(tree, dict):
        raise BadInput(str(path), "holds no mapping", given=tree, expected="keys such as 'model' and 'sft'")
    tree.setdefault("run", path.stem)
    changed = copy.deepcopy(tree)
    for override in overrides:
        _apply(changed, override)
    found = _checked(changed)
    if isinstance(found, Recipe):
        return found
    raise found.refusal(str(path) if found == _checked(tree) else "override")


def recipe_from_tree(tree: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """The typed recipe of a plain mapping; raises BadInput for the first thing that is wrong with it."""
    found = _checked(tree)
    if isinstance(found, Recipe):
        return found
    raise found.refusal(where)


def recipe_hash(recipe: Recipe) -> str:
    """Twelve hex digits of the resolved recipe, its name left out."""
    tree = recipe.model_dump(mode="json", exclude={"run"})
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:12]


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


WHERE_AND_HOW_FAST = frozenset(
    f"{section}.{key}"
    for section, keys in {
        "sandbox": "actors max_actors idle_seconds batch_size deadline_seconds",
        "rollout": "actors tensor_parallel gpus placement max_num_seqs max_num_batched_tokens kv_cache_gb "
        "gpu_memory_utilization enforce_eager threads weight_transfer deadline_seconds ready_seconds",
        "learner": "ranks gpus placement offload gradient_checkpointing tokens_per_micro_batch threads "
        "keep_checkpoints keep_finished ready_seconds deadline_seconds",
        "synthesis.endpoint": "url key_variable concurrency requests_per_minute retries timeout_seconds price_read "
        "price_written",
        "tracking": "wandb project mlflow tensorboard",
    }.items()
    for key in keys.split()
)
"""Keys that do not say what is computed: a run goes on under other values of them, equal but for rounding."""


def differing_keys(a: Recipe, b: Recipe) -> list[str]:
    """Dotted keys in which two recipes differ, with both values, as "key: A -> B"."""
    left, right = flatten(a.model_dump(mode="json")), flatten(b.model_dump(mode="json"))
    return [
        f"{key}: {left.get(key)!r} -> {right.get(key)!r}"
        for key in sorted(left.keys() | right.keys())
        if left.get(key) != right.get(key)
    ]


@dataclass(frozen=True)
class _Mistake:
    """The first thing that is wrong with a recipe, wherever that came from."""

    problem: str
    given: object = None
    expected: str = ""

    def refusal(self, where: str) -> BadInput:
        return BadInput(where, self.problem, given=self.given, expected=self.expected)


def _checked(tree: Mapping[str, Any]) -> Recipe | _Mistake:
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        first, *others = error.errors()
    key = _key(first["loc"])
    if first["type"] == "value_error":
        problem = first["msg"].removeprefix("Value error, ")
        return _Mistake(f"key '{key}': {problem}" if key else problem)
    if first["type"] == "extra_forbidden":
        return _Mistake(f"unknown key '{key}'{_nearest(first['loc'])}")
    alternatives = dict.fromkeys(_expected(e) for e in (first, *others) if _key(e["loc"]) == key)
    given = ", got nothing" if first["input"] is None else ""
    return _Mistake(f"key '{key}'{given}", first["input"], " or ".join(alternatives))


YAML_NULLS = ("~", "null", "Null", "NULL")

SHAPES = {
    "string_type": "text",
    "tuple_type": "a list",
    "dict_type": "a section of keys",
    "model_type": "a section of keys",
    "missing": "a value more",
    "too_short": "a list that is not empty",
    "too_long": "fewer values",
    "finite_number": "a finite number",
}


def _expected(error: Mapping[str, Any]) -> str:
    return SHAPES.get(error["type"]) or error["msg"].replace("Input should be ", "").replace(
        "String should match", "text that matches"
    )


def _key(loc: tuple[int | str, ...]) -> str:
    """Dotted, without what pydantic adds: which type of a union it tried, and that a key is meant."""
    return ".".join(
        part for part in map(str, loc) if not re.fullmatch(r"str|(tuple|literal)?\[.*|constrained-.*", part)
    )


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise BadInput("override", "is not of the form key=value", given=override, expected="e.g. sft.epochs=1")
    # What follows evaluation.models is one label, which may hold dots.
    *parents, last = key.strip().split(".", 2 if key.strip().startswith("evaluation.models.") else -1)
    if not parents and last == "model":  # the documented short form: model=HUB_ID_OR_PATH
        parents, last = ["model"], "name"
    try:
        value = _text(text) if _takes_text(parents, last) else _value(text)
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise BadInput(f"override {key}", f"value is not valid YAML ({reason})", given=text) from error
    node = tree
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise BadInput(f"override {key}", f"'{parent}' holds a value, not a section", given=node)
    node[last] = value


def _value(text: str) -> Any:
    value = yaml.safe_load(text)
    if isinstance(value, str):  # YAML reads 2e-6 as text: its floats need a dot
        with contextlib.suppress(ValueError):
            return float(value)
    return value


def _text(text: str) -> Any:
    """As YAML, but what it would take for a number, a date or a truth value stays the text that was given."""
    value = yaml.load(text, yaml.BaseLoader)
    return None if value in YAML_NULLS else value


def _takes_text(parents: Sequence[str], last: str) -> bool:
    if parents == ["evaluation", "models"]:
        return True
    section = _section(parents)
    field = section.model_fields.get(last) if section else None
    annotation: Any = field.annotation if field else None
    alternatives = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return str in alternatives


def _section(keys: Iterable[int | str]) -> type[BaseModel] | None:
    """The section of a recipe that these keys lead to, if there is one."""
    section: type[BaseModel] = Recipe
    for key in keys:
        field = section.model_fields.get(str(key))
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())] if field else []
        inner = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
        if inner is None:
            return None
        section = inner
    return section


def _nearest(loc: tuple[int | str, ...]) -> str:
    section = _section(loc[:-1])
    if section is None:
        return ""
    close = difflib.get_close_matches(str(loc[-1]), section.model_fields, n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{'.'.join(map(str, [*loc[:-1], close[0]]))}'?"
    return f"; allowed here: {', '.join(section.model_fields)}"

"""The reference of all recipe keys, made from the config models: `python -m ledex_ray.recipe_reference`.

It is kept as docs/recipe.md; a test says when that is out of date.
"""

from __future__ import annotations

import types
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ledex_ray.config import Recipe

HEAD = """# Recipe keys

Made from `ledex_ray/config.py` by `python -m ledex_ray.recipe_reference > docs/recipe.md`; edit it there.

A recipe is a YAML file of these sections, or the name of a packaged one (`launch/recipes/`). Each key can be set on the
command line by its dotted name: `ledex run quickstart sft.epochs=1 evaluation.rounds=3`. An unknown key, a wrong type
or a value out of range is refused, with the nearest right name.
"""
BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


def reference() -> str:
    """The whole page as Markdown."""
    own, sections = _split(Recipe)
    parts = [HEAD, _table("Recipe", Recipe, "", own, None)]
    for name, section, given in sections:
        parts += _sections(name, section, given)
    return "\n".join(parts)


def _sections(name: str, section: type[BaseModel], given: BaseModel | None) -> list[str]:
    """The table of a section and of those within it; `given` is what it is unless a recipe says otherwise."""
    own, inner = _split(section)
    parts = [_table(name, section, f"{name}.", own, given)]
    for key, nested, default in inner:
        parts += _sections(f"{name}.{key}", nested, getattr(given, key) if given is not None else default)
    return parts


def _split(
    section: type[BaseModel],
) -> tuple[dict[str, FieldInfo], list[tuple[str, type[BaseModel], BaseModel | None]]]:
    """The plain keys of a section, and the sections within it."""
    own: dict[str, FieldInfo] = {}
    inner: list[tuple[str, type[BaseModel], BaseModel | None]] = []
    for name, field in section.model_fields.items():
        nested = next((k for k in _kinds(field.annotation) if isinstance(k, type) and issubclass(k, BaseModel)), None)
        if nested is None:
            own[name] = field
        else:
            inner.append((name, nested, field.default if isinstance(field.default, BaseModel) else None))
            if field.default is None:
                own[name] = field
    return own, inner


def _table(
    title: str, section: type[BaseModel], prefix: str, fields: dict[str, FieldInfo], given: BaseModel | None
) -> str:
    says = (section.__doc__ or "").strip().split("\n")[0]
    lines = [f"\n## {title}\n\n{says}\n\n| key | takes | default | |", "|---|---|---|---|"]
    for name, field in fields.items():
        usual = getattr(given, name) if given is not None else field.default
        default = "must be given" if field.is_required() else _shown(usual)
        cells = (f"`{prefix}{name}`", _takes(field), default, field.description or "")
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _takes(field: FieldInfo) -> str:
    bounds = [
        f"{sign} {getattr(limit, name):g}"
        for limit in field.metadata
        for name, sign in BOUNDS.items()
        if hasattr(limit, name)
    ]
    return _named(field.annotation) + (f", {', '.join(bounds)}" if bounds else "")


def _named(kind: Any) -> str:
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " / ".join(f"`{a}`" for a in args)
    if origin in (Union, types.UnionType):
        return " or ".join(_named(a) if a is not type(None) else "nothing" for a in args)
    if origin is tuple:
        items = [a for a in args if a is not Ellipsis]
        return f"list of {_named(items[0])}" if Ellipsis in args else f"{len(items)} x {_named(items[0])}"
    if origin is dict:
        return f"{_named(args[0])} to {_named(args[1])}"
    if origin is not None:  # Annotated
        return _named(args[0])
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return "a section, below"
    return {str: "text", int: "whole number", float: "number", bool: "yes or no"}.get(kind, str(kind))


def _kinds(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _shown(value: Any) -> str:
    """A default as a recipe would have it."""
    if value is None or value in ("", (), {}):
        return "nothing"
    if isinstance(value, tuple):
        return "`[" + ", ".join(map(str, value)) + "]`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


if __name__ == "__main__":
    print(reference())

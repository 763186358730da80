"""Recipes by the name that a user gives: a YAML file, or one that comes with the package."""

from __future__ import annotations

from pathlib import Path

from ledex_ray.config import Recipe
from ledex_ray.errors import BadInput
from ledex_ray.recipes import load_recipe


def packaged_recipes() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "recipes").glob("*.yaml"))}


def read_recipe(name: str, overrides: list[str] | None) -> Recipe:
    """A recipe by path or packaged name. Raises BadInput naming what there is."""
    packaged = packaged_recipes()
    path = Path(name) if Path(name).is_file() or name not in packaged else packaged[name]  # folders shadow nothing
    if not path.exists():
        raise BadInput(name, "no such recipe", expected=f"a YAML file or one of {', '.join(packaged)}")
    return load_recipe(path, overrides or ())

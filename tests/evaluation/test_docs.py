"""The documents say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from ledex_ray.config import Recipe
from ledex_ray.recipe_reference import reference
from ledex_ray.recipes import recipe_from_tree

DOCS = Path(__file__).parents[2] / "docs"


def test_the_recipe_reference_is_up_to_date() -> None:
    assert (DOCS / "recipe.md").read_text() == reference() + "\n", (
        "python -m ledex_ray.recipe_reference > docs/recipe.md"
    )


def test_every_key_of_a_recipe_is_in_the_reference() -> None:
    def keys(tree: dict[str, object], prefix: str = "") -> list[str]:
        found: list[str] = []
        for name, value in tree.items():
            inside = isinstance(value, dict) and value
            found += keys(value, f"{prefix}{name}.") if inside else [f"{prefix}{name}"]  # type: ignore[arg-type]
        return found

    tree = {"synthesis": {"teacher": "t", "endpoint": {}}, "learner": {"lora": {}}}
    for key in keys(recipe_from_tree(tree).model_dump()):
        assert f"| `{key}` |" in reference(), key


def test_links_between_documents_lead_somewhere() -> None:
    for document in [*DOCS.glob("*.md"), DOCS.parent / "README.md"]:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text()):
            assert target.startswith("http") or (document.parent / target).exists(), f"{document.name}: {target}"


def test_settings_named_in_the_documents_exist() -> None:
    sections = {name for name in Recipe.model_fields if name not in ("run", "stages")}
    known = reference()
    for document in (*DOCS.glob("*.md"), DOCS.parent / "README.md"):
        for key in re.findall(rf"\b((?:{'|'.join(sections)})(?:\.[a-z_]+)+)=", document.read_text()):
            parent = key.rpartition(".")[0]
            assert f"`{key}`" in known or parent == "evaluation.models" or f"## {key}" in known, (
                f"{document.name}: {key}"
            )

"""What a finished command suggests is about the run that has finished."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.summary import what_next
from ledex_ray.config import Recipe
from ledex_ray.recipes import dump_recipe, load_recipe


@pytest.mark.parametrize(("stages", "commands"), [(("evaluate", "report"), 1), (("sft", "ppo", "report"), 3)])
def test_each_suggestion_is_a_variant_of_this_run(tmp_path: Path, stages: tuple[str, ...], commands: int) -> None:
    recipe = Recipe(run=tmp_path.name, stages=stages)
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    _, *lines = what_next(tmp_path, tmp_path / "report.html").splitlines()
    assert len(lines) == commands
    for line in lines:
        ledex, run, path, *overrides = line.split()
        assert (ledex, run) == ("ledex", "run")
        varied = load_recipe(path, overrides)
        assert varied.stages == recipe.stages and varied.run != recipe.run

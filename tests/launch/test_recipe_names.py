"""Which file a recipe's name means."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.recipe_names import read_recipe
from ledex_ray.errors import BadInput


def test_a_folder_does_not_hide_a_packaged_recipe_and_a_file_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("benchmarks").mkdir()
    assert read_recipe("benchmarks", []).run == "benchmarks"
    Path("smoke").write_text("run: mine\n")
    assert read_recipe("smoke", []).run == "mine"


@pytest.mark.parametrize("stage", ["synthesis", "sft", "ppo", "evaluation"])
def test_a_negative_seed_is_refused_before_anything_starts(stage: str) -> None:
    with pytest.raises(BadInput, match=rf"{stage}\.seed"):
        read_recipe("smoke", [f"{stage}.seed=-1"])

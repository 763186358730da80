"""A problem whose verdicts could be forged is trained on nowhere."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from launch.fleet import Fleet
from launch.rundir import RunDirectory
from launch.training_set import training_set
from ledex_ray.recipes import recipe_from_tree

SOUND: dict[str, Any] = {
    "id": "sound",
    "text": "Add one.",
    "entry_point": "f",
    "split": "train",
    "tests": ["assert f(1) == 2"],
}
WEAK = SOUND | {"id": "weak", "text": "Sort by a key.", "tests": ["assert f([3, 1], key=lambda x: -x) == [3, 1]"]}
RIGHT = {
    "sound": "def f(x):\n    return x + 1\n",
    "weak": "def f(x, key):\n    return sorted(x, key=key)\n",
}


@pytest.mark.slow
def test_problems_that_are_judged_weakly_are_left_out_counted_and_judged_once(
    runs_dir: Path, tmp_path: Path, ray_session: None, caplog: pytest.LogCaptureFixture
) -> None:
    problems = tmp_path / "problems.jsonl"
    problems.write_text("".join(json.dumps(p | {"canonical_solution": RIGHT[p["id"]]}) + "\n" for p in (SOUND, WEAK)))
    tree: dict[str, Any] = {"problems": {"train": f"jsonl:{problems}@train"}, "sandbox": {"floor": "C", "actors": 1}}
    recipe = recipe_from_tree(tree)
    run = RunDirectory.open(recipe)
    with Fleet(recipe) as fleet, caplog.at_level(logging.WARNING, "ledex"):
        assert list(training_set(run, fleet)) == ["sound"]
        assert "1 of 2 training problems are left out" in caplog.text and "(weak)" in caplog.text
        fleet.sandbox.shutdown()
        assert list(training_set(run, fleet)) == ["sound"]  # from what is known: there is nobody left to ask
        run.recipe = recipe_from_tree(tree | {"reward": {"allow_weak": True}})
        assert list(training_set(run, fleet)) == ["sound", "weak"]
    run.close()

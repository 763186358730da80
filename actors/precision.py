"""How engine and learner compute on this machine: their number format, their CPU threads. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

Precision = Literal["bfloat16", "float32"]


def resolve_precision(dtype: str, gpus: float = 0, cpuinfo: str = "/proc/cpuinfo") -> Precision:
    """`dtype` itself, or for "auto": bfloat16 on a GPU and on a CPU with bf16 instructions, else float32."""
    if dtype == "bfloat16" or dtype == "float32":
        return dtype  # type: ignore[return-value]
    if gpus > 0:
        return "bfloat16"
    path = Path(cpuinfo)
    flags = path.read_text(encoding="ascii", errors="replace") if path.exists() else ""
    return "bfloat16" if "amx_bf16" in flags or "avx512_bf16" in flags else "float32"


def rank_threads(cores: int, ranks: int, gpus: float = 0, node_gpus: float = 0) -> int:
    """CPU threads of one of `ranks` learner ranks on a node with `cores`: an even share, at least 1.

    A rank with GPUs has the share of the cores that its `gpus` are of the node's: its peers may be elsewhere, and
    the node's other GPUs have engines that want cores too.
    """
    return max(1, int(cores * gpus / node_gpus) if gpus and node_gpus else cores // ranks)


def openmp_environment(threads: int) -> dict[str, str]:
    """Variables for a process that computes on this many CPU threads; they must be set before it imports torch.

    A waiting thread spins briefly, then sleeps. Spinning on, as the library does, was many times slower at a load of
    eight on two cores; sleeping at once was half again as slow as spinning on an idle machine (one loop of small
    products, measured a few times).
    """
    return {"OMP_NUM_THREADS": str(threads), "GOMP_SPINCOUNT": "1000"}

"""Which number format `auto` becomes, and how many threads a learner rank takes of its node."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.precision import rank_threads, resolve_precision


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("fpu avx2", "float32"), ("fpu avx512_bf16 avx2", "bfloat16"), ("amx_bf16 amx_tile", "bfloat16")],
)
def test_auto_is_what_the_cpu_computes_fast(tmp_path: Path, flags: str, expected: str) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags : {flags}\n")
    assert resolve_precision("auto", cpuinfo=str(tmp_path / "cpuinfo")) == expected


def test_a_named_format_is_kept_and_a_gpu_has_bfloat16() -> None:
    assert resolve_precision("float32", gpus=1) == "float32"
    assert resolve_precision("auto", gpus=0.5, cpuinfo="/nonexistent") == "bfloat16"


@pytest.mark.parametrize(
    ("of_the_node", "expected"),
    [((16, 2), 8), ((1, 2), 1), ((96, 16, 1, 8), 12), ((96, 2, 0.5, 8), 6), ((4, 8, 1, 8), 1)],
)
def test_ranks_share_the_cores_of_the_node_they_are_on(of_the_node: tuple[int, ...], expected: int) -> None:
    assert rank_threads(*of_the_node) == expected

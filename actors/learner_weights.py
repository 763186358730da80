"""A learner's weights under their Hugging Face names: streamed to engines, or written as a plain model directory.

Every rank takes part, since ZeRO-3 gathers each tensor; adapters come merged. Not covered: how engines take them
(weights.py, weight_engines.py).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import deepspeed
import torch
from torch import Tensor

from actors.directories import put_in_place
from ledex_ray.policy import WeightView, weight_views


class GatheredWeights:
    """The policy's weights as vLLM's `WeightSource`: every rank iterates it, since ZeRO-3 gathers each tensor."""

    def __init__(self, lm: Any) -> None:
        self._views = weight_views(lm)

    def metadata(self) -> list[WeightView]:
        """Name, dtype and full shape of each tensor, in order."""
        return self._views

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for view in self._views:
            sharded = [part for part in view.parts if hasattr(part, "ds_id")]
            with torch.no_grad(), deepspeed.zero.GatheredParameters(sharded, enabled=bool(sharded)):
                yield view.name, view.merged()


def write_model(
    lm: Any, weights: dict[str, Tensor], source: Path, directory: Path, *, trust_remote_code: bool = False
) -> None:
    """A directory that transformers and vLLM load, tokenizer included, written beside `directory` and renamed.

    What `source` has code of its own for (`trust_remote_code`) takes that code along.
    """
    from transformers import AutoConfig, AutoTokenizer

    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{directory.name.lstrip('.')}.", dir=directory.parent))
    partial.chmod(0o755)
    lm.save_pretrained(partial, state_dict=weights)
    config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
    config.dtype = next(iter(weights.values())).dtype
    config.save_pretrained(partial)
    AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code).save_pretrained(partial)
    put_in_place(partial, directory)

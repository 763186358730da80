"""The best model of a training, kept in step with its checkpoints.

A new best model is staged beside `model` first, and takes its place only when the checkpoint that counts it as the best
exists: a run that is killed in between goes on from the older checkpoint with the model that one knows.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from actors.directories import put_in_place

log = logging.getLogger(__name__)


class BestModel:
    """`FOLDER/model`, a plain Hugging Face directory, and the `.model.NNNNNN` that wait for their checkpoint."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "model"

    def staged(self, number: int) -> Path:
        """Where the best model, found at step or iteration `number`, is exported to."""
        return self.path.with_name(f".{self.path.name}.{number:06d}")

    def settle(self, number: int) -> None:
        """A checkpoint that says `number` was the best is complete: its model, if it waits, takes its place.

        Everything else that an export or a replacement left behind is removed. To be called after each checkpoint, and
        when training goes on from one (0 where it starts anew).
        """
        staged = self.staged(number)
        if staged.exists():
            put_in_place(staged, self.path)
        leftovers = sorted(self.path.parent.glob(f".{self.path.name}.*"))
        if not self.path.exists():  # killed between two renames, on a file system that has no exchange
            for old in (leftover / "old" for leftover in leftovers):
                if old.exists():
                    old.rename(self.path)
        for leftover in leftovers:
            log.info("removed what an interrupted export left: %s", leftover.name)
            shutil.rmtree(leftover)

"""The best model of a training, kept in step with its checkpoints.

A new best model waits beside the one that counts, and takes its place only when the checkpoint that counts it as the
best exists: a run that is killed in between goes on from the older checkpoint with the model that one knows. It waits
under a hidden name, and is renamed. At a URL nothing can be renamed: models lie in numbered folders, the lowest number
is the one that counts (actors/node_copies.py), and it is removed.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from actors import checkpoint
from actors.directories import put_in_place
from actors.places import Place, RemotePath, patiently

log = logging.getLogger(__name__)


class BestModel:
    """`STAGE/model`, a plain Hugging Face directory, and the `.model.NNNNNN` that wait for their checkpoint.

    At a URL: `STAGE/model/NNNNNN`, a single one when none waits.
    """

    def __init__(self, path: Place) -> None:
        self.path = path

    def staged(self, number: int) -> Place:
        """Where the best model, found at step or iteration `number`, is exported to."""
        if isinstance(self.path, Path):
            return self.path.with_name(f".{self.path.name}.{number:06d}")
        return self.path / f"{number:06d}"

    def settle(self, number: int) -> None:
        """A checkpoint that says `number` was the best is complete: its model, if it waits, takes its place.

        Everything else that an export or a replacement left behind is removed. To be called after each checkpoint, and
        when training goes on from one (0 where it starts anew).
        """
        if isinstance(self.path, RemotePath):
            models = self.path
            patiently(lambda: _leave(models, number))
            return
        staged = self.staged(number)
        assert isinstance(staged, Path)
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


def _leave(models: RemotePath, number: int) -> None:
    """Removes all numbered models but one; all where training starts anew; none where that one is missing."""
    if number and checkpoint.read(models / f"{number:06d}") is None:
        log.warning("%s: the model of step %d is missing, what there is stays", models, number)
        return
    for folder in models.iterdir():
        if folder.name.isdigit() and int(folder.name) != number:
            checkpoint.remove(folder)

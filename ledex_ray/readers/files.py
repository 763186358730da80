"""Rows of the files that problem sets come in: JSON lines, a JSON list, Parquet; plain or gzipped."""

from __future__ import annotations

import ast
import gzip
import json
import re
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ledex_ray.errors import BadInput
from ledex_ray.syntax import UNREADABLE

Row = dict[str, Any]
SPLIT_FILES = ("train", "validation", "valid", "test")
UNREAD = frozenset({"incorrect_solutions"})  # columns that no reader asks for: this one is most of CodeContests
PARQUET_ROWS = 32  # decoded at once: a row of CodeContests may hold megabytes


def read_text(path: Path) -> str:
    """The text of a plain or gzipped file; BadInput where it cannot be read."""
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        return data.decode("utf-8-sig")  # some editors mark the beginning
    except FileNotFoundError:
        raise BadInput(str(path), "no such file") from None
    except IsADirectoryError:
        raise BadInput(str(path), "is a folder", expected="a file") from None
    except UnicodeDecodeError as error:
        raise BadInput(str(path), f"is not UTF-8 text at byte {error.start}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(str(path), f"cannot be read ({error})") from error


def json_lines(path: Path) -> Iterator[tuple[str, Row]]:
    """(place, row) of each line that is not blank; the place is "file:line". BadInput where a line is no object."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            yield f"{path}:{number}", parse_row(line, f"{path}:{number}")


def parse_row(line: str, where: str) -> Row:
    """One JSON object; BadInput says what the line holds instead."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:  # also a number of too many digits
        raise BadInput(where, f"is not JSON ({error})", given=line, expected="one JSON object a line") from error
    if not isinstance(row, dict):
        raise BadInput(where, "is not a JSON object", given=row, expected="one JSON object a line")
    if "\\ud" in line.lower():  # escapes by halves, which need not be pairs
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise BadInput(where, "holds half a character", given=error.object[error.start], expected="text") from error
    return row


def rows(path: Path) -> Iterator[tuple[str, Row]]:
    """(place, row) of a JSON-lines file, a `.json` list or a `.parquet` file.

    A file that is named for its split, as the hub's are (`train.jsonl`, `valid-00000-of-00001.parquet`), says so in
    each row that does not itself.
    """
    split = re.split(r"[-.]", path.name)[0]
    for where, row in _rows(path):
        yield where, {"split": split, **row} if split in SPLIT_FILES else row


def _rows(path: Path) -> Iterator[tuple[str, Row]]:
    if path.suffix == ".parquet":
        for number, row in enumerate(_parquet_rows(path), start=1):
            yield f"{path}:{number}", row
    elif path.suffix == ".json":
        try:
            listed = json.loads(read_text(path))
        except (ValueError, RecursionError) as error:
            raise BadInput(str(path), f"is not JSON ({error})") from error
        if not isinstance(listed, list) or not all(isinstance(r, dict) for r in listed):
            raise BadInput(str(path), "is not a list of objects")
        for number, row in enumerate(listed, start=1):
            yield f"{path}[{number}]", row
    else:
        yield from json_lines(path)


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow as pa  # on call: only CodeContests and hub downloads are Parquet
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            read = [name for name in file.schema_arrow.names if name not in UNREAD]
            for batch in file.iter_batches(PARQUET_ROWS, columns=read):
                yield from batch.to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise BadInput(str(path), f"is not a readable Parquet file ({error})") from error


def text_field(row: Row, name: str, where: str, *, required: bool = True) -> str:
    """A string field; BadInput where it is missing (if required) or of another type."""
    value = row.get(name)
    if value is None and not required:
        return ""
    if value is None:
        raise BadInput(where, f"field '{name}' is missing", expected="a string")
    if not isinstance(value, str) or (required and not value.strip()):
        raise BadInput(where, f"field '{name}'", given=value, expected="a string that is not empty")
    return value


def parse_python(code: str, name: str, where: str) -> ast.Module:
    """The syntax tree of a field's code; BadInput where it is no Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # escapes that a later Python will not take
            return ast.parse(code)
    except UNREADABLE as error:
        raise BadInput(where, f"field '{name}' is not Python ({error})", given=code) from error

"""Records (frozen dataclasses) to and from Arrow tables and Parquet files, with a schema version.

The schema follows from the dataclass: enums become text, tuples and arrays lists, dicts maps, records structs. A Ray
Data row is the same record as a plain dict. Not covered: unions other than `X | None`, and evolution of the schema
beyond new fields that have a default.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
import types
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from ledex_ray.errors import BadInput

R = TypeVar("R")

SCHEMA_VERSION = 1  # raise it where a field is removed, renamed or changes its meaning
RECORD_KEY, VERSION_KEY = b"ledex_record", b"ledex_schema_version"
SIMPLE: dict[type, pa.DataType] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    bytes: pa.binary(),
}


def schema_of(cls: type) -> pa.Schema:
    """The Arrow schema of a record class; its metadata names the class and the schema version."""
    metadata = {RECORD_KEY: cls.__name__.encode(), VERSION_KEY: str(SCHEMA_VERSION).encode()}
    return pa.schema([_field(name, kind) for name, kind in _hints(cls).items()], metadata=metadata)


@cache
def _hints(cls: Any) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}


def _optional(kind: Any) -> tuple[Any, bool]:
    """The type without None, and whether None is allowed."""
    if get_origin(kind) in (Union, types.UnionType):
        others = [k for k in get_args(kind) if k is not type(None)]
        if len(others) != 1:
            raise TypeError(f"a record field cannot be {kind}: only X | None")
        return others[0], True
    return kind, False


def _field(name: str, kind: Any) -> pa.Field:
    inner, nullable = _optional(kind)
    return pa.field(name, _arrow_type(inner), nullable=nullable)


def _arrow_type(kind: Any) -> pa.DataType:
    origin, args = get_origin(kind), get_args(kind)
    if origin in (tuple, list):
        items = [a for a in args if a is not Ellipsis]
        if any(item != items[0] for item in items):
            raise TypeError(f"a record field cannot be {kind}: only tuples of one type")
        return pa.list_(_field("item", items[0]))
    if origin is np.ndarray:
        return pa.list_(pa.from_numpy_dtype(_dtype(kind)))
    if origin in (dict, Mapping):
        return pa.map_(_arrow_type(args[0]), _field("value", args[1]))
    if isinstance(kind, type):
        if issubclass(kind, Enum):
            return pa.string()
        if dataclasses.is_dataclass(kind):
            return pa.struct([_field(name, inner) for name, inner in _hints(kind).items()])
        if kind in SIMPLE:
            return SIMPLE[kind]
    if origin is not None and origin.__name__ == "Literal":
        return _arrow_type(type(args[0]))
    raise TypeError(f"a record field cannot be {kind}")


def _dtype(kind: Any) -> np.dtype[Any]:
    """The element type of a NumPy array annotation."""
    return np.dtype(get_args(get_args(kind)[1])[0])


def to_row(record: Any) -> dict[str, Any]:
    """The record as a dict of plain data, nested records as dicts; what a Ray Data row holds."""
    return {f.name: _plain(getattr(record, f.name)) for f in dataclasses.fields(record)}


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return str(value.value)
    if dataclasses.is_dataclass(value):
        return to_row(value)
    if isinstance(value, str):
        return _storable(value)
    if isinstance(value, Mapping):
        return {_plain(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _storable(text: str) -> str:
    """The text with lone surrogates replaced: UTF-8 has no form for them."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def from_row(cls: type[R], row: Mapping[str, Any]) -> R:
    """The record that a row holds; fields that the row lacks get their default. TypeError where there is none.

    Also reads what Arrow and Ray Data make of a row: maps as lists of pairs, lists as NumPy arrays.
    """
    record: Any = cls
    hints = _hints(record)
    return cls(**{name: _record_value(hints[name], value) for name, value in row.items() if name in hints})


def _record_value(kind: Any, value: Any) -> Any:
    kind, _ = _optional(kind)
    if value is None:
        return None
    origin, args = get_origin(kind), get_args(kind)
    if origin is np.ndarray:
        return np.asarray(value, dtype=_dtype(kind))
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if origin in (tuple, list):
        return origin(_record_value(args[0], item) for item in value)
    if origin in (dict, Mapping):
        pairs = value.items() if isinstance(value, Mapping) else value
        return {_record_value(args[0], k): _record_value(args[1], v) for k, v in pairs if v is not None}
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(value)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return from_row(kind, value)
    return float(value) if kind is float else value


def to_table(records: Sequence[Any], cls: type | None = None) -> pa.Table:
    """Records of one class as an Arrow table; `cls` is needed where there might be none."""
    if cls is None:
        if not records:
            raise ValueError("no records, and no class to take the schema from")
        cls = type(records[0])
    rows = []
    for record in records:
        assert type(record) is cls, f"a {type(record).__name__} among {cls.__name__} records"
        rows.append(to_row(record))
    return pa.Table.from_pylist(rows, schema=schema_of(cls))


def from_table(table: pa.Table, cls: type[R], where: str = "table") -> list[R]:
    """The records of a table. BadInput where it holds another record, another version, or lacks a field."""
    metadata = table.schema.metadata or {}
    name, version = metadata.get(RECORD_KEY, b"").decode(), metadata.get(VERSION_KEY, b"").decode()
    if name != cls.__name__:
        raise BadInput(where, "holds other records", given=name or None, expected=cls.__name__)
    if version != str(SCHEMA_VERSION):
        raise BadInput(
            where,
            "was written with another schema version",
            given=version,
            expected=f"version {SCHEMA_VERSION}: make it again, or use the release that wrote it",
        )
    required = {
        f.name
        for f in dataclasses.fields(cls)  # type: ignore[arg-type]
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    if missing := required - set(table.column_names):
        raise BadInput(where, f"lacks the column '{sorted(missing)[0]}'", expected=f"the columns of {cls.__name__}")
    return [from_row(cls, row) for row in table.to_pylist()]


def write_records(path: str | Path, records: Iterable[Any], cls: type | None = None) -> None:
    """Writes one Parquet file, whole or not at all; `path` may be an object store's URI.

    `cls` gives the schema where there are no records; without both, ValueError.
    """
    table = to_table(list(records), cls)
    if "://" in str(path):
        filesystem, inner = fs.FileSystem.from_uri(str(path))  # an object appears when its upload is complete
        pq.write_table(table, inner, filesystem=filesystem)
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    os.close(handle)
    try:
        pq.write_table(table, temporary)
        os.replace(temporary, target)
    except BaseException:  # also an interrupt: nothing half-written stays, and the error goes on
        os.unlink(temporary)
        raise


def read_records(path: str | Path, cls: type[R]) -> list[R]:
    """The records of a Parquet file, or of every one in a folder by name. BadInput where they are not such records."""
    try:
        filesystem, inner = (
            fs.FileSystem.from_uri(str(path)) if "://" in str(path) else (fs.LocalFileSystem(), str(path))
        )
        kind = filesystem.get_file_info(inner).type
    except (pa.ArrowInvalid, OSError) as error:
        raise BadInput(str(path), f"cannot be read ({error})", expected="a path or an object store's URI") from error
    if kind == fs.FileType.NotFound:
        raise BadInput(str(path), "no such file or folder")
    files = [inner]
    if kind == fs.FileType.Directory:
        listed = filesystem.get_file_info(fs.FileSelector(inner))
        files = sorted(f.path for f in listed if f.base_name.endswith(".parquet") and not f.base_name.startswith("."))
    return [record for file in files for record in from_table(_read(filesystem, file), cls, file)]


def _read(filesystem: fs.FileSystem, file: str) -> pa.Table:
    try:
        with filesystem.open_input_file(file) as source:
            return pq.ParquetFile(source).read()
    except (pa.ArrowInvalid, OSError) as error:
        raise BadInput(file, f"is not a readable Parquet file ({error})") from error

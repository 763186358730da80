"""Where things lie: a path, or a URL (s3://, gs://, file://), which has pathlib's names over pyarrow.fs.

An object store has no append and no rename. What is built on is what it promises: an object appears when its upload is
complete, is replaced as a whole, and every reader sees it from then on. Credentials never stand in a URL: each machine
finds its own, as AWS and Google have it. Not covered: copies on a node (node_copies.py), locks (launch/lease.py).
"""

from __future__ import annotations

import logging
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias, TypeVar
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from ledex_ray.errors import BadInput

log = logging.getLogger(__name__)

T = TypeVar("T")
Stamp: TypeAlias = tuple[int, int]
"""Size in bytes and time of the last change in ns: two files of one stamp are taken to be the same."""

OPTIONS = {
    "s3": {"region", "endpoint_override", "scheme", "tls_ca_file_path"},
    "gs": {"project_id", "endpoint_override", "scheme", "retry_limit_seconds"},
    "file": set[str](),
}
KINDS = "s3://BUCKET/FOLDER, gs://BUCKET/FOLDER or file:///FOLDER"
RETRY_SECONDS = (1.0, 5.0, 20.0, 60.0)  # a short outage must not cost a run


@dataclass(frozen=True)
class RemotePath:
    """A file or folder at a URL, with those of pathlib's methods that an object store can keep."""

    scheme: str
    path: str  # BUCKET/KEY; an absolute path for file
    options: str = ""  # what follows "?" in the URL: region, endpoint

    @classmethod
    def parse(cls, url: str) -> RemotePath:
        """The place that a URL names. BadInput for another kind of URL, or for credentials, which are not repeated."""
        if "@" in unquote(url):  # anywhere: a secret may hold a slash
            raise BadInput(
                f"{url.partition('://')[0]}://...",
                "holds a user name or a key, which would end up in logs",
                expected="a URL without '@'; each machine finds its own credentials (docs/cluster.md)",
            )
        try:
            parts = urlsplit(url)
        except ValueError as error:
            raise BadInput(url, f"is no URL ({error})", expected=KINDS) from error
        if parts.scheme not in OPTIONS:
            raise BadInput(url, "is a URL of a kind that is not read or written", given=parts.scheme, expected=KINDS)
        unknown = {name for name, _ in parse_qsl(parts.query, keep_blank_values=True)} - OPTIONS[parts.scheme]
        if unknown or parts.fragment:
            raise BadInput(
                f"{parts.scheme}://{parts.netloc}{parts.path}",
                "has options that are not taken",
                given=sorted(unknown) or "#",
                expected=f"none of them, or of {', '.join(sorted(OPTIONS[parts.scheme])) or 'none'}",
            )
        inside = "/".join(part for part in unquote(parts.path).split("/") if part)
        if bool(parts.netloc) == (parts.scheme == "file") or ":" in parts.netloc or (not parts.netloc and not inside):
            raise BadInput(url, "names no bucket" if parts.scheme != "file" else "is no local folder", expected=KINDS)
        path = f"{parts.netloc}/{inside}".rstrip("/")
        return cls(parts.scheme, path, parts.query)

    def __str__(self) -> str:
        return f"{self.scheme}://{quote(self.path)}" + (f"?{self.options}" if self.options else "")

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(self.scheme, f"{self.path}/{name.strip('/')}", self.options)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def parent(self) -> RemotePath:
        """The folder that holds it."""
        return RemotePath(self.scheme, self.path.rpartition("/")[0], self.options)

    def exists(self) -> bool:
        """Whether there is a file, or a folder with something in it."""
        from pyarrow import fs

        return bool(self._filesystem.get_file_info(self.path).type != fs.FileType.NotFound)

    def iterdir(self) -> list[RemotePath]:
        """What lies directly in this folder; empty where it does not exist."""
        return [self / info.base_name for info in self._list(recursive=False)]

    def files(self) -> dict[str, Stamp]:
        """The stamp of every file below, by its path relative to this folder."""
        found = (info for info in self._list(recursive=True) if info.is_file)
        start = len(self.path) + 1
        return {i.path[start:]: (i.size, i.mtime_ns) for i in found if not i.base_name.startswith(".")}

    def read_text(self, encoding: str = "utf-8") -> str:
        """The file's text. FileNotFoundError where there is none."""
        with self._filesystem.open_input_stream(self.path, compression=None) as stream:
            return bytes(stream.read()).decode(encoding)

    def write_text(self, text: str, encoding: str = "utf-8") -> None:
        """Makes or replaces the file, as a whole."""
        with self._appearing() as path, self._filesystem.open_output_stream(path, compression=None) as stream:
            stream.write(text.encode(encoding))

    def put(self, local: Path) -> None:
        """Uploads a file; OSError where less than all of it has arrived."""
        from pyarrow import fs

        size = local.stat().st_size
        with self._appearing() as path:
            fs.copy_files(str(local), path, fs.LocalFileSystem(), self._filesystem)
        arrived = self._filesystem.get_file_info(self.path).size
        if arrived is None or arrived < size:  # a log that grew meanwhile is not short
            raise OSError(f"{self}: {arrived} of {size} bytes arrived")

    def get(self, local: Path) -> None:
        """Downloads a file to a path whose folder exists; it appears there when it is whole."""
        from pyarrow import fs

        partial = local.with_name(f".{local.name}.{uuid.uuid4().hex}.tmp")
        try:
            fs.copy_files(self.path, str(partial), self._filesystem, fs.LocalFileSystem())
            partial.replace(local)
        finally:
            partial.unlink(missing_ok=True)

    def unlink(self) -> None:
        """Removes the file, if there is one."""
        if self.exists():
            self._filesystem.delete_file(self.path)

    def rmtree(self) -> None:
        """Removes the folder with all that is in it, if there is one."""
        if self.exists():
            self._filesystem.delete_dir(self.path)

    def _list(self, recursive: bool) -> list[Any]:
        from pyarrow import fs

        selector = fs.FileSelector(self.path, allow_not_found=True, recursive=recursive)
        found: list[Any] = self._filesystem.get_file_info(selector)
        return found

    @contextmanager
    def _appearing(self) -> Iterator[str]:
        """Where to write, so that the file is seen when it is whole; an object store sees to that itself."""
        if self.scheme != "file":
            yield self.path
            return
        folder = self.path.rpartition("/")[0]
        partial = f"{folder}/.{self.name}.{uuid.uuid4().hex}.tmp"
        self._filesystem.create_dir(folder, recursive=True)
        yield partial
        self._filesystem.move(partial, self.path)

    @property
    def _filesystem(self) -> Any:
        return _filesystem(self.scheme, "" if self.scheme == "file" else self.path.partition("/")[0], self.options)


Place: TypeAlias = Path | RemotePath


@cache
def _filesystem(scheme: str, bucket: str, options: str) -> Any:
    from pyarrow import fs  # on call: half a second that no other command need pay

    if scheme == "file":
        return fs.LocalFileSystem()
    if scheme == "gs" and "retry_limit_seconds" not in options:
        options = f"{options}&retry_limit_seconds=30".lstrip("&")  # Google's client goes on for a quarter of an hour
    return fs.FileSystem.from_uri(f"{scheme}://{bucket}" + (f"?{options}" if options else ""))[0]


def is_url(text: str) -> bool:
    """Whether a name is a URL rather than a path."""
    return "://" in text


def place(text: str | Path) -> Place:
    """The place that a path or a URL names. BadInput as RemotePath.parse."""
    return RemotePath.parse(text) if isinstance(text, str) and is_url(text) else Path(text)


def remove_tree(folder: Place) -> None:
    """Removes a folder with all that is in it."""
    if isinstance(folder, Path):
        shutil.rmtree(folder)
    else:
        folder.rmtree()


def patiently(call: Callable[[], T]) -> T:
    """What the call returns. A storage that fails is asked again for a minute and a half; a missing file is not."""
    for seconds in RETRY_SECONDS:
        try:
            return call()
        except FileNotFoundError:
            raise
        except OSError as error:
            log.warning("storage: %s; again in %.0f s", " ".join(str(error).split())[:300], seconds)
            time.sleep(seconds)
    return call()

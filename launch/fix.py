"""`ledex fix`, the trained model at work: run the tests, explain the bug, propose a fix, verify it, show the diff.

One refinement loop as in training (LeDex, section 3.1), with the tests of a user: each round asks for several answers,
judges what they make of the file, and goes on from the best of them. What no test covers stays for a person to read.
"""

from __future__ import annotations

import ast
import re
import unicodedata
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.syntax import Syntax

from launch.console import console, log
from launch.rundir import write_atomically
from launch.samples import Packages
from ledex_ray.config import ModelConfig, Recipe, RolloutConfig, SamplingConfig
from ledex_ray.errors import BadInput
from ledex_ray.planner import GIB, ModelShape, shape_of
from ledex_ray.problems import AssertTest, Problem, StdioTest, Test
from ledex_ray.prompts import refine_prompt
from ledex_ray.readers.files import read_text
from ledex_ray.readers.jsonl import called_name
from ledex_ray.readers.own_tests import read_tests
from ledex_ray.records import Instruction, Status, Verdict
from ledex_ray.splice import keeps, shares, splice
from ledex_ray.syntax import UNREADABLE
from reward.judge import Judge, JudgeConfig, StartFailed, TooWeak
from reward.scorer import Scorer
from reward.terms import TextJob

if TYPE_CHECKING:
    from actors.rollout import RolloutClient
    from launch.fleet import Fleet

FIXED, NOT_FIXED = 0, 1
LONGEST = 4096  # tokens of prompt and answer; the engine's memory is laid out for it
PATIENCE = 3600.0  # seconds: a large model on a CPU answers a round at once, and slowly
Layout = Literal["auto", "chat", "plain"]  # as ModelConfig has it
_DEFINED = re.compile(r"^(?:async\s+def|def|class)\s+(\w+)", re.MULTILINE)


@dataclass(frozen=True)
class Proposal:
    """A program, what the model said about the one before it, and what the judge says of this one."""

    code: str
    explanation: str
    verdict: Verdict


def fix(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The program that fails its tests.")],
    tests: Annotated[Path, typer.Option(help="A .py of top-level asserts, or a .jsonl with one test a line.")],
    model: Annotated[
        str, typer.Option(help="A directory or URL such as runs/NAME/ppo/model, a packaged name, a hub id.")
    ],
    task: Annotated[str, typer.Option(help="What the program is for; default: its docstring.")] = "",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of proposals, each from the best one so far.")] = 3,
    samples: Annotated[int, typer.Option(min=1, help="Proposals a round.")] = 8,
    temperature: Annotated[float, typer.Option(min=0.01, help="How different proposals are.")] = 0.8,
    max_tokens: Annotated[int, typer.Option(min=16, help="Longest answer.")] = 512,
    write: Annotated[bool, typer.Option("--write", help="Put the fix into FILE; it is not touched otherwise.")] = False,
    seed: Annotated[int, typer.Option(help="Of the sampling.")] = 0,
    layout: Annotated[
        Layout, typer.Option(help="Of prompts, as the model was trained: model.layout of its recipe.")
    ] = "auto",
    packages: Packages = None,
    trust_remote_code: Annotated[bool, typer.Option(help="Run code that the model's repository ships.")] = False,
) -> None:
    """Fix a program until its tests pass: explanation and difference on standard output. Exit 0 fixed, 1 not fixed.

    Example: ledex fix stats.py --tests test_stats.py --model runs/quickstart/ppo/model
    """
    problem = read_problem(file, tests, task)
    original = read_text(file)
    code = original.replace("\r\n", "\n")
    policy = ModelConfig(name=model, layout=layout, trust_remote_code=trust_remote_code)
    sampling = SamplingConfig(n=samples, temperature=temperature, max_tokens=max_tokens)
    try:
        with Judge(JudgeConfig(packages=tuple(packages or ()))) as judge, Scorer() as scorer:
            start = Proposal(code, "", judge.judge(problem, code))
            if start.verdict.status is Status.INFRA:
                raise StartFailed(f"{file} could not be judged: {start.verdict.feedback}")
            if start.verdict.passed:
                _say(f"{file}: all {start.verdict.n_tests} tests pass, there is nothing to fix")
                raise SystemExit(FIXED)
            _say(f"{file}: {_counts(start.verdict)}. {start.verdict.feedback}")
            found = _search(problem, start, policy, sampling, rounds, seed, judge, scorer)
            if not found.verdict.passed:
                _say(f"{file}: not fixed; the best proposal: {_counts(found.verdict)}")
                raise SystemExit(NOT_FIXED)
            _show(file, start, found, scorer)
    except (TooWeak, StartFailed) as error:
        console.print(f"ledex fix: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(NOT_FIXED) from None
    if write:
        _write(file, original, found.code)
    raise SystemExit(FIXED)


def _write(file: Path, original: str, fixed: str) -> None:
    """Puts the fix into the file, under its own line endings and mode; not over what was saved there meanwhile."""
    if read_text(file) != original:
        _say(f"{file}: not written, it has been changed since its tests ran")
        raise SystemExit(NOT_FIXED)
    mode = file.stat().st_mode
    write_atomically(file, fixed.replace("\n", "\r\n") if "\r\n" in original else fixed)
    file.chmod(mode)
    _say(f"{file}: written")


def read_problem(file: Path, tests: Path, task: str = "") -> Problem:
    """The file and its tests as a problem whose tests are all public. Raises BadInput where either cannot be read."""
    code, read = read_text(file), read_tests(tests, file)
    entry = "" if isinstance(read[0], StdioTest) else _entry_point(code, read)
    if not entry and not isinstance(read[0], StdioTest):
        raise BadInput(str(tests), f"calls nothing that {file} defines", expected="asserts on its functions")
    text = (
        task or _docstring(code, entry) or f"Write {f'the Python function `{entry}`' if entry else 'a Python program'}."
    )
    return Problem(id=file.name, text=text, tests=read, entry_point=entry, n_public=len(read))


def _entry_point(code: str, tests: Iterable[Test]) -> str:
    """The function under test: the file's first definition that a test names, else one that a test calls."""
    defined = list(dict.fromkeys(_DEFINED.findall(code)))
    asserts = [test.code for test in tests if isinstance(test, AssertTest)]
    for test in asserts:
        used = {node.id for node in ast.walk(ast.parse(test)) if isinstance(node, ast.Name)}
        if named := [name for name in defined if name in used]:
            return named[0]
    for test in asserts:
        if (name := called_name(test)) and name not in _DEFINED.findall(test):
            return name
    return defined[-1] if defined else ""  # plain calls name no function: what a file is about comes last


def _docstring(code: str, entry: str) -> str:
    try:
        tree = ast.parse(code)
    except UNREADABLE:
        return ""
    functions = [n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name == entry]
    return next((text for node in (*functions, tree) if (text := ast.get_docstring(node))), "")


def _search(
    problem: Problem,
    start: Proposal,
    model: ModelConfig,
    sampling: SamplingConfig,
    rounds: int,
    seed: int,
    judge: Judge,
    scorer: Scorer,
) -> Proposal:
    """The first proposal that passes every test, the smallest change if there are several; else the best one."""
    from actors.rollout import EnginesNotReady

    with _fleet(model, sampling) as fleet:
        best = start
        _prompt_ids(fleet, problem, start, sampling)  # what it refuses need not wait for an engine
        try:
            client = fleet.rollout.client()
        except EnginesNotReady as error:
            raise StartFailed(f"no engine for {model.name}: {error}") from error
        for number in range(1, rounds + 1):
            answers = _ask(fleet, client, problem, best, sampling, f"{seed}/{number}")
            proposals = _judged(problem, best, answers, judge, scorer)
            passing = [p for p in proposals if p.verdict.passed]
            if passing:
                log.info("round %d: %d of %d proposals pass", number, len(passing), len(proposals))
                return min(passing, key=lambda p: _distance(start.code, p.code))
            best = max([best, *proposals], key=lambda p: p.verdict.n_passed)
            log.info("round %d: %d proposals, the best: %s", number, len(proposals), _counts(best.verdict))
    return best


def _fleet(model: ModelConfig, sampling: SamplingConfig) -> Fleet:
    import ray

    from actors.precision import resolve_precision
    from launch.fleet import Fleet

    fleet = Fleet(Recipe(run="fix", model=model), stages=())  # an engine alone: the judge is this process's own
    shape = _shape(fleet.model_path, model)
    longest = _longest(shape, sampling)
    gpus = 1.0 if ray.cluster_resources().get("GPU") else 0.0
    item = 2 if resolve_precision(model.dtype, gpus) == "bfloat16" else 4
    one = longest * shape.cache_bytes(item) / GIB  # an engine that could not hold the longest would not start
    fleet.recipe = Recipe(
        run="fix",
        model=model.model_copy(update={"max_length": longest}),
        rollout=RolloutConfig(
            gpus=gpus, max_num_seqs=sampling.n, kv_cache_gb=max(1.0, 1.1 * one), deadline_seconds=PATIENCE
        ),
    )
    return fleet


def _longest(shape: ModelShape, sampling: SamplingConfig) -> int:
    """Tokens of a prompt and its answer together. Raises BadInput where the answer's share is all of them."""
    longest = min(LONGEST, shape.context or LONGEST)
    if sampling.max_tokens >= longest:
        raise BadInput(
            "--max-tokens", "leaves the prompt no room", given=sampling.max_tokens, expected=f"less than {longest}"
        )
    return longest


def _shape(path: Path, model: ModelConfig) -> ModelShape:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(path, trust_remote_code=model.trust_remote_code)
    return shape_of(config.get_text_config().to_dict(), where=str(path))


def _ask(
    fleet: Fleet, client: RolloutClient, problem: Problem, wrong: Proposal, sampling: SamplingConfig, seed: str
) -> list[str]:
    """The model's answers to the program and what its tests say."""
    from actors.generation import GenerationRequest

    request = GenerationRequest(
        id=seed,
        prompt_ids=tuple(_prompt_ids(fleet, problem, wrong, sampling)),
        n=sampling.n,
        temperature=sampling.temperature,
        max_tokens=sampling.max_tokens,
        seed=zlib.crc32(seed.encode()),
        stop=fleet.renderer.stop,
    )
    (generation,) = client.generate([request])
    if generation.error:
        raise RuntimeError(f"the engine gave the prompt up: {generation.error}")
    return [completion.text for completion in generation.completions]


def _prompt_ids(fleet: Fleet, problem: Problem, wrong: Proposal, sampling: SamplingConfig) -> list[int]:
    """The question as token ids. Raises BadInput where it leaves an answer no room, or the model has no such layout."""
    prompt = refine_prompt(problem, wrong.code, wrong.verdict.feedback, Instruction.EXPLAIN)
    ids = fleet.renderer.prompt_ids(prompt)
    most = fleet.recipe.model.max_length - sampling.max_tokens
    if len(ids) > most:
        raise BadInput(
            problem.id,
            "is too long",
            given=f"{len(ids)} tokens with its tests",
            expected=f"at most {most}, or a smaller --max-tokens",
        )
    return ids


def _judged(problem: Problem, wrong: Proposal, answers: Iterable[str], judge: Judge, scorer: Scorer) -> list[Proposal]:
    """Each distinct program that the answers make of the file, judged; also the answer alone where nothing is lost."""
    jobs = [
        TextJob(id=str(i), text=text, instruction="explain", entry_point=problem.entry_point, codebleu=False)
        for i, text in enumerate(answers)
    ]
    seen = {wrong.code}
    proposals = []
    for answer in (terms.answer for terms in scorer.score(jobs) if terms.answer.code.strip()):
        alone = answer.code.strip("\n") + "\n"
        codes = [splice(wrong.code, answer.code)] if problem.entry_point or shares(wrong.code, answer.code) else []
        codes += [alone] if not problem.entry_point or keeps(wrong.code, alone) else []
        for code in codes:
            if code not in seen:
                seen.add(code)
                verdict = judge.judge(problem, code)
                if verdict.status is Status.INFRA:
                    log.warning("a proposal could not be judged and is left out")
                else:
                    proposals.append(Proposal(code, answer.explanation, verdict))
    return proposals


def _distance(a: str, b: str) -> int:
    """Lines added and removed, counted without looking at their order (quick for any text)."""
    left, right = a.splitlines(), b.splitlines()
    return sum(line not in right for line in left) + sum(line not in left for line in right)


def _show(file: Path, start: Proposal, found: Proposal, scorer: Scorer) -> None:
    if found.explanation:
        _say(f"\n{found.explanation}")
    shown = _output()
    diff = _plain(scorer.diff(start.code, found.code, file.name))
    shown.print(Syntax(diff, "diff", background_color="default") if shown.is_terminal else diff, markup=False)
    weak = (
        " (their verdict is weak: the program could have forged it, so read the change)" if found.verdict.weak else ""
    )
    _say(f"{file}: all {found.verdict.n_tests} tests pass{weak}")


def _say(text: str) -> None:
    _output().print(_plain(text), markup=False)


def _output() -> Console:
    return Console(highlight=False, soft_wrap=True, emoji=False)  # code is full of colons


def _plain(text: str) -> str:
    """Text of a model without the control characters that a terminal would obey."""
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf"))


def _counts(verdict: Verdict) -> str:
    return f"{verdict.n_passed} of {verdict.n_tests} tests pass"

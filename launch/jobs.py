"""Sampling with judging as one streaming Ray Data job, over the rollout actors and the sandbox pool all stages share.

The mapped functions are thin clients: they hold no engine, so a job starts nothing that costs. Each item goes through
`sample` (vLLM) and `judge` (parse, unit tests, CodeBLEU) and comes back as one `Judged`, in the order they finish.
`ray.data.llm` is not used because it owns its engines and cannot take new weights.
"""

from __future__ import annotations

import logging
import pickle
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import ray
import ray.data
from ray.data import DataContext, TaskPoolStrategy

from actors.rollout import Completion, GenerationRequest, RolloutClient, RolloutGroup
from actors.sandbox import SandboxClient, ScoreRequest, ScoreResult
from launch.console import log
from launch.fleet import Fleet
from launch.overheard import Line, overheard
from ledex_ray.errors import RunFailed
from ledex_ray.problems import Problem
from ledex_ray.records import Provenance, Verdict
from reward.terms import TextJob

FILL_A_CPU = 64
MOST_UNANSWERED = 0.01  # of all prompts alike: one that kills every engine must not hold up a run for ever


class Unanswered(RunFailed):
    """More prompts than may be left out have no answer; the stage is not finished."""


@dataclass(frozen=True)
class Item:
    """One prompt to sample from, and what its answers are judged against."""

    id: str
    problem_id: str
    prompt_ids: tuple[int, ...]
    n: int
    temperature: float
    top_p: float
    max_tokens: int
    seed: int
    instruction: str  # solve, direct or explain
    wrong_code: str = ""
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Judged:
    """An item with its completions and, for each, what the sandbox said."""

    item: Item
    completions: tuple[Completion, ...]
    scores: tuple[ScoreResult, ...]
    lines: tuple[Line, ...] = ()  # what the clients of engines and sandboxes had to say until then


@dataclass(frozen=True)
class Sampled:
    """An item with its completions, none where it was given up."""

    item: Item
    completions: tuple[Completion, ...]
    lines: tuple[Line, ...] = ()


@dataclass(frozen=True)
class Sampler:
    """The first mapped function: items of one block to completions."""

    client: RolloutClient

    def __call__(self, block: Mapping[str, Any]) -> dict[str, list[Any]]:
        items: list[Item] = _unpack(block["item"])
        requests = [
            GenerationRequest(i.id, i.prompt_ids, i.n, i.temperature, i.top_p, i.max_tokens, i.seed, i.stop)
            for i in items
        ]
        done = {}
        with overheard() as lines:
            for generation in self.client.generate(requests):
                if generation.error:
                    log.warning("given up by the engines: %s (%s)", generation.id, generation.error)
                done[generation.id] = generation.completions
        return {"sampled": _pack(Sampled(i, done[i.id], _once(lines)) for i in items)}


@dataclass(frozen=True)
class Scorer:
    """The second mapped function: completions to verdicts."""

    client: SandboxClient
    problems: ray.ObjectRef

    def __call__(self, block: Mapping[str, Any]) -> dict[str, list[Any]]:
        problems = _read(self.problems)
        sampled: list[Sampled] = _unpack(block["sampled"])
        requests = []
        for one in sampled:
            item, problem = one.item, problems[one.item.problem_id]
            for index, completion in enumerate(one.completions):
                job = TextJob(
                    id=f"{item.id}@{index}",
                    text=completion.text,
                    instruction=item.instruction,
                    entry_point=problem.entry_point,
                    wrong_code=item.wrong_code,
                    codebleu=False,
                )
                requests.append(ScoreRequest(job.id, problem, job, execute=True))
        with overheard() as lines:
            scores = {result.id: result for result in self.client.score(requests)}
        judged = []
        for one in sampled:
            own = tuple(scores[f"{one.item.id}@{n}"] for n in range(len(one.completions)))
            judged.append(Judged(one.item, tuple(one.completions), own, (*one.lines, *_once(lines))))
        return {"judged": _pack(judged)}


@lru_cache(maxsize=1)
def _read(problems: ray.ObjectRef) -> Mapping[str, Problem]:
    """What was put, read once a process: a large set takes many seconds, and each block would pay them."""
    found: Mapping[str, Problem] = ray.get(problems)
    return found


def item_seed(seed: int, *names: object) -> int:
    """An engine seed of its own for each item.

    The engine gives the n answers of a request seeds in a row: under one seed for all, prompts that hardly differ (two
    wrong solutions of one problem) would be answered with the same noise.
    """
    return zlib.crc32("/".join(map(str, (seed, *names))).encode())


def sample_and_judge(
    items: Sequence[Item],
    problems: Mapping[str, Problem],
    fleet: Fleet,
    engines: RolloutGroup | None = None,
    *,
    answered: int = 0,
) -> Iterator[Judged]:
    """Every item sampled (by the fleet's own engines unless others are given) and judged, as they finish.

    An item that the engines give up comes without completions. Raises Unanswered at the end where they are too many
    beside those that were `answered` before: a resumed stage may have no item left but the one that cannot be.
    """
    if not items:
        return
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    context.execution_options.preserve_order = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # a line for each job that says nothing to a user
    # Two blocks sample at a time: while one waits for its longest answers, the other keeps the engines full.
    per_block = max(1, _sequences(engines or fleet.rollout) // max(item.n for item in items))
    blocks = -(-len(items) // per_block)
    clients = TaskPoolStrategy(size=min(2, blocks))
    rows = ray.data.from_items([{"item": i} for i in _pack(items)], override_num_blocks=blocks)
    sampled = rows.map_batches(
        Sampler((engines or fleet.rollout).client()), batch_size=None, num_cpus=0.25, compute=clients
    )
    judged = sampled.map_batches(
        Scorer(fleet.sandbox.client(), ray.put(dict(problems))),
        batch_size=None,
        num_cpus=0.2,  # not the sampler's figure: equal ones would be fused into one task
        compute=clients,
    )
    given_up = 0
    for row in judged.iter_rows():
        finished: Judged = pickle.loads(row["judged"])
        for line in finished.lines:
            line.repeat()
        given_up += not finished.completions
        yield finished
    require_answers(given_up, len(items) + answered, "given up by the engines")


def _sequences(engines: RolloutGroup) -> int:
    """Of one block, so that it fills the engines; on a CPU fewer do, and are seen to finish sooner."""
    config = engines.config
    return config.actors * config.max_num_seqs if config.gpus else FILL_A_CPU


def require_answers(missing: int, asked: int, why: str) -> None:
    """Says that a few prompts have no answer and are left out. Raises Unanswered where they are too many for that.

    One may always be, unless it is the only one.
    """
    if missing > max(MOST_UNANSWERED * asked, asked > 1):
        raise Unanswered(f"{missing} of {asked} prompts were {why}; what is done is kept, the same command goes on")
    if missing:
        log.warning("%d of %d prompts were %s and are left out", missing, asked, why)


def _once(lines: list[Line]) -> tuple[Line, ...]:
    """The lines; the list is empty afterwards, so that one row of a block carries them."""
    taken = tuple(lines)
    lines.clear()
    return taken


def _pack(values: Iterable[Any]) -> list[bytes]:
    """Our own records as one column of bytes: Arrow has no type for them."""
    return [pickle.dumps(value) for value in values]


def _unpack(column: Iterable[bytes]) -> list[Any]:
    return [pickle.loads(value) for value in column]


def executed(result: ScoreResult) -> Verdict:
    """The verdict of a result whose execution was asked for, as it is stored."""
    assert result.verdict is not None, f"{result.id} was not executed"
    return result.verdict.kept


def provenance(
    item: Item, completion: Completion, source: str, model: str, prompt_version: str, revision: str
) -> Provenance:
    """Where a sampled text came from."""
    return Provenance(
        source=source,
        model=model,
        prompt_version=prompt_version,
        temperature=item.temperature,
        seed=item.seed,
        n_prompt_tokens=len(item.prompt_ids),
        n_tokens=len(completion.token_ids),
        revision=revision,
    )

"""A real engine behind the group and its clients: exact log-probabilities, limits, and processes that are killed."""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
import ray

from actors.generation import Generation
from actors.ray_pool import CalledOff
from actors.rollout import GenerationRequest, RolloutGroup, engine_environment
from ledex_ray.config import RolloutConfig
from tests.actors.helpers import MODEL, PROBE, Learner, gap

pytestmark = pytest.mark.slow


@pytest.fixture
def base(engines: RolloutGroup, tiny_llama: Path) -> Learner:
    """The learner's side of what the engine serves in this test: the tiny model's own weights."""
    engines.load(tiny_llama, engines.weights.version + 1)
    return Learner(tiny_llama)


def generate(group: RolloutGroup, requests: Sequence[GenerationRequest]) -> dict[str, Generation]:
    generations = list(group.client().generate(requests))
    assert len(generations) == len(requests)
    return {g.id: g for g in generations}


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_log_probs_are_those_of_the_distribution_sampled_from(
    engines: RolloutGroup, base: Learner, temperature: float
) -> None:
    request = GenerationRequest("x", PROBE[0], n=4, temperature=temperature, max_tokens=32, seed=3)
    for completion in generate(engines, [request])["x"].completions:
        assert len(completion.token_ids) == len(completion.log_probs) == len(completion.weight_versions) > 0
        sequence = [*PROBE[0], *completion.token_ids]
        expected = base.log_probs([sequence], temperature)[0][-len(completion.token_ids) :]
        assert gap([completion.log_probs], [expected]) < 1e-4


def test_the_engine_scores_given_sequences(engines: RolloutGroup, base: Learner) -> None:
    (found,) = engines.log_probs(PROBE).values()
    assert [len(values) for values in found] == [len(sequence) - 1 for sequence in PROBE]
    assert gap(found, base.log_probs(PROBE, 1.0)) < 1e-4


def test_a_seed_fixes_the_samples_and_samples_of_a_prompt_differ(engines: RolloutGroup, base: Learner) -> None:
    def sample(name: str, seed: int) -> GenerationRequest:
        return GenerationRequest(name, PROBE[1], n=3, max_tokens=16, seed=seed)

    found = generate(engines, [sample("a", 1), sample("b", 1), sample("c", 2)])
    tokens = {name: tuple(c.token_ids for c in g.completions) for name, g in found.items()}
    assert tokens["a"] == tokens["b"] != tokens["c"]
    assert len(set(tokens["a"])) == 3


def test_prompts_that_fill_the_batch_are_served_with_seeds(engines: RolloutGroup, base: Learner) -> None:
    """vLLM's CPU engine dies when a seeded prompt is prefilled in parts; 48 long ones would be."""
    long = tuple(range(100, 300))
    requests = [GenerationRequest(str(i), (i + 10, *long), n=1, max_tokens=8, seed=i) for i in range(48)]
    before = engines.infos()[0].incarnation
    assert all(len(g.completions) == 1 for g in generate(engines, requests).values())
    assert engines.infos()[0].incarnation == before


def test_answers_end_at_the_context_and_impossible_prompts_are_refused(engines: RolloutGroup, base: Learner) -> None:
    limit = MODEL.max_length
    found = generate(
        engines,
        [
            GenerationRequest("fits", tuple(range(10, limit)), max_tokens=100, seed=1),
            GenerationRequest("full", tuple(range(10, limit + 10)), max_tokens=100),
            GenerationRequest("empty", (), max_tokens=100),
        ],
    )
    (completion,) = found["fits"].completions
    assert len(completion.token_ids) <= 10 and completion.finish_reason == "length"
    assert not found["full"].completions and str(limit) in found["full"].error
    assert not found["empty"].completions and found["empty"].error


def test_a_stop_string_ends_the_answer(engines: RolloutGroup, base: Learner) -> None:
    request = GenerationRequest("x", PROBE[2], max_tokens=60, seed=5)
    (free,) = generate(engines, [request])["x"].completions
    stop = free.text[len(free.text) // 2 :][:3]
    assert stop
    (stopped,) = generate(engines, [GenerationRequest("x", PROBE[2], max_tokens=60, seed=5, stop=(stop,))])[
        "x"
    ].completions
    assert stopped.finish_reason == "stop" and stop not in stopped.text
    assert stopped.token_ids == free.token_ids[: len(stopped.token_ids)]


def test_an_id_can_be_asked_for_once_in_a_call(engines: RolloutGroup) -> None:
    request = GenerationRequest("x", PROBE[0], max_tokens=2)
    with pytest.raises(ValueError, match="'x'"):
        list(engines.client().generate([request, request]))


def test_a_client_works_where_it_is_sent(engines: RolloutGroup, base: Learner) -> None:
    @ray.remote(num_cpus=0)
    def elsewhere(packed: bytes, request: GenerationRequest) -> list[Generation]:
        return list(pickle.loads(packed).generate([request]))

    request = GenerationRequest("x", PROBE[0], max_tokens=4)
    (generation,) = ray.get(elsewhere.remote(pickle.dumps(engines.client()), request), timeout=120)
    assert len(generation.completions) == 1


def test_a_consumer_that_leaves_stops_the_engine(engines: RolloutGroup, base: Learner) -> None:
    """What is in flight when the consumer leaves would take as long again as the same requests took before."""
    engine = engines.engines[0]
    requests = [GenerationRequest(str(i), PROBE[0], n=8, max_tokens=MODEL.max_length) for i in range(16)]
    started = time.monotonic()
    generate(engines, requests)
    whole = time.monotonic() - started

    generations = engines.client().generate([GenerationRequest("short", PROBE[0], max_tokens=1), *requests])
    next(generations)  # most likely the short one, long before the others
    assert ray.get(engine.requests_in_flight.remote(), timeout=60) > 0
    generations.close()
    time.sleep(whole / 2)
    assert ray.get(engine.requests_in_flight.remote(), timeout=60) == 0


def test_work_that_is_called_off_ends_while_nothing_finishes(engines: RolloutGroup, base: Learner) -> None:
    asked: list[float] = []

    def called_off() -> bool:
        asked.append(time.monotonic())
        return len(asked) > 2

    requests = [GenerationRequest(str(i), PROBE[0], n=8, max_tokens=240, seed=i) for i in range(20)]
    with pytest.raises(CalledOff):
        list(engines.client().generate(requests, called_off))
    assert len(asked) == 3
    for _ in range(100):
        if ray.get(engines.engines[0].requests_in_flight.remote(), timeout=60) == 0:
            return
        time.sleep(0.1)
    raise AssertionError("the engine still works on what was called off")


def test_a_sleeping_engine_keeps_what_it_is_asked_until_it_wakes(engines: RolloutGroup, base: Learner) -> None:
    """On a CPU vLLM frees nothing, but holds and wakes as on a GPU."""
    request = GenerationRequest("asleep", (5, 6, 7), 2, 1.0, 1.0, 8, 0)
    engines.sleep()
    answer = engines.engines[0].generate.remote(request, engines.weights)
    assert ray.wait([answer], timeout=2.0)[0] == []
    engines.wake()
    assert len(ray.get(answer, timeout=60).completions) == 2
    engines.wake()
    assert [len(g.completions) for g in engines.client().generate([request])] == [2]


def test_every_request_is_answered_though_the_engine_is_killed_and_under_the_weights_asked_for(
    engines: RolloutGroup, tiny_llama: Path, tmp_path: Path
) -> None:
    learner = Learner(tiny_llama)
    learner.step(11)
    learner.model.save_pretrained(tmp_path)
    version = engines.weights.version + 1
    engines.load(tmp_path, version)
    requests = [GenerationRequest(str(i), PROBE[i % 4], n=2, max_tokens=60, seed=i) for i in range(60)]
    info = engines.infos()[0]
    seen: list[Generation] = []
    for generation in engines.client().generate(requests):
        if not seen:
            os.kill(_engine_process(info.pid), signal.SIGKILL)  # the engine's own process: its actor must notice
        seen.append(generation)
    assert sorted(g.id for g in seen) == sorted(r.id for r in requests)
    assert engines.infos()[0].incarnation != info.incarnation
    for generation in seen:
        for completion in generation.completions:
            assert set(completion.weight_versions) == {version}
            sequence = [*PROBE[int(generation.id) % 4], *completion.token_ids]
            expected = learner.log_probs([sequence], 1.0)[0][-len(completion.token_ids) :]
            assert gap([completion.log_probs], [expected]) < 1e-4


def test_the_engine_computes_with_the_threads_the_recipe_says(engines: RolloutGroup) -> None:
    assert engine_environment(RolloutConfig(threads=1))["OMP_NUM_THREADS"] == "1"
    (threads,) = ray.get(engines.engines[0].rpc.remote("threads"), timeout=60)
    assert threads == len(os.sched_getaffinity(0))


def _engine_process(actor_pid: int) -> int:
    """The largest child: beside it there is multiprocessing's own helper. Its title is not always to be had."""
    return int(max(psutil.Process(actor_pid).children(), key=lambda child: child.memory_info().rss).pid)

"""Weights streamed into a real engine: afterwards it computes what transformers computes with the same weights."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from actors.generation import NeedsRefit, WeightsRef
from actors.probe import PolicyMismatch, check_probe
from actors.rollout import GenerationRequest, RolloutGroup
from actors.weight_wire import checksum
from actors.weights import EngineClient, TransferFailed, _while, send_weights
from tests.actors.helpers import MODEL, PROBE, SETTINGS, Learner, gap

pytestmark = pytest.mark.slow
LIKE = {
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "tie_word_embeddings",
    "eos_token_id",
}


@pytest.fixture(scope="module")
def untied(
    ray_session: None, tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[RolloutGroup, Path]]:
    """An engine whose model has a head of its own."""
    config = LlamaConfig.from_pretrained(tiny_llama)
    config.tie_word_embeddings = False
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = LlamaForCausalLM(config)
    folder = tmp_path_factory.mktemp("untied")
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tiny_llama / name).read_bytes())
    group = RolloutGroup(SETTINGS, MODEL, folder)
    yield group, folder
    group.shutdown()


def publish(group: RolloutGroup, learner: Learner, version: int, backend: str) -> None:
    receipt = send_weights(learner.source, group.engines, version, backend=backend, deadline_seconds=60)
    assert receipt.version == version and len(receipt.checksums) == len(learner.source.metadata())
    group.published(WeightsRef(version, receipt.path))


def engine_log_probs(group: RolloutGroup) -> list[Any]:
    (found,) = group.log_probs(PROBE).values()
    return found


@pytest.mark.parametrize("backend", ["shm", "gloo"])
def test_an_engine_with_a_tied_head_computes_the_new_policy(
    engines: RolloutGroup, tiny_llama: Path, backend: str
) -> None:
    learner = Learner(tiny_llama)
    before = engines.weights.version
    for step in (1, 2):  # the second update starts from a model that was updated already
        learner.step(step)
        expected = learner.log_probs(PROBE, 1.0)
        assert gap(engine_log_probs(engines), expected) > 0.01  # the test would see a stale engine
        publish(engines, learner, before + step, backend)
        assert gap(engine_log_probs(engines), expected) < 1e-4
        assert goes_directly(engines)  # so that the second one did


def goes_directly(group: RolloutGroup) -> bool:
    """Whether the engine knows where each tensor of an update ends up."""
    (known,) = ray.get(group.engines[0].rpc.remote("has_plan"), timeout=60)
    return bool(known)


@pytest.mark.parametrize("backend", ["shm", "gloo"])
def test_an_engine_with_its_own_head_computes_the_new_policy(untied: tuple[RolloutGroup, Path], backend: str) -> None:
    group, path = untied
    learner = Learner(path)
    for step in (1, 2):
        learner.step(step + (10 if backend == "shm" else 20))
        expected = learner.log_probs(PROBE, 1.0)
        assert gap(engine_log_probs(group), expected) > 0.01
        publish(group, learner, group.weights.version + 1, backend)
        assert gap(engine_log_probs(group), expected) < 1e-4
        assert goes_directly(group)


def test_biases_and_a_head_that_is_the_embedding_go_to_their_places(
    ray_session: None, tiny_llama: Path, tmp_path: Path
) -> None:
    config = Qwen2Config(**{k: v for k, v in LlamaConfig.from_pretrained(tiny_llama).to_dict().items() if k in LIKE})
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = Qwen2ForCausalLM(config)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tiny_llama / name).read_bytes())
    group, learner = RolloutGroup(SETTINGS, MODEL, tmp_path), Learner(tmp_path)
    try:
        for step in (1, 2, 3):
            learner.step(step)
            expected = learner.log_probs(PROBE, 1.0)
            assert gap(engine_log_probs(group), expected) > 0.01
            publish(group, learner, step, "shm")
            assert gap(engine_log_probs(group), expected) < 1e-4
            assert goes_directly(group)
    finally:
        group.shutdown()


def test_a_directory_is_loaded_with_its_head(engines: RolloutGroup, tiny_llama: Path, tmp_path: Path) -> None:
    learner = Learner(tiny_llama)
    learner.step(5)
    learner.model.save_pretrained(tmp_path)
    engines.load(tmp_path, engines.weights.version + 1)
    assert gap(engine_log_probs(engines), learner.log_probs(PROBE, 1.0)) < 1e-4


def test_updates_and_directories_take_turns(engines: RolloutGroup, tiny_llama: Path, tmp_path: Path) -> None:
    """Each way into the model leaves it as the other one needs it."""
    learner = Learner(tiny_llama)
    for step in range(4):
        learner.step(30 + step)
        if step % 2:
            learner.model.save_pretrained(tmp_path / str(step))
            engines.load(tmp_path / str(step), engines.weights.version + 1)
        else:
            publish(engines, learner, engines.weights.version + 1, "shm")
        assert gap(engine_log_probs(engines), learner.log_probs(PROBE, 1.0)) < 1e-4


def test_sampling_after_an_update_is_by_the_new_policy_and_says_so(engines: RolloutGroup, tiny_llama: Path) -> None:
    learner = Learner(tiny_llama)
    learner.step(6)
    version = engines.weights.version + 1
    publish(engines, learner, version, "shm")
    request = GenerationRequest("x", PROBE[0], n=4, temperature=0.8, max_tokens=20, seed=1)
    (generation,) = engines.client().generate([request])
    for completion in generation.completions:
        sequence = [*PROBE[0], *completion.token_ids]
        expected = learner.log_probs([sequence], 0.8)[0][-len(completion.token_ids) :]
        assert gap([completion.log_probs], [expected]) < 1e-4
        assert set(completion.weight_versions) == {version}


def test_requests_in_flight_go_on_under_the_new_weights_token_by_token(engines: RolloutGroup, tiny_llama: Path) -> None:
    learner = Learner(tiny_llama)
    learner.step(7)
    old = engines.weights.version
    engine = engines.engines[0]
    request = GenerationRequest("x", PROBE[0], n=8, temperature=1.0, max_tokens=240, seed=2)
    running = engine.generate.remote(request, engines.weights)
    time.sleep(0.5)
    publish(engines, learner, old + 1, "shm")
    generation = ray.get(running, timeout=120)
    seen = {completion.weight_versions for completion in generation.completions}
    assert any(set(versions) == {old, old + 1} for versions in seen)
    for completion in generation.completions:
        assert list(completion.weight_versions) == sorted(completion.weight_versions)
        assert len(completion.weight_versions) == len(completion.token_ids)
        sequence = [*PROBE[0], *completion.token_ids]
        expected = learner.log_probs([sequence], 1.0)[0][-len(completion.token_ids) :]
        new = [i for i, version in enumerate(completion.weight_versions) if version == old + 1]
        assert gap([[completion.log_probs[i] for i in new] or [0.0]], [[expected[i] for i in new] or [0.0]]) < 1e-3


def test_an_engine_without_the_weights_asked_for_says_so(engines: RolloutGroup) -> None:
    wanted = WeightsRef(engines.weights.version + 100, "")
    answer = ray.get(engines.engines[0].generate.remote(GenerationRequest("x", PROBE[0]), wanted), timeout=60)
    assert isinstance(answer, NeedsRefit) and answer.wanted == wanted


def test_the_probe_accepts_equal_policies_and_refits_an_engine_that_differs(
    engines: RolloutGroup, tiny_llama: Path
) -> None:
    learner = Learner(tiny_llama)
    learner.step(8)
    expected = learner.log_probs(PROBE, 1.0)
    refitted: list[int] = []

    def refit(some: Sequence[Any]) -> None:
        refitted.append(len(some))
        publish(engines, learner, engines.weights.version + 1, "shm")

    (gap_after,) = check_probe(engines, expected, PROBE, 1e-3, refit).values()
    assert refitted == [1] and gap_after.max < 1e-4
    check_probe(engines, expected, PROBE, 1e-3, refit)
    assert refitted == [1]


def test_the_calls_of_an_update_may_arrive_in_any_order(engines: RolloutGroup, tiny_llama: Path) -> None:
    learner, engine, version = Learner(tiny_llama), engines.engines[0], engines.weights.version + 1
    learner.step(40)
    publish(engines, learner, version, "shm")
    folder = engines.weights.path
    names = [m.name for m in learner.source.metadata()]
    sums = {name: checksum(tensor) for name, tensor in learner.source}
    info = {"path": f"{folder}/model.safetensors"}
    calls = [engine.finish_weight_update.remote(version + 1, folder, sums, "one", 3)]
    time.sleep(0.3)
    calls.append(engine.update_weights.remote(info | {"names": names[3:]}, "one", 2))
    calls.append(engine.update_weights.remote(info | {"names": names[:3]}, "one", 1))
    time.sleep(0.3)
    calls.append(engine.start_weight_update.remote(60.0, "one"))
    ray.get(calls, timeout=60)
    engines.published(WeightsRef(version + 1, folder))
    assert gap(engine_log_probs(engines), learner.log_probs(PROBE, 1.0)) < 1e-4


def test_the_file_of_an_update_is_plain_safetensors(engines: RolloutGroup, tiny_llama: Path) -> None:
    learner = Learner(tiny_llama)
    receipt = send_weights(learner.source, engines.engines, engines.weights.version + 1, backend="shm")
    engines.published(WeightsRef(receipt.version, receipt.path))
    stored = load_file(Path(receipt.path) / "model.safetensors")
    for name, parameter in learner.model.named_parameters():
        assert torch.equal(stored[name], parameter)
    assert dataclasses.asdict(receipt)["bytes"] == sum(p.numel() * 4 for p in learner.model.parameters())


def test_wrong_bytes_end_the_engine_and_a_fresh_one_waits_for_the_learner(
    engines: RolloutGroup, tiny_llama: Path
) -> None:
    """The fresh engine has its first weights, and nobody but the learner has the ones asked for."""
    learner = Learner(tiny_llama)
    learner.step(9)
    version = engines.weights.version + 1
    receipt = send_weights(learner.source, engines.engines, version, backend="shm")
    engine, before = engines.engines[0], engines.infos()[0].incarnation
    wrong = receipt.checksums | {next(iter(receipt.checksums)): 0}
    ray.get(engine.start_weight_update.remote(60.0), timeout=60)
    update = {"path": f"{receipt.path}/model.safetensors", "names": list(receipt.checksums)}
    ray.get(engine.update_weights.remote(update), timeout=60)
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(engine.finish_weight_update.remote(version, receipt.path, wrong), timeout=60)

    engines.published(WeightsRef(version))
    refits: list[int] = []

    def refit(some: Sequence[Any], weights: WeightsRef) -> bool:
        refits.append(weights.version)
        send_weights(learner.source, some, weights.version, backend="gloo", deadline_seconds=60)
        return True

    engines.refit = refit
    try:
        (generation,) = engines.client().generate([GenerationRequest("x", PROBE[0], max_tokens=8, seed=1)])
    finally:
        engines.refit = None
    info = engines.infos()[0]
    assert refits == [version] and info.incarnation != before and info.held == WeightsRef(version)
    (completion,) = generation.completions
    expected = learner.log_probs([[*PROBE[0], *completion.token_ids]], 1.0)[0][-len(completion.token_ids) :]
    assert gap([completion.log_probs], [expected]) < 1e-4


def test_an_engine_that_no_refit_helps_is_replaced(untied: tuple[RolloutGroup, Path]) -> None:
    group, path = untied
    group.load(path, group.weights.version + 1)
    engine = group.engines[0]
    refitted: list[int] = []
    pid = ray.get(engine.info.remote(), timeout=60).pid
    wrong = [values + 1.0 for values in Learner(path).log_probs(PROBE, 1.0)]
    with pytest.raises(PolicyMismatch):
        check_probe(group, wrong, PROBE, 1e-3, lambda some: refitted.append(len(some)))
    assert refitted == [1, 1]  # and once more as it came back, before it is the learner's side that is wrong
    with pytest.raises(ProcessLookupError):
        for _ in range(100):  # a killed process is there until its parent has taken note
            os.kill(pid, 0)
            time.sleep(0.1)


def test_a_transfer_fails_by_its_deadline_when_an_engine_stays_silent(engines: RolloutGroup, tiny_llama: Path) -> None:
    """The last test here that needs this engine: it ends it."""
    engine = engines.engines[0]
    ray.get(engine.start_weight_update.remote(300.0), timeout=60)  # another sender that never comes back
    started = time.monotonic()
    with pytest.raises(TransferFailed):
        send_weights(Learner(tiny_llama).source, [engine], 99, backend="shm", deadline_seconds=3)
    assert time.monotonic() - started < 30


def test_a_transfer_whose_engine_died_does_not_wait_for_our_half_to_notice() -> None:
    """Seen once: an engine's node was killed in mid-broadcast, and gloo went on waiting for it."""
    never = threading.Event()

    def waiting() -> None:
        never.wait()

    def killed() -> None:
        raise ray.exceptions.ActorDiedError

    client = EngineClient([], version=1, deadline_seconds=3600.0)
    with pytest.raises(ray.exceptions.ActorDiedError):
        _while(waiting, killed, client)
    assert not never.is_set() and client.ended
    never.set()


def test_an_exchange_whose_waits_are_another_librarys_ends_with_a_failed_call_and_at_the_deadline(
    ray_session: None,
) -> None:
    @ray.remote(num_cpus=0)
    def failing() -> None:
        raise RuntimeError("no")

    done, client = threading.Event(), EngineClient([], version=1, deadline_seconds=3600.0)
    done.set()
    client.until(done)
    done.clear()

    def call() -> None:
        with suppress(RuntimeError):
            client.wait([failing.remote()])

    thread = threading.Thread(target=call)
    thread.start()
    with pytest.raises(RuntimeError, match="no"):
        client.until(done)
    thread.join()
    with pytest.raises(TimeoutError, match="not done in 1 s"):
        EngineClient([], version=1, deadline_seconds=1.0).until(done)

"""The gang's life: ranks that die, resumed training bit-equal to training that was never interrupted."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from actors.failures import GangLost, NonFiniteSteps
from actors.learner import LearnerGroup
from ledex_ray.config import LearnerConfig, LoraConfig, ModelConfig, OptimizerConfig, PPOConfig
from ledex_ray.episodes import SupervisedExample
from tests.cluster.object_store import simulated_s3
from tests.learner.batches import episodes, examples

OPTIMIZER = OptimizerConfig(lr=1e-3, warmup_steps=2, schedule="cosine")


def group(path: Path, ranks: int = 1, stage: int = 1, **changes: Any) -> LearnerGroup:
    learner = LearnerConfig(
        ranks=ranks,
        zero_stage=stage,
        tokens_per_micro_batch=128,
        threads=1,
        lora=changes.pop("lora", None),
        deadline_seconds=changes.pop("deadline", 120),
    )
    model = ModelConfig(dtype=changes.pop("dtype", "float32"), trust_remote_code=changes.pop("trust", False))
    return LearnerGroup(learner, model, path, OPTIMIZER, total_steps=20, seed=0, **changes)


def weights_hash(learner: LearnerGroup, directory: Path) -> str:
    exported = learner.export_model(directory)
    return hashlib.sha256((exported / "model.safetensors").read_bytes()).hexdigest()


@pytest.mark.slow
def test_a_rank_killed_within_an_update_is_noticed_and_the_replay_is_bit_equal(
    tiny_llama: Path, tmp_path: Path, ray_session: None
) -> None:
    config = PPOConfig(optimizer=OPTIMIZER, minibatch_episodes=2, epochs=4, critic_warmup=1)
    batches = [episodes(12, seed=seed, words=5000, longest=120) for seed in range(3)]
    learner = group(tiny_llama, ranks=2, stage=2, ppo=config)
    try:
        learner.ppo_update(batches[0], 0)
        learner.save_checkpoint(tmp_path / "checkpoints", {"iteration": 1})
        expected = [learner.ppo_update(batches[i], i) for i in (1, 2)]
        expected_weights = weights_hash(learner, tmp_path / "uninterrupted")

        learner.load_checkpoint(tmp_path / "checkpoints")
        victim = learner.pids()[1]
        threading.Timer(0.5, os.kill, (victim, signal.SIGKILL)).start()
        with pytest.raises(GangLost):
            for i in (1, 2):
                learner.ppo_update(batches[i], i)
        assert learner.rebuild(tmp_path / "checkpoints") == {"iteration": 1}
        replayed = [learner.ppo_update(batches[i], i) for i in (1, 2)]
        for ours, theirs in zip(replayed, expected, strict=True):
            assert {k: v for k, v in ours.items() if k != "seconds"} == {
                k: v for k, v in theirs.items() if k != "seconds"
            }
        assert weights_hash(learner, tmp_path / "replayed") == expected_weights
    finally:
        learner.shutdown()


OWN_CODE = """
from transformers import LlamaConfig, LlamaForCausalLM
class OwnConfig(LlamaConfig):
    model_type = "ledex_own"
class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""

DRIVER = """
import hashlib, os, sys
from pathlib import Path
import ray
from actors.learner import LearnerGroup
from actors.places import place
from ledex_ray.config import LearnerConfig, ModelConfig, OptimizerConfig, PPOConfig
from tests.learner.batches import episodes, examples

model, root, stop_after = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
checkpoints, stage = place(sys.argv[5]), sys.argv[6]
optimizer = OptimizerConfig(lr=1e-3, warmup_steps=2, schedule="cosine")
ppo = PPOConfig(optimizer=optimizer, minibatch_episodes=3, epochs=2, critic_warmup=1) if stage == "ppo" else None
ray.init(num_cpus=1, include_dashboard=False, object_store_memory=128 * 2**20, _temp_dir=sys.argv[4])
learner = LearnerGroup(
    LearnerConfig(tokens_per_micro_batch=128, threads=1), ModelConfig(dtype="float32"), model,
    optimizer, total_steps=16, seed=0, ppo=ppo,
)
assert "torch" not in sys.modules
state = learner.load_checkpoint(checkpoints) or {"step": 0}
print("from", state["step"])
for step in range(state["step"], 4):
    if ppo:
        learner.ppo_update(episodes(6, seed=step, words=5000, longest=120), step)
    else:
        learner.sft_step(examples(6, seed=step, words=5000))
    learner.save_checkpoint(checkpoints, {"step": step + 1})
    if step + 1 == stop_after:
        os.kill(os.getpid(), 9)
exported = learner.export_model(root / "model")
(root / "hash").write_text(hashlib.sha256((exported / "model.safetensors").read_bytes()).hexdigest())
learner.shutdown()
ray.shutdown()
"""


def drive(model: Path, root: Path, stage: str, stop_after: int, short_tmp: Path, url: str = "") -> str:
    """What a driver prints that goes on to step 4, or kills itself after a step; checkpoints at `url`, or in `root`."""
    root.mkdir(exist_ok=True)
    work = {"LEDEX_WORK": str(short_tmp) + "-disk"}  # an empty one each time
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(model), str(root), str(stop_after), str(short_tmp),
         url or str(root / "checkpoints"), stage],
        env=os.environ | {"PYTHONPATH": os.getcwd(), "RAY_ADDRESS": ""} | work,
        timeout=900,
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == (-signal.SIGKILL if stop_after else 0), done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "kills"),
    [
        ("sft", (2,)),
        pytest.param("sft", (1, 2, 3), marks=pytest.mark.acceptance),
        pytest.param("ppo", (1, 2, 3), marks=pytest.mark.acceptance),
    ],
)
@pytest.mark.parametrize("storage", ["folder", "s3"])
def test_training_whose_driver_was_killed_between_steps_ends_bit_equal(
    stage: str, kills: tuple[int, ...], storage: str, tiny_llama: Path, tmp_path: Path
) -> None:
    """PPO on recorded episodes."""
    with tempfile.TemporaryDirectory(prefix="gang_") as scratch, ExitStack() as stack:
        url = stack.enter_context(simulated_s3()).url if storage == "s3" else ""
        drive(tiny_llama, tmp_path / "whole", stage, 0, Path(scratch) / "a")
        for number, stop_after in enumerate(kills):
            drive(tiny_llama, tmp_path / "killed", stage, stop_after, Path(scratch) / f"k{number}", url)
        said = drive(tiny_llama, tmp_path / "killed", stage, 0, Path(scratch) / "b", url)
        assert f"from {kills[-1]}" in said
    assert (tmp_path / "killed" / "hash").read_text() == (tmp_path / "whole" / "hash").read_text()


@pytest.mark.slow
def test_two_ranks_resume_what_one_rank_saved(tiny_llama: Path, tmp_path: Path, ray_session: None) -> None:
    one = group(tiny_llama, ranks=1, stage=1)
    try:
        one.sft_step(examples(6, seed=0, words=5000))
        one.save_checkpoint(tmp_path, {"step": 1})
        expected = [one.sft_step(examples(6, seed=seed, words=5000)) for seed in (1, 2)]
    finally:
        one.shutdown()
    two = group(tiny_llama, ranks=2, stage=1)
    try:
        assert two.load_checkpoint(tmp_path) == {"step": 1}
        got = [two.sft_step(examples(6, seed=seed, words=5000)) for seed in (1, 2)]
    finally:
        two.shutdown()
    for ours, theirs in zip(got, expected, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
        assert ours["lr"] == theirs["lr"]


@pytest.mark.slow
def test_bad_steps_are_skipped_by_all_ranks_and_three_stop_with_ids(tiny_llama: Path, ray_session: None) -> None:
    learner = group(tiny_llama, ranks=2, stage=1, ppo=PPOConfig(optimizer=OPTIMIZER, minibatch_episodes=12))
    good = episodes(8, seed=1, words=5000)
    try:
        before = learner.sft_loss(examples(4, words=5000))
        poisoned = [e for e in episodes(8, seed=0, words=5000) if e.scored]
        poisoned[0].rewards[-1] = np.nan  # one episode of one rank: whitening spreads it, no rank may step
        for iteration in range(2):
            metrics = learner.ppo_update(poisoned, iteration)
            assert (metrics["skipped_steps"], metrics["steps"]) == (1.0, 0.0)
        assert learner.sft_loss(examples(4, words=5000)) == before
        assert learner.ppo_update(good, 2)["skipped_steps"] == 0.0
        for iteration in range(3, 5):
            learner.ppo_update(poisoned, iteration)
        with pytest.raises(NonFiniteSteps) as caught:
            learner.ppo_update(poisoned, 5)
        assert set(caught.value.ids) == {e.id for e in poisoned}
    finally:
        learner.shutdown()


class Peer:
    """A rank in a collective, as Ray sees it."""

    def fail(self) -> None:
        raise RuntimeError("Connection closed by peer")

    def die(self) -> None:
        time.sleep(0.5)
        os._exit(1)

    def live(self) -> None:
        pass


@pytest.mark.parametrize(("other", "raised"), [("die", GangLost), ("live", RuntimeError)])
def test_a_rank_that_notices_anothers_death_first_is_not_taken_for_the_fault(
    other: str, raised: type[Exception], ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LearnerGroup, "_end", lambda self: None)
    peer: Any = ray.remote(Peer)
    first, second = (peer.options(num_cpus=0).remote() for _ in range(2))
    gang = LearnerGroup.__new__(LearnerGroup)
    with pytest.raises(raised):
        gang._wait([first.fail.remote(), getattr(second, other).remote()], 60, "step")


@pytest.mark.slow
def test_a_silent_gang_is_ended_at_its_deadline(tiny_llama: Path, ray_session: None) -> None:
    learner = group(tiny_llama, deadline=60)
    try:
        pid = learner.pids()[0]
        learner.learner = learner.learner.model_copy(update={"deadline_seconds": 2.0})
        os.kill(pid, signal.SIGSTOP)
        started = time.monotonic()
        with pytest.raises(GangLost, match="silent"):
            learner.sft_loss(examples(2, words=5000))
        assert time.monotonic() - started < 30
        os.kill(pid, signal.SIGCONT)
    finally:
        learner.shutdown()


PATIENCE = """
import torch, torch.distributed as dist
from torch.distributed import distributed_c10d
from actors.sharded_model import join_group, wait_for_peers

join_group(0, 4000.0)
groups = [dist.group.WORLD, dist.new_group([0])]
for seconds in (4000.0, 5000.0):
    wait_for_peers(seconds)
    print(*[group._get_backend(torch.device("cpu")).options._timeout.total_seconds() for group in groups])
"""


@pytest.mark.slow
def test_no_rank_gives_a_peer_up_before_the_driver_does() -> None:
    """Asked of torch: to see it happen would take ten minutes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    environment = os.environ | alone | {"DS_ACCELERATOR": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", PATIENCE], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.splitlines()[-2:] == ["4000.0 4000.0", "5000.0 5000.0"], done.stderr


class Overtaken:
    """A rank's method whose first call is sent only after another thread's, if another thread can send one by then."""

    def __init__(self, method: Any) -> None:
        self.method = method
        self.first, self.second = threading.Event(), threading.Event()

    def remote(self, *arguments: Any) -> Any:
        if not self.first.is_set():
            self.first.set()
            self.second.wait(3.0)
            return self.method.remote(*arguments)
        sent = self.method.remote(*arguments)
        self.second.set()
        return sent


@pytest.mark.slow
def test_calls_of_two_threads_reach_every_rank_in_the_same_order(
    tiny_llama: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = group(tiny_llama, ranks=2, deadline=60)
    batches = [[e.token_ids for e in examples(4, seed=seed, words=5000)] for seed in range(2)]
    try:
        expected = [learner.log_probs(batch, 1.0) for batch in batches]
        slow = Overtaken(learner._ranks[1].call)
        monkeypatch.setattr(learner._ranks[1], "call", slow, raising=False)
        with ThreadPoolExecutor(2) as threads:
            first = threads.submit(learner.log_probs, batches[0], 1.0)
            assert slow.first.wait(60)
            second = threads.submit(learner.log_probs, batches[1], 1.0)
            got = [first.result(), second.result()]
        for ours, theirs in zip(got, expected, strict=True):
            for a, b in zip(ours, theirs, strict=True):  # ranks in the midst of two calls exchange what is not one's
                np.testing.assert_array_equal(a, b)
    finally:
        learner.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "lora"), [(1, LoraConfig(rank=4)), (3, None)])
def test_the_exported_model_is_the_policy(
    stage: int, lora: LoraConfig | None, tiny_llama: Path, tmp_path: Path, ray_session: None
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    learner = group(tiny_llama, ranks=1 if stage == 1 else 2, stage=stage, lora=lora)
    ids = examples(1, seed=9, words=5000)[0].token_ids
    try:
        start = learner.log_probs([ids], 0.7)[0]
        for seed in range(2):
            learner.sft_step(examples(6, seed=seed, words=5000))
        ours = learner.log_probs([ids], 0.7)[0]
        learner.export_model(tmp_path / "model")
        learner.export_model(tmp_path / "model")  # replaces what is there
    finally:
        learner.shutdown()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    AutoTokenizer.from_pretrained(tmp_path / "model")
    tokens = torch.from_numpy(ids).long()
    with torch.no_grad():
        log_probs = torch.log_softmax(model(tokens[None]).logits[0, :-1] / 0.7, -1)
    exported = log_probs.gather(1, tokens[1:, None]).squeeze(1).numpy()
    np.testing.assert_allclose(ours, exported, atol=1e-5)
    assert np.abs(ours - start).max() > 1e-3
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


@pytest.mark.slow
def test_a_model_with_code_of_its_own_is_exported_with_that_code(
    tiny_llama: Path, tmp_path: Path, ray_session: None
) -> None:
    from transformers import AutoModelForCausalLM

    own = shutil.copytree(tiny_llama, tmp_path / "own")
    (own / "own_code.py").write_text(OWN_CODE)
    config = json.loads((own / "config.json").read_text())
    places = {"AutoConfig": "own_code.OwnConfig", "AutoModelForCausalLM": "own_code.OwnForCausalLM"}
    (own / "config.json").write_text(json.dumps(config | {"model_type": "ledex_own", "auto_map": places}))
    learner = group(own, trust=True)
    try:
        learner.export_model(tmp_path / "model")
    finally:
        learner.shutdown()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", trust_remote_code=True)
    assert type(model).__name__ == "OwnForCausalLM"


def test_a_gang_that_ends_leaves_no_weights_in_shared_memory(tiny_llama: Path, ray_session: None) -> None:
    learner = group(tiny_llama)
    try:
        folder = Path(learner.send_weights([], 1, "shm").path).parent
        assert list(folder.rglob("model.safetensors"))
    finally:
        learner.shutdown()
    assert not folder.exists()


def test_an_example_without_loss_is_refused() -> None:
    with pytest.raises(ValueError, match="no token carries loss"):
        SupervisedExample("e", np.zeros(3, dtype=np.int32), np.zeros(3, dtype=bool))

"""Which weights an engine is sent, and under which version, while another thread trains them."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray

from actors import watchdog
from actors.failures import GangLost
from actors.generation import WeightsRef
from actors.learner import LearnerGroup
from actors.rollout import RolloutGroup
from launch.weight_sync import PolicyGone, WeightSync
from ledex_ray.config import LearnerConfig, ModelConfig, OptimizerConfig, PPOConfig, RolloutConfig
from tests.learner.batches import episodes

pytestmark = pytest.mark.slow

PROBE = [[17 * i + k + 10 for k in range(12)] for i in range(3)]
MODEL = ModelConfig(dtype="float32", max_length=256)
EPOCHS = 24


@pytest.fixture(scope="module")
def synced(tiny_llama: Path, ray_session: None) -> Iterator[tuple[LearnerGroup, RolloutGroup, WeightSync]]:
    """A learner and one engine that takes weights over gloo alone: there is no path it could load them from."""
    optimizer = OptimizerConfig(lr=1e-2)
    ppo = PPOConfig(optimizer=optimizer, minibatch_episodes=2, epochs=EPOCHS, critic_warmup=0)
    rollout = RolloutConfig(max_num_seqs=4, kv_cache_gb=0.25, weight_transfer="gloo")
    group = RolloutGroup(rollout, MODEL, tiny_llama)
    learner = LearnerGroup(
        LearnerConfig(tokens_per_micro_batch=128), MODEL, tiny_llama, optimizer, total_steps=1000, seed=0, ppo=ppo
    )
    yield learner, group, WeightSync(learner, group, PROBE, 1e-3)
    learner.shutdown()
    group.shutdown()


def test_a_refit_during_an_update_waits_and_then_sends_what_is_there_under_its_own_version(
    synced: tuple[LearnerGroup, RolloutGroup, WeightSync],
) -> None:
    learner, group, sync = synced
    sync.publish()
    before = ray.get(group.engines[0].info.remote(), timeout=60).held
    assert before.version == 0
    update = threading.Thread(target=learner.ppo_update, args=(episodes(12, words=5000, longest=60), 0))
    update.start()
    while learner.turn.acquire(blocking=False):  # until the update has begun
        learner.turn.release()
        time.sleep(0.001)
    assert sync.refit(group.engines, WeightsRef(0)) is False
    assert ray.get(group.engines[0].info.remote(), timeout=60).held == before
    update.join()
    assert sync.refit(group.engines, WeightsRef(0)) is True
    assert ray.get(group.engines[0].info.remote(), timeout=60).held.version == 1
    ours = learner.log_probs([np.asarray(s, dtype=np.int32) for s in PROBE], 1.0)
    (theirs,) = group.log_probs(PROBE).values()
    assert max(float(np.abs(np.asarray(a) - b).max()) for a, b in zip(theirs, ours, strict=True)) < 1e-4


def test_weights_from_before_a_checkpoint_was_loaded_are_not_to_be_had(
    synced: tuple[LearnerGroup, RolloutGroup, WeightSync],
) -> None:
    _, group, sync = synced
    sync.restart(0)
    with pytest.raises(PolicyGone):
        sync.refit(group.engines, WeightsRef(1))


def test_engines_that_a_lost_gang_left_in_mid_update_start_anew(
    synced: tuple[LearnerGroup, RolloutGroup, WeightSync], tmp_path: Path
) -> None:
    """The last test here: it ends the gang. The engine would wait for the rest of its update for ten minutes."""
    learner, group, sync = synced
    before = group.infos()[0]
    failure: list[BaseException] = []

    def send() -> None:
        try:
            sync.refit(group.engines, WeightsRef(0))
        except GangLost as error:
            failure.append(error)

    ray.get(group.engines[0].start_weight_update.remote(600.0, "another"), timeout=60)  # so that ours does not end
    sending = threading.Thread(target=send)
    sending.start()
    while sending.is_alive() and learner.turn.acquire(blocking=False):
        learner.turn.release()
        time.sleep(0.001)
    os.kill(watchdog.whereabouts(learner._ranks[0]).pid, signal.SIGKILL)
    sending.join(120)
    assert failure and not sending.is_alive()
    learner.rebuild(tmp_path)
    sync.publish()
    (after,) = group.infos()
    assert after.incarnation != before.incarnation and after.streamed

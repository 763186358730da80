"""The PPO loop on a tiny random model with every real engine: policies agree, kills are survived, Tune drives it."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from actors.learner import LearnerGroup
from benchmarks.small_runs import open_beside, small_tree, synthesized
from examples.sweep_kl import sweep
from launch.browse.tokens import load_tokenizer
from launch.debug_ppo import DebugPPO
from launch.fleet import Fleet
from launch.ppo import ppo, training
from launch.ppo_setup import STAGE
from launch.rundir import RunDirectory, read_parts
from launch.tracking import Tracker
from ledex_ray.config import Recipe
from ledex_ray.episode_store import EpisodeStore
from ledex_ray.recipes import recipe_from_tree
from reward.compose import Inputs

pytestmark = pytest.mark.slow

ITERATIONS = 3


def tree(model: Path, run: str, arm: str = "paper", **ppo_keys: Any) -> dict[str, Any]:
    """A recipe in which a random model answers seeded bugs: all the machinery, nothing to learn."""
    return small_tree(
        model,
        run,
        model={"dtype": "float32"},
        problems={"limit": 4},
        sandbox={"actors": 2},
        reward={"arm": arm},
        ppo={
            "iterations": ITERATIONS,
            "prompts_per_iteration": 2,
            "sampling": {"n": 2, "max_tokens": 16},
            "minibatch_episodes": 4,
            "validate_every": 2,
            "checkpoint_every": 1,
            "reload_tolerance": 1e-3,
            "optimizer": {"lr": 1e-3},
            **ppo_keys,
        },
    )


@pytest.fixture(scope="module")
def tiny_llama(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a head of its own that ends one answer in about ten tokens, so that dialogues go on."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig.from_pretrained(tiny_llama)
    config.tie_word_embeddings = False
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 5.0  # after the norm this channel is nearly the root of the width
        model.lm_head.weight[:, 0] = 0.0
        model.lm_head.weight[config.eos_token_id] = 0.0
        model.lm_head.weight[config.eos_token_id, 0] = np.log(config.vocab_size / 10) / config.hidden_size**0.5
    folder = tmp_path_factory.mktemp("ending_llama")
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def fleet(tiny_llama: Path, ray_session: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One engine, one sandbox pool and one finished synthesis for all tests of this file."""
    os.environ["LEDEX_RUNS"] = str(tmp_path_factory.mktemp("runs"))
    with Fleet(recipe_from_tree(tree(tiny_llama, "base"))) as fleet:
        synthesized(fleet)
        yield fleet
    del os.environ["LEDEX_RUNS"]


def open_run(fleet: Fleet, recipe: Recipe) -> RunDirectory:
    return open_beside(Path(os.environ["LEDEX_RUNS"]) / "base", fleet, recipe)


def train(fleet: Fleet, run_name: str, model: Path, arm: str = "paper", **ppo_keys: Any) -> Path:
    run = open_run(fleet, recipe_from_tree(tree(model, run_name, arm, **ppo_keys)))
    tracker = Tracker(run)
    try:
        ppo(run, fleet, tracker)
    finally:
        tracker.close()
        run.close()
    return run.root


@pytest.mark.parametrize("mode", ["synchronous", "asynchronous"])
def test_each_iteration_is_committed_once_under_the_policy_it_says(fleet: Fleet, tiny_llama: Path, mode: str) -> None:
    root = train(fleet, mode, tiny_llama, mode=mode)
    history = read_parts(root / STAGE / "metrics")
    assert [row["step"] for row in history] == [1, 2, 3]
    assert all(row["engine_gap_mean"] < 1e-4 for row in history)  # float32: engine and learner are one policy
    assert history[0]["kl"] == pytest.approx(0.0, abs=1e-6)
    rates = ["validation_pass_rate", "validation_pass_rate_start", "validation_infra"]
    assert [history[1][name] for name in rates] == [0.0, 0.0, 0], "a random model repairs nothing"
    assert all(0 < row["busy_rollout"] <= 1 and 0 < row["busy_learner"] <= 1 for row in history)
    assert all(row["tokens_per_second/rollout-0"] > 0 and row["queue_peak_rollout"] >= 2 for row in history[:1])
    staleness = 0 if mode == "synchronous" else 1
    store = EpisodeStore(root / STAGE / "episodes")
    for iteration in range(ITERATIONS):
        episodes = store.read(iteration)
        assert episodes is not None and len(episodes) == 4
        versions = np.concatenate([e.weight_versions[e.loss_mask] for e in episodes])
        assert versions.min() >= max(0, iteration - staleness) and versions.max() <= iteration
        assert history[iteration]["staleness_max"] == iteration - versions.min()
        ids = episodes[0].token_ids[episodes[0].loss_mask].tolist()
        assert load_tokenizer(root).decode(ids).strip() == episodes[0].text.strip()
    assert (root / STAGE / "model" / "config.json").exists()


def test_an_episode_of_several_turns_is_learned_from_as_it_was_sampled(fleet: Fleet, tiny_llama: Path) -> None:
    keys: dict[str, Any] = {"turns": 3, "sampling": {"n": 4, "max_tokens": 48}, "iterations": 2}
    root = train(fleet, "turns", tiny_llama, **keys)
    store = EpisodeStore(root / STAGE / "episodes")
    episodes = [e for iteration in range(2) for e in store.read(iteration) or []]
    answers = [int(np.diff(np.concatenate([[0], e.loss_mask.astype(int)])).clip(0).sum()) for e in episodes]
    assert max(answers) == 3 and len(episodes) == 16
    for episode, turns in zip(episodes, answers, strict=True):
        assert turns == 1 or "no Python code" in episode.text
    assert all(row["behaviour_gap_max"] < 1e-3 for row in read_parts(root / STAGE / "metrics"))


def test_a_killed_learner_is_rebuilt_and_replays_the_stored_episodes(fleet: Fleet, tiny_llama: Path) -> None:
    killed: list[int] = []

    def kill_once() -> None:
        metrics = Path(os.environ["LEDEX_RUNS"]) / "killed" / STAGE / "metrics"
        while not any(metrics.glob("*.jsonl")):
            time.sleep(0.1)
        for process in psutil.Process().children(recursive=True):  # this session's alone
            if "ray::_RankActor" in " ".join(process.cmdline()):
                killed.append(process.pid)
                os.kill(process.pid, signal.SIGKILL)

    threading.Thread(target=kill_once, daemon=True).start()
    root = train(fleet, "killed", tiny_llama)
    assert killed
    assert [row["step"] for row in read_parts(root / STAGE / "metrics")] == [1, 2, 3]
    ids = [e.id for i in range(ITERATIONS) for e in EpisodeStore(root / STAGE / "episodes").read(i) or []]
    assert len(ids) == len(set(ids)) == 4 * ITERATIONS


def test_a_best_model_without_its_checkpoint_is_not_kept(
    fleet: Fleet, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver ends after the export at iteration 2 and before the checkpoint that would count it as the best."""
    save = LearnerGroup.save_checkpoint

    def end_at_two(learner: LearnerGroup, directory: Path, state: dict[str, Any]) -> None:
        if state["iteration"] == 2:
            raise KeyboardInterrupt
        save(learner, directory, state)

    root = Path(os.environ["LEDEX_RUNS"]) / "torn"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(LearnerGroup, "save_checkpoint", end_at_two)
        train(fleet, "torn", tiny_llama)
    assert not (root / STAGE / "model").exists()
    train(fleet, "torn", tiny_llama)
    assert (root / STAGE / "model" / "config.json").exists() and not list((root / STAGE).glob(".model*"))


def coin(inputs: Inputs) -> float:
    """A reward by the answer's id: in groups of two, half of all groups are flat."""
    return float(hashlib.sha256(inputs.terms.id.encode()).digest()[0] % 2)


def test_groups_without_variance_are_replaced_under_grpo(fleet: Fleet, tiny_llama: Path) -> None:
    keys = {"algorithm": "grpo", "filter_groups": True, "kl_coef": 0.0, "iterations": 2, "prompts_per_iteration": 4}
    root = train(fleet, "grpo", tiny_llama, arm=f"{__name__}:coin", **keys)
    sampled = 0
    for iteration, metrics in enumerate(read_parts(root / STAGE / "metrics")):
        groups: dict[str, list[float]] = {}
        for episode in EpisodeStore(root / STAGE / "episodes").read(iteration) or []:
            groups.setdefault(episode.group_id, []).append(episode.score)
        flat = [scores for scores in groups.values() if len(set(scores)) == 1]
        assert metrics["unused_groups"] == len(flat) and metrics["n_used"] == 2 * (len(groups) - len(flat))
        assert len(groups) - len(flat) <= 4 and metrics["episodes"] == 2 * len(groups)
        assert metrics["reward"] == pytest.approx(np.mean([score for scores in groups.values() for score in scores]))
        sampled += len(groups)
    assert sampled > 2 * 4, "a flat group brings another one"


def test_an_iteration_without_variance_at_all_goes_on(fleet: Fleet, tiny_llama: Path) -> None:
    keys = {"algorithm": "grpo", "filter_groups": True, "kl_coef": 0.0, "iterations": 1}
    root = train(fleet, "flat", tiny_llama, arm=f"{__name__}:constant", **keys)
    (metrics,) = read_parts(root / STAGE / "metrics")
    assert (metrics["episodes"], metrics["unused_groups"], metrics["n_used"]) == (12, 6, 0), "three times two prompts"
    assert metrics["reward_refinement"] == 1.0


def constant(inputs: Inputs) -> float:
    """A reward that teaches nothing."""
    return 1.0


def test_rllib_drives_saves_and_restores_it(fleet: Fleet, tiny_llama: Path, tmp_path: Path) -> None:
    run = open_run(fleet, recipe_from_tree(tree(tiny_llama, "rllib")))
    tracker = Tracker(run)
    try:
        with training(run, fleet, tracker) as algorithm:
            result = algorithm.train()
            assert result["training_iteration"] == 1 and -10 <= result["reward"] <= 10
            saved = algorithm.save_to_path(str(tmp_path / "checkpoint"))
            restored = DebugPPO.from_checkpoint(saved)
            assert restored.progress.iteration == 1
            for iteration in range(2, ITERATIONS + 2):  # Tune may ask for more than the recipe says
                assert restored.train()["training_iteration"] == iteration
            restored.stop()
    finally:
        tracker.close()
        run.close()


def test_tune_trains_from_one_finished_synthesis(fleet: Fleet, tiny_llama: Path) -> None:
    base = Path(os.environ["LEDEX_RUNS"]).resolve() / "base"
    tree_of_one = tree(tiny_llama, "base", iterations=1, validate_every=1)
    tree_of_one["sandbox"] = {"floor": "C"}
    fleet.sandbox.shutdown()  # a trial starts sandboxes of its own, as many as this Ray has places for
    results = sweep(base, tree_of_one, [0.1])  # one, since each starts an engine
    assert not results.errors
    assert [(result.metrics or {})["training_iteration"] for result in results] == [1]
    assert [row["kl_coef"] for row in read_parts(base.parent / "base-kl-0.1" / STAGE / "metrics")] == [0.1]

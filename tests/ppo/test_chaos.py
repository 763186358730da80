"""Twenty iterations while processes are killed and stopped: the run ends, and what it counted is what happened."""

from __future__ import annotations

import logging
import os
import re
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from actors.generation import Completion, Generation
from actors.score_stream import ScoreStream
from benchmarks.small_runs import small_tree
from launch.collect import Assignments, Collector
from launch.dialogue import Dialogue, build_episode
from launch.fleet import Fleet
from launch.ppo import ppo
from launch.ppo_setup import STAGE
from launch.problem_sets import training_problems
from launch.rundir import RunDirectory, read_parts
from launch.synthesize import load_trajectories, synthesize
from launch.tracking import Tracker
from ledex_ray.episode_store import EpisodeStore
from ledex_ray.episodes import Episode
from ledex_ray.recipes import recipe_from_tree
from tests.ppo.chaos import Attack, Chaos, Log

pytestmark = pytest.mark.acceptance

ITERATIONS, PROMPTS, SAMPLES = 20, 4, 4
SANDBOX_DEADLINE = 20.0
READY = 4  # deadlines: in which an engine or a rank becomes ready, on a busy machine too
LEARNER_READY = 20.0


def tree(model: Path, run: str, mode: str, deadline: float) -> dict[str, Any]:
    return small_tree(
        model,
        run,
        problems={"limit": 6},
        sandbox={"actors": 2, "deadline_seconds": SANDBOX_DEADLINE},
        # A process may also be stopped while it starts: as long as that may take, nothing is named.
        rollout={"deadline_seconds": deadline, "ready_seconds": READY * deadline},
        learner={"deadline_seconds": deadline, "ready_seconds": READY * deadline},
        ppo={
            "iterations": ITERATIONS,
            "mode": mode,
            "prompts_per_iteration": PROMPTS,
            "sampling": {"n": SAMPLES, "max_tokens": 64},
            "minibatch_episodes": PROMPTS * SAMPLES,
            "validate_every": 5,
            "checkpoint_every": 1,
        },
    )


def seconds(work: Callable[[], Any]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


@pytest.mark.parametrize(
    # `gap`, in times of becoming ready alone, lies between two attacks. Several that start at once on two cores take
    # longer, and between two that each stop the run for a deadline an iteration has to fit.
    ("model", "mode", "deadline", "gap"),
    [
        ("tiny_llama", "synchronous", 20.0, 6),
        ("tiny_llama", "asynchronous", 20.0, 6),
        ("smollm2", "asynchronous", 60.0, 10),
    ],
)
def test_a_run_under_attack_ends_and_its_episodes_are_whole_single_and_honest(
    model: str, mode: str, deadline: float, gap: int, request: pytest.FixtureRequest, ray_session: Any, runs_dir: Path
) -> None:
    recipe = recipe_from_tree(tree(request.getfixturevalue(model), f"chaos-{model}-{mode}", mode, deadline))
    heard = Log()
    logging.getLogger().addHandler(heard)
    request.addfinalizer(partial(logging.getLogger().removeHandler, heard))
    logging.getLogger("actors").setLevel(logging.INFO)
    run = RunDirectory.open(recipe)
    with Fleet(recipe) as fleet:
        engine = seconds(lambda: fleet.rollout)
        synthesize(run, fleet)
        encoder = seconds(lambda: ray.get(fleet.embedder.ready.remote(), timeout=300))
        ready = {"RolloutActor": engine, "SandboxActor": 5.0, "EmbedderActor": encoder, "_RankActor": LEARNER_READY}
        gaps = {kind: gap * seconds for kind, seconds in ready.items()}
        chaos, tracker = Chaos(gaps, seed=7), Tracker(run)
        chaos.start()
        try:
            ppo(run, fleet, tracker)
        finally:
            chaos.end()
            tracker.close()
        store = EpisodeStore(run.root / STAGE / "episodes")
        episodes = [e for iteration in range(ITERATIONS) for e in store.read(iteration) or []]
        wrong = dishonest(run, fleet, episodes)  # meets what was still stopped when the run ended
    run.close()
    print(f"attacks: {[(a.kind, a.signal.name) for a in chaos.attacks]}")
    assert {a.kind for a in chaos.attacks} == set(gaps)
    assert [row["step"] for row in read_parts(run.root / STAGE / "metrics")] == list(range(1, ITERATIONS + 1))
    given_up = sum("assignment_given_up" in message for _, message in heard.messages)
    ids = [episode.id for episode in episodes]
    assert len(ids) == len(set(ids)) == (ITERATIONS * PROMPTS - given_up) * SAMPLES
    assert not wrong
    assert not [e.id for e in episodes if e.verdict == "INFRA" and e.scored]
    for attack in chaos.attacks:
        if attack.signal is signal.SIGSTOP and not left_over(attack.pid):
            assert any(names(message, attack) for at, message in heard.messages if at > attack.at), attack


def names(message: str, attack: Attack) -> bool:
    """Whether a message says that this process is stuck: by its number, or, if it was still starting, by its actor."""
    starting = {
        "RolloutActor": r"actor=rollout-\S+ not started after",
        "SandboxActor": r"actor=sandbox-\S+ not started after",
        "EmbedderActor": r"actor=embedder not started after",
        "_RankActor": r"(endpoint|build): \d+ ranks silent for",
    }
    return f"pid={attack.pid} state=T" in message or re.search(starting[attack.kind], message) is not None


def left_over(pid: int) -> bool:
    """Whether a stopped process is still there, because nobody asked it for anything before the run ended; ends it."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def dishonest(run: RunDirectory, fleet: Fleet, episodes: list[Episode]) -> list[str]:
    """Ids of scored episodes that earn another reward where nothing is killed."""
    collector = Collector(fleet)
    assignments = Assignments(
        load_trajectories(run), training_problems(run.recipe), fleet.renderer, run.recipe, collector.arm
    )
    wrong = []
    with ScoreStream(fleet.sandbox.client()) as stream:
        for group_id in dict.fromkeys(e.group_id for e in episodes):
            (assignment,) = assignments.take(int(group_id.split("/")[0]), 1)
            group = [e for e in episodes if e.group_id == group_id]
            dialogues = [Dialogue(assignment, int(e.id.rpartition("/")[2])) for e in group]
            generation = Generation(group_id, tuple(completion(e) for e in group))
            scored = collector.score(dialogues, generation, stream, execute=True).result()
            for dialogue, episode in zip(scored, group, strict=True):
                again = build_episode(dialogue, episode.temperature, fleet.renderer)
                assert again.id == episode.id and again.scored
                if episode.scored and not np.array_equal(again.rewards, episode.rewards):
                    wrong.append(episode.id)
    return wrong


def completion(episode: Episode) -> Completion:
    """What the engine gave for this episode."""
    at = episode.loss_mask
    return Completion(
        tuple(episode.token_ids[at].tolist()),
        tuple(episode.behaviour_log_probs[at].tolist()),
        tuple(episode.weight_versions[at].tolist()),
        episode.text,
        "length" if episode.truncated else "stop",
    )

"""PPO on refinements (LeDex, section 3.3), with RLlib's Algorithm as its control plane.

RLlib gives `tune.Tuner`, callbacks, the metrics logger, checkpoint and restore. Sampling is vLLM's and learning is
DeepSpeed's: EnvRunnerGroup, LearnerGroup, RLModule, connectors and replay buffers are not used.
Three private names of RLlib 2.60 are touched in `_bare_setup`; a test holds them.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import ray
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.utils.annotations import override
from ray.rllib.utils.checkpoints import Checkpointable
from ray.tune import PlacementGroupFactory

from actors.failures import GangLost
from actors.learner import LearnerGroup
from actors.places import Place, place
from actors.weights import TransferFailed
from launch.best_model import BestModel
from launch.collect import Assignments, Collector
from launch.console import log, task
from launch.dialogue import Assignment
from launch.fleet import Fleet
from launch.problem_sets import validation_problems
from launch.rundir import RunDirectory, runs_place
from launch.seeding import seeded_trajectories
from launch.synthesize import load_trajectories, require_synthesis
from launch.tracking import Tracker
from launch.training_set import training_set
from launch.utilisation import Utilisation
from launch.weight_sync import WeightSync
from ledex_ray.config import Recipe, recipe_from_tree
from ledex_ray.episode_metrics import describe, flat
from ledex_ray.episode_store import EpisodeStore
from ledex_ray.episodes import Episode
from ledex_ray.errors import BadInput
from ledex_ray.placement import TRACE
from ledex_ray.prompts import fenced
from ledex_ray.records import Trajectory

STAGE = "ppo"
MOST_LOSSES = 5  # of the gang within one step: after that it is not an accident
PROBE_SEQUENCES = 4
MOST_REPLACEMENTS = 2  # with filter_groups: at most so many more batches are sampled to replace flat groups


@dataclass
class Progress:
    """Where the training stands; it travels with each checkpoint."""

    iteration: int = 0  # updates committed; also the version of the weights, and what the data cursor follows from
    best_rate: float = -1.0
    best_iteration: int = 0


@dataclass(frozen=True)
class Session:
    """The live surroundings of one training: a run directory, its actors, its metrics."""

    run: RunDirectory
    fleet: Fleet
    tracker: Tracker


class DebugPPOConfig(AlgorithmConfig):
    """RLlib's config object around a recipe: `DebugPPOConfig().recipe({...})`.

    For Tune, whose trials run in processes and folders of their own, `param_space` gives the same as a mapping.
    """

    def __init__(self, algo_class: type[Algorithm] | None = None) -> None:
        super().__init__(algo_class=algo_class or DebugPPO)
        self._is_online = False  # no EnvRunnerGroup
        self.ledex: dict[str, Any] = {}
        self.runs = ""  # where runs live; "" for this process's own idea of it

    def recipe(self, tree: Mapping[str, Any]) -> DebugPPOConfig:
        """Takes a recipe as a plain mapping; raises BadInput where it is wrong."""
        recipe_from_tree(tree)
        self.ledex = dict(tree)
        return self

    @staticmethod
    def param_space(tree: Mapping[str, Any]) -> dict[str, Any]:
        """A recipe as Tune's `param_space`, in which any key may be a search, e.g. `tune.grid_search`.

        Each trial needs a `run` of its own: `tune.sample_from` makes one from what was searched.
        """
        runs = runs_place()  # a trial has a working directory of its own
        return {"ledex": dict(tree), "runs": str(runs.resolve() if isinstance(runs, Path) else runs)}


class DebugPPO(Algorithm):
    """One PPO training. Its `training_step` is the method."""

    shared: ClassVar[Session | None] = None  # set by `ppo`; a Tune trial opens a session of its own
    session: Session
    progress: Progress
    weights: WeightSync
    learner: LearnerGroup
    _next: int  # the first iteration that nobody collects for yet

    @override(Algorithm)
    def training_step(self) -> None:
        losses = 0
        while True:
            try:
                if losses:
                    self._go_back(self.learner.rebuild, self.checkpoints)
                metrics = self._iterate()
                break
            except (GangLost, TransferFailed) as error:
                losses += 1
                if losses == MOST_LOSSES:
                    raise
                log.warning("ppo: %s; rebuilding the gang, %d of %d times", error, losses, MOST_LOSSES - 1)
        for name, value in metrics.items():
            self.metrics.log_value(name, value, reduce="mean", window=1)

    def _iterate(self) -> dict[str, float]:
        """One iteration: collect, store, update, validate, commit. Episodes that are stored are never made again."""
        iteration = self.progress.iteration
        episodes = self.store.read(iteration)
        if episodes is None:
            episodes = self._episodes(iteration)
            self.store.write(iteration, episodes)
            self.run.commit()
        metrics = describe(episodes) | self.weights.gap | self.learner.ppo_update(episodes, iteration)
        self.progress.iteration += 1
        if self._due(self.settings.validate_every):
            metrics |= self._validate()
        metrics |= self.utilisation.measure()
        self.session.tracker.log(STAGE, self.progress.iteration, metrics)
        self.run.commit()
        if self._due(self.settings.checkpoint_every):
            self.learner.save_checkpoint(self.checkpoints, asdict(self.progress))
            self.best.settle(self.progress.best_iteration)
        return metrics

    def _episodes(self, iteration: int) -> list[Episode]:
        """The iteration's episodes, from weights at most `max_staleness` versions old (0 when synchronous).

        Asynchronously, the next batches are sampled and scored while this one is learned from; new weights reach the
        engines in the midst of that, and each token keeps the version it was sampled under.
        """
        self.weights.publish()
        ahead = self.settings.max_staleness if self.settings.mode == "asynchronous" else 0
        self._next = max(self._next, iteration)
        while self._next <= min(iteration + ahead, self.settings.iterations - 1):
            self._coming[self._next] = self._background.submit(self._collect, self._next)
            self._next += 1
        episodes = self._coming[iteration].result()
        del self._coming[iteration]
        return episodes

    def _collect(self, iteration: int) -> list[Episode]:
        """Groups of episodes in a fixed order.

        Replaced are groups that a group estimator can make nothing of (fewer than two scored members) and, with
        `filter_groups`, those without variance.
        """
        want, seed = self.settings.prompts_per_iteration, self.settings.seed + iteration
        groups: dict[str, list[Episode]] = {}
        grouped = self.settings.algorithm in ("grpo", "rloo")
        replaces = self.settings.filter_groups or grouped
        for attempt in range(1 + MOST_REPLACEMENTS * replaces):
            start = iteration * want + attempt * REPLACEMENT_OFFSET
            assignments = self.assignments.take(start, want - len(groups))
            groups_found = self.collector.collect(
                assignments,
                self.settings.sampling,
                self.weights.ref,
                seed,
                turns=self.settings.turns,
                called_off=self._off.is_set,
            )
            for group in groups_found:
                alone = grouped and sum(e.scored for e in group) < 2  # nothing to be compared with
                if group and not alone and not (self.settings.filter_groups and flat(group)):
                    groups[group[0].group_id] = group
            if len(groups) >= want:
                break
        return [episode for _, group in sorted(groups.items()) for episode in group]

    def _validate(self) -> dict[str, float]:
        """The pass rate on held-in validation bugs; the best model by it is kept, once a checkpoint says so."""
        self.weights.publish()
        rate = self._pass_rate(self.validation)
        if not rate < self.progress.best_rate:  # NaN, where nothing could be validated, keeps the latest
            self.progress.best_rate, self.progress.best_iteration = rate, self.progress.iteration
            self.learner.export_model(self.best.staged(self.progress.iteration))
        return {"validation_pass_rate": rate}

    def _pass_rate(self, assignments: Sequence[Assignment]) -> float:
        sampling = self.settings.sampling.model_copy(update={"n": self.settings.validation_samples})
        groups = self.collector.collect(
            assignments, sampling, self.weights.ref, self.settings.seed, execute=True, turns=self.settings.turns
        )
        verdicts = [e.verdict == "PASSED" for group in groups for e in group if e.verdict != "INFRA"]
        return float(np.mean(verdicts)) if verdicts else math.nan

    def _due(self, every: int) -> bool:
        return self.progress.iteration % every == 0 or self.progress.iteration == self.settings.iterations

    # ---- RLlib ---------------------------------------------------------------------------------------------

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> AlgorithmConfig:
        return DebugPPOConfig()

    @override(Algorithm)
    def setup(self, config: AlgorithmConfig) -> None:
        self._bare_setup()
        self._owned = self.shared is None
        self.session = self.shared or open_session(recipe_from_tree(self.config.ledex), self.config.runs)
        self.run, fleet = self.session.run, self.session.fleet
        recipe = self.run.recipe
        self.settings = recipe.ppo
        self.progress = Progress()
        self._background = ThreadPoolExecutor(1, thread_name_prefix="collect")
        self._coming: dict[int, Future[list[Episode]]] = {}
        self._off = threading.Event()  # what is being sampled in the background is no longer wanted
        self._next = 0
        self.store = EpisodeStore(self.run.path(STAGE, "episodes", "x").parent)
        self.checkpoints = self.run.place(STAGE, "checkpoints")
        self.best = BestModel(self.run.place(STAGE, "model"))
        self.collector = Collector(fleet)
        self.assignments = _training_assignments(self.run, fleet, self.collector)
        self.validation = _validation_assignments(self.run, fleet, self.collector)
        self.learner = LearnerGroup(
            recipe.learner,
            recipe.model,
            start_model(self.run, fleet),
            self.settings.optimizer,
            total_steps=_optimizer_steps(recipe),
            seed=self.settings.seed,
            ppo=self.settings,
            separated=recipe.reward.separated,
        )
        probe = _probe(self.assignments, fleet)
        self.weights = WeightSync(self.learner, fleet.rollout, probe, self.settings.reload_tolerance)
        self.utilisation = Utilisation(fleet, self.learner)

    def _bare_setup(self) -> None:
        """What `step`, `save` and `cleanup` of Algorithm touch, without what its own `setup` builds."""
        classes = self.config.callbacks_class
        self.callbacks = [c() for c in (classes if isinstance(classes, list) else [classes])]
        self.env_runner_group = None
        self.spaces = self.offline_data = self._aggregator_actor_manager = None
        self.env_to_module_connector = self.module_to_env_connector = None
        self.evaluation_config = self.config.get_evaluation_config_object()
        self._set_up_metrics()

    @classmethod
    @override(Algorithm)
    def default_resource_request(cls, config: Any) -> PlacementGroupFactory:
        """What a trial's actors ask Ray for; long-lived actors take no CPU, and learner ranks place themselves."""
        recipe = recipe_from_tree(config["ledex"])
        rollout = recipe.rollout
        sandboxes = recipe.sandbox.actors or max(1, int(ray.cluster_resources().get("sandbox", 1)))
        engine = {"GPU": rollout.gpus * rollout.tensor_parallel} if rollout.gpus else {"CPU": TRACE}
        encoder = {"CPU": TRACE}
        return PlacementGroupFactory(
            [{"CPU": 1.0}, *[{"sandbox": 1.0}] * sandboxes, *[engine] * rollout.actors, encoder]
        )

    @override(Algorithm)
    def restore_env_runners(self, env_runner_group: Any) -> list[int]:
        return []

    @override(Algorithm)
    def get_checkpointable_components(self) -> list[tuple[str, Checkpointable]]:
        return []

    @override(Algorithm)
    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        return {"metrics": self.metrics.get_state(), "progress": asdict(self.progress)}

    @override(Algorithm)
    def set_state(self, state: dict[str, Any]) -> None:
        self.metrics.set_state(state["metrics"])
        self.progress = Progress(**state["progress"])
        self._iteration = self.progress.iteration

    @override(Algorithm)
    def save_to_path(self, path: Any = None, **kwargs: Any) -> str:
        saved = super().save_to_path(path, **kwargs)
        self.learner.save_checkpoint(Path(saved) / "learner", asdict(self.progress))
        return saved

    @override(Algorithm)
    def restore_from_path(self, path: Any, *args: Any, **kwargs: Any) -> None:
        Checkpointable.restore_from_path(self, path, *args, **kwargs)  # Algorithm's own asks the EnvRunnerGroup
        self._go_back(self.learner.load_checkpoint, Path(path) / "learner")

    @override(Algorithm)
    def cleanup(self) -> None:
        self._call_off()
        self._background.shutdown()
        self.learner.shutdown()
        if self._owned:
            self.session.fleet.close()
            self.session.tracker.close()
            self.session.run.close()

    def resume(self) -> None:
        """Goes on from the run's newest complete checkpoint, where there is one."""
        self._go_back(self.learner.load_checkpoint, self.checkpoints)

    def _go_back(self, load: Callable[[Place], Mapping[str, Any] | None], checkpoints: Place) -> None:
        self._call_off()  # first: nobody may be sent the weights while their version is not known
        state = load(checkpoints)
        self.progress = Progress(**state) if state else Progress()
        self._iteration = self.progress.iteration
        self.weights.restart(self.progress.iteration)
        self.best.settle(self.progress.best_iteration)
        self._next = self.progress.iteration
        self.session.tracker.forget_after(STAGE, self.progress.iteration)
        if state:
            log.info("ppo: going on after iteration %d", self.progress.iteration)

    def _call_off(self) -> None:
        """Ends what is being sampled in the background: it is sampled again, under weights that are known."""
        self._off.set()
        for future in self._coming.values():
            future.cancel()
        wait(self._coming.values())
        self._coming.clear()
        self._off.clear()


REPLACEMENT_OFFSET = 1 << 20  # replacements come from a part of the endless order that no iteration reaches


def ppo(run: RunDirectory, fleet: Fleet, tracker: Tracker) -> None:
    """Runs or resumes the stage."""
    for library in ("ray.rllib", "ray.tune"):  # advice on features that are not used here
        logging.getLogger(library).setLevel(logging.ERROR)
    DebugPPO.shared = Session(run, fleet, tracker)
    try:
        algorithm = DebugPPOConfig().recipe(run.recipe.model_dump(mode="json")).build_algo()
        try:
            algorithm.resume()
            iterations = run.recipe.ppo.iterations
            with task("ppo", iterations) as bar:
                bar.advance(algorithm.progress.iteration)
                while algorithm.progress.iteration < iterations:
                    result = algorithm.train()
                    bar.advance(note=_note(result))
            progress = asdict(algorithm.progress)
        finally:
            algorithm.stop()
    finally:
        DebugPPO.shared = None
    run.finish(STAGE, progress)


def _note(result: Mapping[str, Any]) -> str:
    """How an iteration went, in a few words; one whose episodes were all dropped says so."""
    if not result.get("episodes"):
        return "no group with variance: nothing to learn from"
    return f"reward {result['reward']:+.2f}, {result.get('tests_passed', math.nan):.0%} of tests"


def open_session(recipe: Recipe, runs: str = "") -> Session:
    """A session of its own for a training under Tune."""
    run = RunDirectory.open(recipe, folder=place(runs) if runs else None)
    return Session(run, Fleet(recipe), Tracker(run))


def start_model(run: RunDirectory, fleet: Fleet) -> Place:
    """The model that PPO starts from, which is also the reference: the SFT stage's, or the untrained one."""
    if "sft" in run.recipe.stages:
        if not run.done("sft"):
            raise BadInput(
                f"run {run.recipe.run}",
                "has no finished sft stage for PPO to start from",
                expected="`ledex sft RECIPE` first, or `ledex run RECIPE`",
            )
        return run.place("sft", "model")
    return fleet.model_path


def _training_assignments(run: RunDirectory, fleet: Fleet, collector: Collector) -> Assignments:
    require_synthesis(run)
    trajectories = load_trajectories(run)
    recipe = run.recipe
    assignments = Assignments(
        trajectories, training_set(run, fleet), fleet.renderer, recipe, collector.arm, recipe.ppo.max_prompts
    )
    if not len(assignments):
        raise BadInput(
            f"run {run.recipe.run}",
            "has no trajectories to train on",
            expected="a finished synthesis stage with wrong solutions, or synthesis.seeded_bugs=4",
        )
    return assignments


def _validation_assignments(run: RunDirectory, fleet: Fleet, collector: Collector) -> list[Assignment]:
    """One seeded bug a validation problem under each instruction: the same for every iteration and run."""
    problems = validation_problems(run.recipe)
    found = seeded_trajectories(
        list(problems.values()), fleet.sandbox.client(), 1, run.recipe.synthesis.seed, run.recipe.problems.feedback
    )
    trajectories: list[Trajectory] = [t for some in found for t in some]
    assignments = Assignments(trajectories, problems, fleet.renderer, run.recipe, collector.arm)
    return assignments.take(0, len(assignments))


def _probe(assignments: Assignments, fleet: Fleet) -> list[list[int]]:
    """A few prompts with right answers: the fixed batch on which engine and learner must agree."""
    chosen = assignments.take(0, min(PROBE_SEQUENCES, len(assignments)))
    longest = fleet.recipe.model.max_length - 1
    answers = [fenced(a.references[0] if a.references else a.wrong_code) for a in chosen]
    ids = [[*a.prompt_ids, *fleet.renderer.answer_ids(answer)] for a, answer in zip(chosen, answers, strict=True)]
    return [sequence[:longest] for sequence in ids]


def _optimizer_steps(recipe: Recipe) -> int:
    episodes = recipe.ppo.prompts_per_iteration * recipe.ppo.sampling.n
    return recipe.ppo.iterations * recipe.ppo.epochs * max(1, math.ceil(episodes / recipe.ppo.minibatch_episodes))

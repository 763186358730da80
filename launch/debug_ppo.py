"""PPO on refinements (LeDex, section 3.3), with RLlib's Algorithm as its control plane.

RLlib gives `tune.Tuner`, callbacks, the metrics logger, checkpoint and restore. Sampling is vLLM's and learning is
DeepSpeed's: EnvRunnerGroup, LearnerGroup, RLModule, connectors and replay buffers are not used.
Three private names of RLlib 2.60 are touched in `_bare_setup`; a test holds them. What a training is set up with is in
ppo_setup.py, what is sampled ahead of it in batches_ahead.py, the stage that runs one in ppo.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from actors.places import Place
from actors.ppo_batch import unused_groups, usable
from actors.weights import TransferFailed
from launch.accidents import Accidents
from launch.batches_ahead import BatchesAhead
from launch.best_model import BestModel
from launch.collect import Collector
from launch.console import log
from launch.dialogue import Assignment
from launch.ppo_setup import (
    STAGE,
    Session,
    keep_tokenizer,
    open_session,
    optimizer_steps,
    probe_sequences,
    start_model,
    training_assignments,
    validation_assignments,
)
from launch.rundir import runs_place
from launch.utilisation import Utilisation
from launch.weight_sync import WeightSync
from ledex_ray.episode_metrics import describe
from ledex_ray.episode_store import EpisodeStore
from ledex_ray.episodes import Episode
from ledex_ray.placement import TRACE
from ledex_ray.recipes import recipe_from_tree

MOST_REPLACEMENTS = 2  # with filter_groups: at most so many more batches are sampled to replace flat groups
REPLACEMENT_OFFSET = 1 << 20  # replacements come from a part of the endless order that no iteration reaches


@dataclass
class Progress:
    """Where the training stands; it travels with each checkpoint."""

    iteration: int = 0  # updates committed; also the version of the weights, and what the data cursor follows from
    best_rate: float = -1.0  # below 0: nothing was validated yet
    best_iteration: int = 0
    start_rate: float = -1.0  # what the model that training starts from passes; below 0: not known

    def validated(self, rate: float) -> bool:
        """Takes note of a validation; whether this is the model to keep.

        One without a single usable verdict (NaN) says nothing: it replaces only a model that nobody measured either.
        """
        if not (rate >= self.best_rate or self.best_rate < 0):
            return False
        self.best_rate, self.best_iteration = (self.best_rate if math.isnan(rate) else rate), self.iteration
        return True


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

    shared: ClassVar[Session | None] = None  # set by `training` (ppo.py); a Tune trial opens a session of its own
    session: Session
    progress: Progress
    weights: WeightSync
    learner: LearnerGroup
    batches: BatchesAhead

    @override(Algorithm)
    def training_step(self) -> None:
        gone = False
        while True:
            try:
                if gone:
                    self._go_back(self.learner.rebuild, self.checkpoints)
                metrics = self._iterate()
                break
            except (GangLost, TransferFailed) as error:
                self.accidents.lost(error)
                gone = True
        self.accidents.reached(self.progress.iteration)
        for name, value in metrics.items():
            self.metrics.log_value(name, value, reduce="mean", window=1)

    def _iterate(self) -> dict[str, float]:
        """One iteration: collect, store, update, validate, commit. Episodes that are stored are never made again."""
        iteration = self.progress.iteration
        if iteration == 0 and self.progress.start_rate < 0:
            self._validate_start()
        episodes = self.store.read(iteration)
        if episodes is None:
            episodes = self._episodes(iteration)
            self.store.write(iteration, episodes)
            self.run.commit()
        metrics = describe(episodes) | {"unused_groups": unused_groups(self.settings, episodes)}
        with self._engines_aside():
            metrics |= self.weights.take_metrics() | self.learner.ppo_update(episodes, iteration)
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

    @contextmanager
    def _engines_aside(self) -> Iterator[None]:
        """Engines that share a GPU with the learner sleep while it trains, unless they sample the next batch then."""
        engines = self.session.fleet.rollout
        if not engines.config.shares_a_gpu or self.settings.mode == "asynchronous":
            yield
            return
        engines.sleep()
        try:
            yield
        finally:
            engines.wake()

    def _episodes(self, iteration: int) -> list[Episode]:
        """The iteration's episodes, from weights at most `max_staleness` versions old (0 when synchronous).

        Asynchronously, the next batches are sampled while this one is scored and learned from; new weights reach the
        engines in the midst of that, and each token keeps the version it was sampled under.
        """
        self.weights.publish()
        ahead = self.settings.max_staleness if self.settings.mode == "asynchronous" else 0
        last = max(iteration, min(iteration + ahead, self.settings.iterations - 1))  # Tune may go on past the last one
        return self.batches.take(iteration, last)

    def _collect(self, iteration: int, sampled: Callable[[], None]) -> list[Episode]:
        """Groups of episodes in a fixed order; `sampled` is called when the engines are done with the first ones.

        Where the update would use nothing of a group another one is sampled: under a group estimator for those with
        fewer than two scored members, with `filter_groups` for those without variance. They stay in the batch, so that
        rewards and faults are those of all that was sampled.
        """
        want, seed = self.settings.prompts_per_iteration, self.settings.seed + iteration
        groups: dict[str, list[Episode]] = {}
        useful = 0
        replaces = self.settings.filter_groups or self.settings.algorithm in ("grpo", "rloo")
        for attempt in range(1 + MOST_REPLACEMENTS * replaces):
            start = iteration * want + attempt * REPLACEMENT_OFFSET
            assignments = self.assignments.take(start, want - useful)
            groups_found = self.collector.collect(
                assignments,
                self.settings.sampling,
                self.weights.ref,
                seed,
                turns=self.settings.turns,
                called_off=self.batches.called_off,
                sampled=sampled,
            )
            for group in groups_found:
                if group:
                    groups[group[0].group_id] = group
                    useful += bool(usable(self.settings, group))
            if useful >= want:
                break
        return [episode for _, group in sorted(groups.items()) for episode in group]

    def _validate(self) -> dict[str, float]:
        """The pass rate on held-in validation bugs; the best model by it is kept, once a checkpoint says so."""
        self.weights.publish()
        rate, faults = self._pass_rate(self.validation)
        if self.progress.validated(rate):
            self.learner.export_model(self.best.staged(self.progress.iteration))
        found = {"validation_pass_rate": rate, "validation_infra": float(faults)}
        return found | (
            {"validation_pass_rate_start": self.progress.start_rate} if self.progress.start_rate >= 0 else {}
        )

    def _validate_start(self) -> None:
        """What every later rate has to be held against. The starting model is no candidate for the best one."""
        self.weights.publish()
        rate, _ = self._pass_rate(self.validation)
        if not math.isnan(rate):
            self.progress.start_rate = rate
            log.info("ppo: the starting model repairs %.1f %% of the validation bugs", 100 * rate)

    def _pass_rate(self, assignments: Sequence[Assignment]) -> tuple[float, int]:
        """(share of verdicts that are PASSED, how many answers were left out of it, lost to the infrastructure)."""
        sampling = self.settings.sampling.model_copy(update={"n": self.settings.validation_samples})
        groups = self.collector.collect(
            assignments, sampling, self.weights.ref, self.settings.seed, execute=True, turns=self.settings.turns
        )
        verdicts = [e.verdict for group in groups for e in group]
        known = [verdict == "PASSED" for verdict in verdicts if verdict != "INFRA"]
        asked = len(assignments) * sampling.n  # also those of groups that the engines gave up
        return (float(np.mean(known)) if known else math.nan), asked - len(known)

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
        self.progress, self.accidents = Progress(), Accidents(STAGE, 0)
        self.batches = BatchesAhead(self._collect)
        keep_tokenizer(self.run, fleet)
        self.store = EpisodeStore(self.run.path(STAGE, "episodes", "x").parent)
        self.checkpoints = self.run.place(STAGE, "checkpoints")
        self.best = BestModel(self.run.place(STAGE, "model"))
        self.collector = Collector(fleet)
        self.assignments = training_assignments(self.run, fleet, self.collector)
        self.validation = validation_assignments(self.run, fleet, self.collector)
        self.learner = LearnerGroup(
            recipe.learner,
            recipe.model,
            start_model(self.run, fleet),
            self.settings.optimizer,
            total_steps=optimizer_steps(recipe),
            seed=self.settings.seed,
            ppo=self.settings,
            separated=recipe.reward.separated,
        )
        probe = probe_sequences(self.assignments, fleet)
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
        """What a trial's actors ask Ray for; long-lived actors take no CPU, and ranks on GPUs place themselves."""
        recipe = recipe_from_tree(config["ledex"])
        rollout = recipe.rollout
        sandboxes = recipe.sandbox.actors or max(1, int(ray.cluster_resources().get("sandbox", 1)))
        engine = {"GPU": rollout.gpus * rollout.tensor_parallel} if rollout.gpus else {"CPU": TRACE}
        encoder = rank = {"CPU": TRACE}
        ranks = 0 if recipe.learner.gpus else recipe.learner.ranks
        return PlacementGroupFactory(
            [{"CPU": 1.0}, *[{"sandbox": 1.0}] * sandboxes, *[engine] * rollout.actors, encoder, *[rank] * ranks]
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
        self.batches.shutdown()
        self.learner.shutdown()
        if self._owned:
            self.session.fleet.close()
            self.session.tracker.close()
            self.session.run.close()

    def resume(self) -> None:
        """Goes on from the run's newest complete checkpoint, where there is one."""
        self._go_back(self.learner.load_checkpoint, self.checkpoints)

    def _go_back(self, load: Callable[[Place], Mapping[str, Any] | None], checkpoints: Place) -> None:
        self.batches.call_off()  # first: nobody may be sent the weights while their version is not known
        state = load(checkpoints)
        self.progress = Progress(**state) if state else Progress()
        self._iteration = self.progress.iteration
        self.weights.restart(self.progress.iteration)
        self.best.settle(self.progress.best_iteration)
        self.accidents.reached(self.progress.iteration)
        self.session.tracker.forget_after(STAGE, self.progress.iteration)
        if state:
            log.info("ppo: going on after iteration %d", self.progress.iteration)

"""The learner gang, as the driver sees it: N Ray actors, one rank each, that act together or not at all.

Every call goes to all ranks at once and has a deadline; when a rank dies or stays silent the gang is ended and GangLost
is raised: `rebuild` makes a new one from the newest checkpoint, and the caller replays the update from its stored
episodes. Threads take turns: two calls whose order differed between ranks would wait for each other in a collective.
Importing this file imports no torch. Not covered: what a rank does (learner_rank.py).
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import ray
from numpy.typing import NDArray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors import checkpoint, watchdog
from actors.failures import GangLost
from actors.heap import trim_heap
from actors.places import Place
from actors.precision import openmp_environment, rank_threads, resolve_precision
from actors.usage import Busy
from ledex_ray.config import LearnerConfig, ModelConfig, OptimizerConfig, PPOConfig
from ledex_ray.episodes import Episode, SupervisedExample
from ledex_ray.placement import TRACE
from reward.judge.many import cores

if TYPE_CHECKING:
    from actors.weights import TransferReceipt

log = logging.getLogger(__name__)

RELEASE_SECONDS = 10.0
DEATH_SECONDS = 5.0  # that the death of a rank may be known later than what it does to its peers
P = TypeVar("P", bound=Place)


class _RankActor:
    """A rank's process. torch is imported here, after the environment is set, and never in the driver."""

    def __init__(self, spec: dict[str, Any]) -> None:
        os.environ.update(openmp_environment(_threads(spec["learner"])))
        from actors.learner_rank import LearnerRank, LearnerSpec

        watchdog.arm()
        self._rank = LearnerRank(LearnerSpec(**spec))

    def call(self, method: str, *arguments: Any) -> Any:
        try:
            return getattr(self._rank, method)(*arguments)
        finally:
            trim_heap()  # the engines and sandboxes of a CPU machine need the memory until the next update


def _threads(learner: LearnerConfig) -> int:
    """CPU threads of a rank on this node, where the CPU learns or, offloaded, steps the optimizer."""
    if learner.threads is not None:
        return learner.threads
    here = ray.get_runtime_context().get_node_id()
    resources = next(node["Resources"] for node in ray.nodes() if node["NodeID"] == here)
    return rank_threads(cores(), learner.ranks, learner.gpus, resources.get("GPU", 0))


class LearnerGroup:
    """N ranks of DeepSpeed ZeRO training one policy."""

    def __init__(
        self,
        learner: LearnerConfig,
        model: ModelConfig,
        model_path: Place,
        optimizer: OptimizerConfig,
        *,
        total_steps: int,
        seed: int,
        ppo: PPOConfig | None = None,
        reference_path: Place | None = None,
        separated: bool = False,
    ) -> None:
        """Starts the gang and waits until every rank is ready.

        The model lies where every rank finds it: a folder that all see, or a URL, from which each node fetches it.
        With `ppo`: a value head (algorithm ppo), and unless kl_coef is 0 a frozen reference, `reference_path` or else
        the model as it is now. `total_steps` is the length of the learning-rate schedule. Raises GangLost.
        """
        self.learner = learner
        self.precision = resolve_precision(model.dtype, learner.gpus)
        self._spec = {
            "learner": learner,
            "model": model,
            "precision": self.precision,
            "model_path": str(model_path),
            "reference_path": str(reference_path or model_path),
            "optimizer": optimizer,
            "total_steps": total_steps,
            "seed": seed,
            "ppo": ppo,
            "separated": separated,
        }
        self.turn = threading.RLock()
        """Held while the gang works; who holds it knows that the weights, and their version, stay as they are."""
        self.version = 0
        """How many updates the weights have had: what they are sent as. Who loads a checkpoint sets it."""
        self.busy = Busy()
        """How long the gang has worked."""
        self._ranks: list[Any] = []
        self._placement: PlacementGroup | None = None
        self._start()

    # Training

    def sft_step(self, examples: Sequence[SupervisedExample]) -> dict[str, float]:
        """One optimizer step over the global batch: loss (mean a token), grad_norm, lr, tokens, seconds, skipped."""
        return self._call("sft_step", ray.put(list(examples)))[0]

    def sft_loss(self, examples: Sequence[SupervisedExample]) -> float:
        """Mean loss an answer token, nothing trained."""
        return self._call("sft_loss", ray.put(list(examples)))[0]

    def ppo_update(self, episodes: Sequence[Episode], iteration: int) -> dict[str, float]:
        """All epochs and minibatches of one iteration; its metrics. Raises NonFiniteSteps (with the episodes' ids).

        Afterwards the weights are version `iteration` + 1.
        """
        with self.turn:
            metrics = self._call("ppo_update", ray.put(list(episodes)), iteration)[0]
            self.version = iteration + 1
        return metrics

    def log_probs(self, sequences: Sequence[NDArray[np.int32]], temperature: float) -> list[NDArray[np.float32]]:
        """[L - 1] for each sequence: the log-probability of token t + 1, logits divided by the temperature."""
        return self._call("log_probs", ray.put(list(sequences)), temperature)[0]

    # Weights and checkpoints

    def send_weights(
        self, engines: Sequence[Any], version: int, backend: str, deadline_seconds: float = 600.0
    ) -> TransferReceipt:
        """Streams the weights into the rollout engines as `version`; the sender's receipt. Raises TransferFailed."""
        # Before our own deadline: an engine that hangs must not look like a rank that does.
        seconds = min(deadline_seconds, 0.8 * self.learner.deadline_seconds)
        return self._call("send_weights", list(engines), version, backend, seconds)[0]

    def export_model(self, directory: P) -> P:
        """A plain Hugging Face directory with the tokenizer, adapters merged; it appears whole or not at all."""
        self._call("export_model", str(directory))
        return directory

    def save_checkpoint(self, directory: Place, driver_state: dict[str, Any]) -> None:
        """A new numbered checkpoint under `directory`; `driver_state` is plain JSON. Keeps the newest few.

        To a URL each rank uploads its own shards, and the manifest follows when all of them are there.
        """
        target = checkpoint.new_directory(directory)
        files = [file for files in self._call("save", str(target)) for file in files]
        checkpoint.commit(
            target, files, driver_state, world_size=self.learner.ranks, keep=self.learner.keep_checkpoints
        )

    def load_checkpoint(self, directory: Place) -> dict[str, Any] | None:
        """The driver's state of the newest complete checkpoint, now loaded; None where there is none."""
        found = checkpoint.newest(directory)
        if found is None:
            return None
        self._call("load", str(found.directory), found.world_size, uuid.uuid4().hex)
        return found.driver_state

    def rebuild(self, directory: Place) -> dict[str, Any] | None:
        """A new gang at the newest checkpoint under `directory` (None: at the start); after GangLost."""
        with self.turn:
            self.shutdown()
            self._start()
            return self.load_checkpoint(directory)

    def pids(self) -> list[int]:
        """The process of each rank, on its own node."""
        return self._call("pid")

    def shutdown(self) -> None:
        """Ends every rank; the one that sends weights first removes those that lie in shared memory."""
        if self._ranks:
            ray.wait([self._ranks[0].call.remote("release")], timeout=RELEASE_SECONDS)
        self._end()

    def _end(self) -> None:
        for rank in self._ranks:
            ray.kill(rank)
        self._ranks = []
        if self._placement is not None:
            remove_placement_group(self._placement)
            self._placement = None

    # The gang

    def _start(self) -> None:
        world = self.learner.ranks
        remote = ray.remote(_RankActor)
        options = self._options()
        self._ranks = [
            remote.options(**options, runtime_env={"env_vars": self._environment(rank)}).remote(self._spec)
            for rank in range(world)
        ]
        started = time.monotonic()
        address, port = self._wait([self._ranks[0].call.remote("endpoint")], self.learner.ready_seconds, "endpoint")[0]
        sizes = self._call("build", address, port, deadline=self.learner.ready_seconds)
        log.info(
            "learner ready ranks=%d zero_stage=%d precision=%s trainable=%d seconds=%.1f",
            world,
            self.learner.zero_stage,
            self.precision,
            sizes[0]["trainable_parameters"],
            time.monotonic() - started,
        )

    def _options(self) -> dict[str, Any]:
        base: dict[str, Any] = {"num_cpus": 0, "num_gpus": self.learner.gpus, "max_restarts": 0}
        if self.learner.gpus == 0:
            base["num_cpus"] = TRACE  # sandbox nodes have no torch
            return base | ({"scheduling_strategy": "SPREAD"} if self.learner.placement == "SPREAD" else {})
        bundles = [{"GPU": self.learner.gpus}] * self.learner.ranks
        self._placement = placement_group(bundles, strategy=self.learner.placement)
        if not self._placement.wait(self.learner.ready_seconds):
            self._end()
            raise GangLost(f"no place for {self.learner.ranks} ranks of {self.learner.gpus} GPUs")
        return base | {"scheduling_strategy": PlacementGroupSchedulingStrategy(self._placement)}

    def _environment(self, rank: int) -> dict[str, str]:
        environment = {"RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": str(self.learner.ranks)}
        return environment if self.learner.gpus else environment | {"DS_ACCELERATOR": "cpu"}

    def _call(self, method: str, *arguments: Any, deadline: float | None = None) -> list[Any]:
        """The method's results by rank. Raises what a rank raised; GangLost if one died or the deadline passed."""
        with self.turn, self.busy:
            if not self._ranks:
                raise GangLost("the gang has ended; rebuild it")
            calls = [rank.call.remote(method, *arguments) for rank in self._ranks]
            return self._wait(calls, deadline or self.learner.deadline_seconds, method)

    def _wait(self, calls: list[Any], deadline_seconds: float, method: str) -> list[Any]:
        deadline = time.monotonic() + deadline_seconds
        pending = calls
        try:
            while pending:  # one at a time: the first failure ends the wait, whichever rank it is
                done, pending = ray.wait(pending, timeout=max(0.0, deadline - time.monotonic()))
                if not done:
                    for call in pending:  # a stopped process would outlive a polite request
                        rank = calls.index(call)
                        watchdog.end_stuck(self._ranks[rank], f"learner-{rank}", (method,), deadline_seconds)
                    raise GangLost(f"{len(pending)} ranks silent for {deadline_seconds:.0f} s", method)
                ray.get(done)
        except (GangLost, ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError) as error:
            self._end()
            raise GangLost(" ".join(str(error).split())[:300], method) from error
        except ray.exceptions.RayTaskError as error:
            dead = _died(pending)  # then this rank only noticed, in a collective
            self._end()  # its peers now wait in a collective that will not come
            if dead is not None:
                raise GangLost(" ".join(str(dead).split())[:300], method) from error
            raise error.as_instanceof_cause() from error
        return ray.get(calls)


def _died(calls: Sequence[Any]) -> Exception | None:
    """What tells that a rank among those still called has died; None where none has within a few seconds."""
    done, _ = ray.wait(list(calls), num_returns=len(calls), timeout=DEATH_SECONDS) if calls else ([], [])
    for call in done:
        try:
            ray.get(call)
        except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError) as error:
            return error
        except ray.exceptions.RayTaskError:
            continue
    return None

"""The rollout engines as the rest of the program sees them: a group in the driver, clients anywhere.

`RolloutGroup` starts one set of named engines, which all stages share; `RolloutClient` (picklable) generates with
them: deadlines, retries elsewhere, and no answer under weights other than those asked for. An engine that was
restarted holds its first weights: it loads the ones a request names by path, and where there is no path (the learner
alone has them) it gets no work before the group's `refit` has sent them.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray

from actors import watchdog
from actors.generation import (
    Completion,
    EngineInfo,
    Generation,
    GenerationRequest,
    NeedsRefit,
    WeightsRef,
    satisfies,
)
from actors.places import Place
from actors.pool import Dropped
from actors.precision import openmp_environment
from actors.ray_pool import RayPool, Service
from actors.rollout_actor import RolloutActor
from ledex_ray.config import ModelConfig, RolloutConfig
from ledex_ray.errors import RunFailed
from ledex_ray.placement import TRACE
from reward.judge.many import cores

__all__ = [
    "Completion",
    "EngineInfo",
    "Generation",
    "GenerationRequest",
    "RolloutClient",
    "RolloutGroup",
    "WeightsRef",
]

log = logging.getLogger(__name__)

Refit = Callable[[Sequence[Any], WeightsRef], bool]
"""Sends engines the weights named, or newer ones; False where that has to wait for the learner."""
PROGRESS_SECONDS = 15.0
SHUTDOWN_SECONDS = 20.0
ASK_SECONDS = 5.0


class EnginesNotReady(RunFailed):
    """No engine, or not every one, became ready in time."""


class RolloutClient:
    """Generates under one set of weights. Holds actor handles and settings alone, so it can be sent anywhere."""

    def __init__(
        self, engines: Mapping[str, Any], config: RolloutConfig, weights: WeightsRef, refit: Refit | None = None
    ) -> None:
        self._engines = dict(engines)
        self._config = config
        self._weights = weights
        self._refit = refit

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_refit": None}  # the learner's side stays in the driver

    def generate(
        self, requests: Iterable[GenerationRequest], called_off: Callable[[], bool] = lambda: False
    ) -> Generator[Generation]:
        """The generation of each request, as they finish; one that was given up has no completions and an error.

        Raises ValueError for an id given twice, NoMembers when no engine comes back in time, CalledOff.
        """
        requests = list(requests)
        if not requests:
            return
        pool: RayPool[GenerationRequest, Generation] = RayPool(self._engines, self._service(requests))
        for request_id, result in pool.map(((r.id, r) for r in requests), called_off):
            if isinstance(result, Dropped):
                yield Generation(request_id, (), f"given up: {'; '.join(result.strikes)}")
            else:
                yield result

    def _service(self, requests: Sequence[GenerationRequest]) -> Service[GenerationRequest, Generation]:
        weights, refit = self._weights, self._refit
        asked: set[str] = set()  # incarnations that were given the path already

        def usable(name: str, engine: Any, info: EngineInfo) -> bool | None:
            if satisfies(info.held, info.streamed, weights):
                return True
            if weights.path and info.incarnation not in asked:
                asked.add(info.incarnation)
                return True  # it loads them itself with its first request
            if refit is None:
                return False
            sent = refit([engine], weights)
            if sent:
                log.info("refitted engine=%s held=%d wanted=%d", name, info.held.version, weights.version)
            return False if sent else None  # what it holds now is looked at when it is asked again

        # Enough sequences that the engine never waits for us, and no more: what queues inside it counts as silence.
        most = max(r.n for r in requests)
        return Service(
            call=lambda engine, items: engine.generate_batch.remote(items, weights),
            seconds=lambda n: self._config.deadline_seconds,
            ready_seconds=self._config.ready_seconds,
            kind="rollout",
            leases_per_member=max(2, -(-2 * self._config.max_num_seqs // most)),
            refused=lambda result: isinstance(result, NeedsRefit),
            usable=usable,
        )


class RolloutGroup:
    """The engines, started and ready. Raises EnginesNotReady with what they died of."""

    def __init__(self, config: RolloutConfig, model: ModelConfig, model_path: Path | str) -> None:
        self.config = config
        self.model = model
        self.weights = WeightsRef(0, str(model_path))
        self.refit: Refit | None = None
        """Set by whoever holds the learner."""
        self.transfer = resolve_transfer(config)
        self._name = uuid.uuid4().hex[:6]
        self._placement: list[Any] = []
        self._absent: dict[str, float] = {}  # engines that did not answer when last asked, and since when
        self._engines = {f"rollout-{self._name}-{i}": self._start(i) for i in range(config.actors)}
        self._wait_ready()

    @property
    def engines(self) -> list[Any]:
        """The actors' handles."""
        return list(self._engines.values())

    @property
    def by_name(self) -> dict[str, Any]:
        """The actors' handles by name."""
        return dict(self._engines)

    def client(self, weights: WeightsRef | None = None) -> RolloutClient:
        """A client for `weights`; without, for those the group serves now."""
        return RolloutClient(self._engines, self.config, weights or self.weights, self.refit)

    def infos(self) -> list[EngineInfo]:
        """What each engine says of itself; engines that are down are missing."""
        calls = [engine.info.remote() for engine in self.engines]
        done, _ = ray.wait(calls, num_returns=len(calls), timeout=self.config.deadline_seconds)
        found = []
        for call in done:
            try:
                found.append(ray.get(call))
            except ray.exceptions.RayActorError as error:
                log.warning("an engine is down: %s", str(error).splitlines()[0])
        return found

    def wait_until_serving(self) -> list[Any]:
        """The engines that answer. Each of the others is waited for once, `ready_seconds` from the first miss.

        One that runs and stays silent for `deadline_seconds` is named, ended, and starts anew.
        """
        started = time.monotonic()
        silent: dict[str, float] = {}  # since when, of those that run
        now = started
        while True:
            calls = {engine.info.remote(): name for name, engine in self._engines.items()}
            done, _ = ray.wait(list(calls), num_returns=len(calls), timeout=ASK_SECONDS)
            missing = set(calls.values()) - {calls[call] for call in done if _answered(call)}
            self._absent = {name: self._absent.get(name, now) for name in missing}
            if now == started:  # one that runs has been back since it was missed last
                running = [name for name in missing if watchdog.whereabouts(self._engines[name]).state == "ALIVE"]
                self._absent |= dict.fromkeys(running, now)
            begun = [started] if len(missing) == len(calls) else []  # without any there is nothing to go on with
            if all(now - since >= self.config.ready_seconds for since in (*self._absent.values(), *begun)):
                break
            silent = {name: silent.get(name, now) for name in missing}
            for name, since in silent.items():
                engine, seconds = self._engines[name], time.monotonic() - since
                if watchdog.whereabouts(engine).state != "ALIVE":
                    silent[name] = time.monotonic()  # it is starting
                elif seconds > self.config.deadline_seconds:
                    watchdog.end_stuck(engine, name, ("info",), seconds)
            time.sleep(1.0)
            now = time.monotonic()
        if missing:
            log.warning("not back after %.0f s, and left out: %s", self.config.ready_seconds, ", ".join(missing))
        return [engine for name, engine in self._engines.items() if name not in missing]

    def load(self, path: Place | str, version: int) -> None:
        """From now the weights of a Hugging Face directory, by path or URL, are served as `version` by every engine."""
        self.weights = WeightsRef(version, str(path))
        calls = {engine.load.remote(str(path), version): engine for engine in self.engines}
        done, silent = ray.wait(list(calls), num_returns=len(calls), timeout=self.config.deadline_seconds)
        for call in silent:
            log.warning("an engine did not load %s in %.0f s; replaced", path, self.config.deadline_seconds)
            self.replace(calls[call])
        for call in done:
            try:
                ray.get(call)
            except ray.exceptions.RayActorError as error:  # it comes back, and loads with its first request
                log.warning("an engine died loading %s: %s", path, str(error).splitlines()[0])

    def sleep(self) -> None:
        """Every engine gives up the memory of the GPU that it has a share of; no request may be on its way."""
        self._tell("sleep")

    def wake(self) -> None:
        """Every engine serves again. One that cannot starts anew."""
        self._tell("wake")

    def _tell(self, method: str) -> None:
        calls = {getattr(engine, method).remote(): name for name, engine in self._engines.items()}
        done, silent = ray.wait(list(calls), num_returns=len(calls), timeout=self.config.deadline_seconds)
        for call in silent:
            name = calls[call]
            watchdog.end_stuck(self._engines[name], name, (method,), self.config.deadline_seconds)
        for call in done:
            try:
                ray.get(call)
            except ray.exceptions.RayActorError as error:  # it comes back awake, and is refitted before it serves
                log.warning("engine=%s died at %s: %s", calls[call], method, str(error).splitlines()[0])

    def published(self, weights: WeightsRef) -> None:
        """The learner has streamed these weights to the engines: new clients ask for them."""
        self.weights = weights

    def log_probs(
        self, sequences: Sequence[Sequence[int]], only: Sequence[Any] | None = None
    ) -> dict[str, list[list[float]]]:
        """By engine, [L - 1] for each sequence at temperature 1; an engine down or with other weights is missing.

        `only`: of these engines (handles), not of all.
        """
        calls = {
            engine.log_probs.remote(sequences, self.weights): name
            for name, engine in self._engines.items()
            if only is None or any(engine is one for one in only)
        }
        done, _ = ray.wait(list(calls), num_returns=len(calls), timeout=self.config.deadline_seconds)
        found = {}
        for call in done:
            try:
                result = ray.get(call)
            except ray.exceptions.RayActorError as error:
                log.warning("engine=%s is down: %s", calls[call], str(error).splitlines()[0])
                continue
            if not isinstance(result, NeedsRefit):
                found[calls[call]] = result
        return found

    def engine(self, name: str) -> Any:
        """The handle of the engine so named."""
        return self._engines[name]

    def replace(self, engine: Any) -> None:
        """Ends an engine at once; Ray starts it anew, and it is refitted before it serves."""
        at = watchdog.whereabouts(engine)
        # ray.kill alone is a request: the process would answer a little longer.
        if at.state != "ALIVE" or not watchdog.end_process(at.pid, at.node_id):
            ray.kill(engine, no_restart=False)

    def shutdown(self) -> None:
        """Ends every engine."""
        calls = [engine.shutdown.remote() for engine in self.engines]
        ray.wait(calls, num_returns=len(calls), timeout=SHUTDOWN_SECONDS)
        for engine in self.engines:
            ray.kill(engine)
        for group in self._placement:
            ray.util.remove_placement_group(group)

    def _start(self, index: int) -> Any:
        executor, options = self._placing()
        return (
            ray.remote(RolloutActor)
            .options(
                name=f"rollout-{self._name}-{index}",
                num_cpus=0 if self.config.gpus else TRACE,
                max_restarts=-1,
                max_task_retries=0,
                max_concurrency=1000,
                runtime_env={"env_vars": engine_environment(self.config, self.transfer)},
                **options,
            )
            .remote(self.weights, self.config, self.model, self.transfer, executor)
        )

    def _placing(self) -> tuple[str, dict[str, Any]]:
        """vLLM's executor, and where Ray puts the actor: one process, one node, or a placement group over several."""
        config = self.config
        if config.tensor_parallel == 1:
            return "uni", {"num_gpus": config.gpus}
        if not config.gpus or config.placement == "NODE":
            return "mp", {"num_gpus": config.gpus * config.tensor_parallel}
        bundles = [{"GPU": config.gpus}] * config.tensor_parallel
        group = ray.util.placement_group(bundles, strategy=config.placement)
        ray.get(group.ready(), timeout=config.ready_seconds)
        self._placement.append(group)
        strategy = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(
            group, placement_group_capture_child_tasks=True
        )
        return "ray", {"num_gpus": 0, "scheduling_strategy": strategy}

    def _wait_ready(self) -> None:
        started = time.monotonic()
        waiting = {engine.ready.remote(): name for name, engine in self._engines.items()}
        while waiting:
            left = self.config.ready_seconds - (time.monotonic() - started)
            done, _ = ray.wait(list(waiting), timeout=max(0.0, min(PROGRESS_SECONDS, left)))
            for call in done:
                name = waiting.pop(call)
                try:
                    info: EngineInfo = ray.get(call)
                except ray.exceptions.RayError as error:
                    self.shutdown()
                    raise EnginesNotReady(f"{name}: {error}") from error
                log.info("engine=%s ready seconds=%.0f dtype=%s", name, info.ready_seconds, info.dtype)
            if waiting and left <= 0:
                names = ", ".join(waiting.values())
                self.shutdown()
                raise EnginesNotReady(f"{names} not ready after {self.config.ready_seconds:.0f} s")
            if waiting and not done:
                log.info("%d of %d engines starting", len(waiting), len(self._engines))


def _answered(call: ray.ObjectRef) -> bool:
    try:
        ray.get(call)
    except ray.exceptions.RayActorError:
        return False
    return True


def resolve_transfer(config: RolloutConfig) -> str:
    """How weights travel: as the recipe says; for "auto" by what the engines run on and how many nodes there are."""
    if config.weight_transfer != "auto":
        return config.weight_transfer
    if config.gpus:
        return "ipc" if config.gpus < 1 else "nccl"  # a share: the learner has the rest of that GPU
    return "shm" if sum(node["Alive"] for node in ray.nodes()) == 1 else "gloo"


def engine_environment(config: RolloutConfig, transfer: str = "auto") -> dict[str, str]:
    """Variables that must be set before an engine's process imports torch."""
    variables = {"VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1", "TOKENIZERS_PARALLELISM": "false"}
    if transfer == "ipc":
        # CUDA's handles go from our actor to vLLM's core, a child of its own, by pickle: vLLM wants to be told.
        variables["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"
    if not config.gpus:
        threads = config.threads or cores()
        # "auto" would bind every engine of a node to the same core.
        variables |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind"} | openmp_environment(threads)
        if config.tensor_parallel == 1:
            # The engine's only worker then lives in the engine's own process: half the start, 0.8 GB less.
            variables["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    return variables

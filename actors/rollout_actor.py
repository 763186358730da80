"""One vLLM engine in an async Ray actor: token ids in; token ids, log-probabilities and weight versions out.

The engine's settings come from the recipe alone (`generation_config="vllm"`: no default of the model's repository
sneaks into the sampling). Not covered: who talks to it and what happens when it dies (actors/rollout.py), how new
weights get here (actors/weights.py).
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import ray

from actors import watchdog
from actors.engine import completion, sampling_params, scoring_params, start_engine
from actors.generation import EngineInfo, Generation, GenerationRequest, NeedsRefit, WeightsRef, satisfies
from actors.places import is_url
from actors.precision import openmp_environment, resolve_precision
from actors.usage import Busy, Usage
from ledex_ray.config import ModelConfig, RolloutConfig
from reward.judge.many import cores

log = logging.getLogger(__name__)


class RolloutActor:
    """Serves generation and log-probabilities under one set of weights at a time, and takes new ones in flight."""

    def __init__(self, held: WeightsRef, config: RolloutConfig, model: ModelConfig, transfer: str, executor: str):
        watchdog.arm()
        if not config.gpus and config.threads is None:  # all cores of this node, not of the driver's
            os.environ.update(openmp_environment(cores()))
        started = time.monotonic()
        self._incarnation = uuid.uuid4().hex
        self._held = held
        self._streamed = False  # weights that came from the learner and may be newer than what a request names
        self._labelled = False  # the engine's process knows the version it starts with
        self._busy = Busy()
        self._answered = self._tokens = 0
        self._moved = started  # when a request last started on an idle engine, or finished
        self._update = asyncio.Lock()  # one weight update at a time
        self._steps = asyncio.Condition()
        self._next = ("", 0)  # which call of which update comes next
        self._dtype = resolve_precision(model.dtype, config.gpus)
        self._max_model_len = model.max_length
        self._workers = config.tensor_parallel
        self._load_seconds = config.ready_seconds
        try:
            self._llm = start_engine(held.path, config, model, self._dtype, transfer, executor)
        except Exception as error:  # Ray restarts an actor whose process ends, and never one whose constructor raises
            if not ray.get_runtime_context().was_current_actor_reconstructed:
                raise  # the first start: the user is told why
            log.exception("no engine")
            _die(f"its engine did not start anew: {type(error).__name__}")
        self._ready_seconds = time.monotonic() - started

    async def ready(self) -> EngineInfo:
        """What this engine is; returns once it serves, after a round trip to its own process."""
        if self._labelled:
            await self._guard(self._llm.get_weight_version())
        else:
            self._labelled = True
            await self._guard(self._llm.update_weight_version(str(self._held.version)))
        return self.info()

    def info(self) -> EngineInfo:
        """What this engine is, as `ready`, without asking the engine's process."""
        return EngineInfo(
            pid=os.getpid(),
            node_id=ray.get_runtime_context().get_node_id(),
            incarnation=self._incarnation,
            held=self._held,
            streamed=self._streamed,
            dtype=self._dtype,
            workers=self._workers,
            ready_seconds=self._ready_seconds,
        )

    async def stalled_seconds(self) -> float:
        """How long requests have been in the engine without one finishing; 0 while it is idle."""
        return time.monotonic() - self._moved if self._busy.in_hand else 0.0

    async def requests_in_flight(self) -> int:
        """Requests that the engine has and has not answered."""
        return self._busy.in_hand

    async def usage(self) -> Usage:
        """What this engine has done: the tokens of answers that are finished."""
        return Usage(self._incarnation, self._busy.seconds, self._answered, self._tokens)

    async def generate(self, request: GenerationRequest, weights: WeightsRef | None = None) -> Generation | NeedsRefit:
        """`request.n` completions, sampled under `weights` or newer ones streamed by the learner."""
        if (refusal := await self._hold(weights)) is not None:
            return refusal
        room = self._max_model_len - len(request.prompt_ids)
        if room < 1 or not request.prompt_ids:
            return Generation(
                request.id, (), f"a prompt of {len(request.prompt_ids)} tokens, context {self._max_model_len}"
            )
        params = sampling_params(request, min(request.max_tokens, room))
        output = await self._run(list(request.prompt_ids), params)
        self._answered += 1
        self._tokens += sum(len(c.token_ids) for c in output.outputs)
        return Generation(request.id, tuple(completion(c) for c in output.outputs))

    async def generate_batch(
        self, requests: Sequence[GenerationRequest], weights: WeightsRef | None = None
    ) -> list[Generation | NeedsRefit]:
        """`generate` for each request, together; one result a request."""
        return list(await asyncio.gather(*(self.generate(r, weights) for r in requests)))

    async def log_probs(
        self, sequences: Sequence[Sequence[int]], weights: WeightsRef | None = None
    ) -> list[list[float]] | NeedsRefit:
        """[L - 1] for each sequence, by the engine at temperature 1: of token t + 1 given those up to t."""
        if (refusal := await self._hold(weights)) is not None:
            return refusal
        params = scoring_params()
        outputs = await asyncio.gather(*(self._run(list(s), params) for s in sequences))
        return [list(output.prompt_logprobs.logprobs) for output in outputs]

    async def load(self, path: str, version: int) -> WeightsRef:
        """The weights now held: those of the safetensors in the directory `path`, loaded in place unless they are."""
        wanted = WeightsRef(version, path)
        if self._held == wanted and not self._streamed:
            return wanted
        return await self._load(wanted, unless_held=False)

    async def sleep(self) -> None:
        """The GPU's memory is the learner's until `wake`: weights go to the host, the KV cache goes. Requests wait."""
        async with self._update:
            with _fatal("going to sleep"):
                await self._guard(self._llm.sleep(level=1))

    async def wake(self) -> None:
        """Serves again, under the weights from before; nothing happens where it does not sleep."""
        async with self._update:
            with _fatal("waking"):
                if await self._guard(self._llm.is_sleeping()):
                    await self._guard(self._llm.wake_up())

    # The four calls of vLLM's weight-transfer protocol, and what stands around an update.

    async def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Joins the sender's group, or whatever the transfer needs before the first update."""
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest

        await self._guard(self._llm.init_weight_transfer_engine(WeightTransferInitRequest(init_info=init_info)))

    async def start_weight_update(self, deadline_seconds: float = 300.0, session: str = "") -> None:
        """Freezes requests in flight (they keep their tokens) and clears every cache made by the old weights.

        An update that does not finish by the deadline ends this actor: its sender is gone. The calls of one update have
        its `session`, and a number: they are sent without waiting, and Ray may begin a later one first.
        """
        await self._update.acquire()
        self._deadline = asyncio.get_running_loop().call_later(deadline_seconds, _die, "weight update never finished")
        with _fatal("weight update"):
            await self._guard(self._llm.pause_generation(mode="keep", clear_cache=True))
            await self._rpc("begin_checksums")
            await self._guard(self._llm.start_weight_update())
        await self._reached(session, 1)

    async def update_weights(self, update_info: dict[str, Any], session: str = "", number: int = 1) -> None:
        """Receives one batch of tensors. A failure ends this actor: its layers are half replaced."""
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        await self._turn(session, number)
        with _fatal("weight update"):
            await self._guard(self._llm.update_weights(WeightTransferUpdateRequest(update_info=update_info)))
        await self._reached(session, number + 1)

    async def finish_weight_update(
        self, version: int, path: str, expected: Mapping[str, int], session: str = "", number: int = 2
    ) -> None:
        """Serves again, under `version`, if every tensor received has the checksum `expected`; else ends this actor."""
        await self._turn(session, number)
        with _fatal("weight update"):
            await self._guard(self._llm.finish_weight_update(str(version)))
            for received in await self._rpc("end_update"):
                _same(expected, received)
            self._held, self._streamed = WeightsRef(version, path), True
            await self._guard(self._llm.resume_generation())
        self._deadline.cancel()
        self._update.release()

    async def _turn(self, session: str, number: int) -> None:
        async with self._steps:
            await self._steps.wait_for(lambda: self._next == (session, number))

    async def _reached(self, session: str, number: int) -> None:
        async with self._steps:
            self._next = (session, number)
            self._steps.notify_all()

    async def shutdown_weight_transfer_engine(self) -> None:
        """Leaves the sender's group."""
        await self._guard(self._llm.shutdown_weight_transfer_engine())

    async def rpc(self, method: str, *args: Any) -> list[Any]:
        """The result of a worker-extension method on each worker; for checks and tests."""
        return await self._rpc(method, *args)

    def shutdown(self) -> None:
        """Ends the engine's processes."""
        self._llm.shutdown()

    async def _hold(self, wanted: WeightsRef | None) -> NeedsRefit | None:
        if wanted is None or satisfies(self._held, self._streamed, wanted):
            return None
        if not is_url(wanted.path) and not os.path.isdir(wanted.path):  # none, or on another node, or already gone
            return NeedsRefit(self._held, wanted)
        await asyncio.shield(self._load(wanted, unless_held=True))  # a caller that leaves must not stop it half way
        return None

    async def _load(self, wanted: WeightsRef, *, unless_held: bool) -> WeightsRef:
        """Loads in place; an engine that is not done in the time it has to become ready ends this actor."""
        async with self._update:
            if unless_held and satisfies(self._held, self._streamed, wanted):
                return self._held
            what = f"loading {wanted.path}"
            deadline = asyncio.get_running_loop().call_later(self._load_seconds, _die, f"{what}: never finished")
            with _fatal(what):
                await self._guard(self._llm.pause_generation(mode="keep", clear_cache=True))
                await self._rpc("load_directory", wanted.path)
                await self._guard(self._llm.update_weight_version(str(wanted.version)))
                self._held, self._streamed = wanted, False
                await self._guard(self._llm.resume_generation())
            deadline.cancel()
        return self._held

    async def _run(self, prompt_ids: list[int], params: Any) -> Any:
        if self._busy.in_hand == 0:
            self._moved = time.monotonic()
        try:
            with self._busy:
                return await self._guard(self._last(prompt_ids, params))
        finally:
            self._moved = time.monotonic()

    async def _last(self, prompt_ids: list[int], params: Any) -> Any:
        last = None
        async for output in self._llm.generate({"prompt_token_ids": prompt_ids}, params, uuid.uuid4().hex):
            last = output
        return last

    async def _rpc(self, method: str, *args: Any) -> list[Any]:
        return await self._guard(self._llm.collective_rpc(method, args=args))

    async def _guard(self, call: Any) -> Any:
        """The call's result. A dead engine, or one with half-loaded weights, ends the process: Ray starts a new one."""
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            return await call
        except EngineDeadError:
            _die("the engine's process is dead")


def _die(reason: str) -> NoReturn:
    log.critical("rollout actor ends: %s", reason)
    logging.shutdown()
    os._exit(70)


@contextmanager
def _fatal(what: str) -> Iterator[None]:
    """After a failure inside, layers may be half replaced: this process ends and Ray starts a fresh engine."""
    try:
        yield
    except Exception:  # whatever it was, half-replaced layers cannot serve; the process ends and says why
        log.exception("%s failed", what)
        _die(what)


def _same(expected: Mapping[str, int], received: Mapping[str, int]) -> None:
    wrong = sorted(n for n in expected.keys() | received.keys() if expected.get(n) != received.get(n))
    if wrong:
        raise RuntimeError(f"checksums differ for {len(wrong)} of {len(expected)} tensors, first {wrong[0]}")

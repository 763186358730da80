"""The rollout actor beside the same engine driven bare, and a weight update beside save-and-reload. In one run.

    python -m benchmarks.rollout                       (about 6 minutes on two cores)
    python -m benchmarks.rollout --sequences 64 --rounds 5 --dtype float32

Throughput: the same requests (8 samples a prompt, seeded, so that both sides generate the same tokens) go by turns to a
bare `AsyncLLM` in this process and, through a `RolloutClient`, to an actor with the same settings; ratio of medians.
Update: new weights by shared memory, against `save_pretrained` and a reload of that directory, by the same engine in
place (our checked reload; vLLM's own `reload_weights`, after which a tied head is stale on a CPU) and by an engine that
is started on it, in a process that has imported everything before. Beside them stands the least that an update can do,
here in one process with both cores to itself: copy the bytes, sum them at both ends, pack the layers for the CPU's
products.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import psutil
import ray
import typer
from rich.console import Console
from rich.table import Table

from actors.generation import GenerationRequest, WeightsRef
from actors.local_ray import start_ray
from actors.precision import resolve_precision
from actors.rollout import RolloutGroup, engine_environment
from launch.model_cache import resolve_model
from ledex_ray.config import ModelConfig, RolloutConfig

PROMPT = "Write a Python function that returns the {}-th largest element of a list, with a short explanation."
SAMPLES = 8

app = typer.Typer(add_completion=False)
console = Console(width=120)


@app.command()
def main(
    model: Annotated[str, typer.Option(help="Packaged name, path or hub id.")] = "smollm2-135m",
    sequences: Annotated[
        list[int] | None, typer.Option(help="Sequences at a time; may be given several times.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="New tokens a sequence.")] = 128,
    rounds: Annotated[int, typer.Option(help="Turns of each side.")] = 3,
    dtype: Annotated[str, typer.Option(help="auto, bfloat16 or float32.")] = "auto",
    update_only: Annotated[bool, typer.Option(help="Leave the throughput out.")] = False,
) -> None:
    """Prints both comparisons."""
    sizes = sequences or [16, 32, 64, 128]
    path = resolve_model(model)
    rollout = RolloutConfig(max_num_seqs=max(sizes))
    policy = ModelConfig(name=model, dtype=resolve_precision(dtype))
    os.environ.update(engine_environment(rollout))  # before torch: for the bare engine in this process
    # Ray's default of 15 would put the actor behind the bare engine on a busy machine.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
    start_ray()
    group = RolloutGroup(rollout, policy, path)
    try:
        if not update_only:
            bare = Bare(path, rollout, policy, group.transfer)
            try:
                _throughput(group, bare, policy, path, sizes, max_tokens, rounds)
            finally:
                bare.shutdown()
        _update(group, path, rollout, policy, rounds)
    finally:
        group.shutdown()


class Bare:
    """The engine without an actor: an `AsyncLLM` and an event loop in this process."""

    def __init__(self, path: Path, rollout: RolloutConfig, policy: ModelConfig, transfer: str) -> None:
        from actors.engine import start_engine

        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

        async def start() -> Any:
            return start_engine(str(path), rollout, policy, policy.dtype, transfer, "uni")

        self._llm = self._run(start())

    def tokens(self, requests: Sequence[GenerationRequest]) -> int:
        """Generates for all requests at once; how many tokens that gave."""
        return self._run(self._generate_all(requests))

    def forget(self) -> None:
        """Clears the prefix cache: no prompt is known from before."""
        self._run(self._llm.reset_prefix_cache())

    def shutdown(self) -> None:
        self._llm.shutdown()

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=900)

    async def _generate_all(self, requests: Sequence[GenerationRequest]) -> int:
        return sum(await asyncio.gather(*(self._generate(r) for r in requests)))

    async def _generate(self, request: GenerationRequest) -> int:
        from actors.engine import sampling_params

        prompt = {"prompt_token_ids": list(request.prompt_ids)}
        last = None
        async for output in self._llm.generate(prompt, sampling_params(request, request.max_tokens), uuid.uuid4().hex):
            last = output
        assert last is not None
        return sum(len(completion.token_ids) for completion in last.outputs)


def _throughput(
    group: RolloutGroup, bare: Bare, policy: ModelConfig, path: Path, sizes: Sequence[int], limit: int, rounds: int
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    table = Table(title=f"{policy.name}, {policy.dtype}, {SAMPLES} samples a prompt, up to {limit} tokens each")
    for column in ("sequences", "", "bare", "actor", "actor / bare"):
        table.add_column(column, justify="right")
    ours = psutil.Process()
    for size in sizes:
        requests = [
            GenerationRequest(str(i), _prompt(tokenizer, i), SAMPLES, 1.0, 1.0, limit, seed=i)
            for i in range(max(1, size // SAMPLES))
        ]
        bare_speeds, actor_speeds = [], []
        for turn in range(rounds + 1):
            theirs = psutil.Process(group.infos()[0].pid)
            bare_speed = _speed(partial(bare.tokens, requests), ours, but=theirs)
            actor_speed = _speed(partial(_through_actor, group, requests), theirs, but=ours)
            if turn:  # the first turn warms both up
                bare_speeds.append(bare_speed)
                actor_speeds.append(actor_speed)
        for index, unit in enumerate(("tokens/s", "tokens a CPU-second")):
            left, right = (statistics.median(speed[index] for speed in side) for side in (bare_speeds, actor_speeds))
            table.add_row(str(size), unit, f"{left:.0f}", f"{right:.0f}", f"{right / left:.2f}")
    console.print(table)


def _speed(work: Callable[[], int], engine: psutil.Process, *, but: psutil.Process) -> tuple[float, float]:
    """Tokens a second, and tokens a CPU-second of the engine's processes; `but` is the other side's."""
    cpu, started = _cpu_seconds(engine, but), time.perf_counter()
    tokens = work()
    seconds = time.perf_counter() - started
    return tokens / seconds, tokens / max(1e-9, _cpu_seconds(engine, but) - cpu)


def _through_actor(group: RolloutGroup, requests: Sequence[GenerationRequest]) -> int:
    generations = list(group.client().generate(requests))
    return sum(len(c.token_ids) for g in generations for c in g.completions)


def _prompt(tokenizer: Any, index: int) -> tuple[int, ...]:
    messages = [{"role": "user", "content": PROMPT.format(index)}]
    return tuple(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False))


def _cpu_seconds(engine: psutil.Process, but: psutil.Process) -> float:
    others = {but.pid, *(child.pid for child in but.children(recursive=True))}
    if engine.pid in others:  # the actor, which Ray started below us
        others = set()
    family = [c for c in engine.children(recursive=True) if c.pid not in others and c.name().startswith("VLLM")]
    return sum(times.user + times.system for times in (process.cpu_times() for process in (engine, *family)))


def _update(group: RolloutGroup, path: Path, rollout: RolloutConfig, policy: ModelConfig, rounds: int) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from actors.weight_source import ModuleSource
    from actors.weights import send_weights

    model = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, policy.dtype))
    source = ModuleSource(model)
    streamed, reloaded, by_vllm, version = [], [], [], group.weights.version
    for turn in range(rounds + 1):
        version += 1
        started = time.perf_counter()
        receipt = send_weights(source, group.engines, version, backend="shm")
        group.published(WeightsRef(version, receipt.path))
        stream_seconds = time.perf_counter() - started
        version += 1
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            model.save_pretrained(folder)
            group.load(folder, version)
            reload_seconds = time.perf_counter() - started
            started = time.perf_counter()
            model.save_pretrained(folder)
            ray.get([engine.rpc.remote("reload_weights", None, folder) for engine in group.engines])
            vllm_seconds = time.perf_counter() - started
        if turn:
            streamed.append(stream_seconds)
            reloaded.append(reload_seconds)
            by_vllm.append(vllm_seconds)
    with tempfile.TemporaryDirectory() as folder:
        AutoTokenizer.from_pretrained(path).save_pretrained(folder)
        Bare(path, rollout, policy, group.transfer).shutdown()  # imports, once
        started = time.perf_counter()
        model.save_pretrained(folder)
        rebuilt = Bare(Path(folder), rollout, policy, group.transfer)
        rebuild_seconds = time.perf_counter() - started
        rebuilt.shutdown()
    ours = statistics.median(streamed)
    others = {
        "save and reload in place": statistics.median(reloaded),
        "save and vLLM's reload_weights": statistics.median(by_vllm),
        "save and start an engine on it": rebuild_seconds,
    }
    parts = {name: statistics.median(_seconds(work) for _ in range(rounds + 1)) for name, work in _least(model).items()}
    least = sum(parts.values())
    console.print(f"weight update, {receipt.bytes >> 20} MB: shared memory {ours:.3f} s")
    console.print(f"the least: {', '.join(f'{name} {s:.3f}' for name, s in parts.items())}, together {least:.3f} s")
    for name, seconds in others.items():
        console.print(f"{name}: {seconds:.3f} s (ratio {ours / seconds:.2f}; of the least {least / seconds:.2f})")


def _least(model: Any) -> dict[str, Callable[[], Any]]:
    """What no update can do without, in memory that is in use already: none of it waits for another process."""
    import torch
    from vllm import _custom_ops as ops

    from actors.weight_wire import byte_view, checksum

    tensors = [parameter.detach() for parameter in model.parameters()]
    weights = [layer.weight.detach() for layer in model.modules() if isinstance(layer, torch.nn.Linear)]
    places = [byte_view(tensor).clone() for tensor in tensors]
    return {
        "copy": lambda: [place.copy_(byte_view(tensor)) for place, tensor in zip(places, tensors, strict=True)],
        "sum twice": lambda: [checksum(tensor) for tensor in tensors * 2],
        "pack": lambda: [ops.create_onednn_mm(weight.t(), 32) and None for weight in weights],
    }


def _seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    app()

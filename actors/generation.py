"""What goes into a rollout actor and what comes out: requests and completions as token ids. Plain data, no engine.

Token ids are never re-tokenised: what the engine sampled is what the learner trains on. Log-probabilities are those
of the distribution sampled from, temperature included.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class WeightsRef:
    """Which weights a request wants: a version, and where an engine that lacks them can load them.

    `path` is a directory of safetensors, or its URL; "" where the learner alone holds them (the driver then refits the
    engine).
    """

    version: int
    path: str = ""


@dataclass(frozen=True)
class GenerationRequest:
    """n samples of one prompt. `max_tokens` is cut to what the context leaves."""

    id: str
    prompt_ids: tuple[int, ...]
    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 256
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Completion:
    """One sampled answer; the three tuples have one entry a generated token, the end-of-sequence token included."""

    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    weight_versions: tuple[int, ...]
    text: str
    finish_reason: str  # "stop" or "length"


@dataclass(frozen=True)
class Generation:
    """The completions of one request. `error` says why there are none: the request was impossible, or was given up."""

    id: str
    completions: tuple[Completion, ...]
    error: str = ""


@dataclass(frozen=True)
class NeedsRefit:
    """An actor's answer when it holds other weights than asked for and was given no path to load them from."""

    held: WeightsRef
    wanted: WeightsRef


@dataclass(frozen=True)
class EngineInfo:
    """What one engine says of itself. `incarnation` changes with every restart of its actor."""

    pid: int
    node_id: str
    incarnation: str
    held: WeightsRef
    streamed: bool
    dtype: str
    workers: int
    ready_seconds: float


def satisfies(held: WeightsRef, streamed: bool, wanted: WeightsRef) -> bool:
    """Whether an engine may serve a request for `wanted` as it is.

    Newer weights that the learner streamed serve too: the driver learns of an update only after the engines have it.
    """
    if held.version != wanted.version:
        return streamed and held.version > wanted.version
    return streamed or (bool(wanted.path) and held.path == wanted.path)

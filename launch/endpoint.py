"""A teacher behind an OpenAI-compatible endpoint: many questions at a time, paced, retried, and never paid for twice.

Every reply is kept under LEDEX_CACHE by a hash of all that the question says, so that a run that was killed, or another
run with the same questions, asks again for what is missing alone. Retries with growing waits, and the waits that the
server names, are the client library's. Not covered: streaming, tools, other modalities.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import queue
import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from launch.model_cache import cache_dir
from launch.rundir import write_atomically
from ledex_ray.config import EndpointConfig
from ledex_ray.errors import BadInput
from ledex_ray.prompts import Prompt

log = logging.getLogger(__name__)

REFUSED = 20  # questions that an endpoint may refuse before it has answered one


@dataclass(frozen=True)
class Question:
    """n answers to one prompt."""

    id: str
    prompt: Prompt
    n: int
    temperature: float
    top_p: float
    max_tokens: int
    seed: int


@dataclass(frozen=True)
class Reply:
    """The answers to a question, as many as it asked for; tokens as the endpoint counts them, of all answers together.

    `served` is the endpoint's own name of the model that answered: where it was asked for an alias, the snapshot.
    `error` says why there are no answers: the endpoint refused this one question.
    """

    texts: tuple[str, ...]
    read: int = 0
    written: int = 0
    served: str = ""
    error: str = ""


class Endpoint:
    """One model at one endpoint. BadInput at once where its key is missing.

    `answered`: it is known to answer, so that many refusals in a row are those questions' own fault.
    """

    def __init__(self, model: str, config: EndpointConfig, answered: bool = False) -> None:
        self.model, self.config = model, config
        self.asked = self.kept = 0  # questions that went out, and that the cache answered
        self._refused, self._answered = 0, answered
        self._key = endpoint_key(config)
        self._folder = cache_dir() / "endpoint"

    def ask(self, questions: Sequence[Question]) -> Generator[list[tuple[Question, Reply]]]:
        """Replies as they come, in lists of what has come meanwhile.

        Raises BadInput where the endpoint refuses the key or every question, does not know the model, or could not be
        reached or gave no answer in time after all retries; the client's own error where it answered with another
        fault each time.
        """
        done: queue.SimpleQueue[tuple[Question, Reply] | BaseException | None] = queue.SimpleQueue()
        stop = threading.Event()

        def work() -> None:
            try:
                asyncio.run(self._ask_all(questions, done, stop))
                done.put(None)
            except BaseException as error:  # handed to the caller's thread, which raises it
                done.put(error)

        thread = threading.Thread(target=work, name="endpoint", daemon=True)
        thread.start()
        try:
            ended = False
            while not ended:
                ready = [done.get()]
                while not done.empty():
                    ready.append(done.get())
                replies = [r for r in ready if isinstance(r, tuple)]
                if replies:
                    yield replies
                for item in ready:
                    if isinstance(item, BaseException):
                        raise _explained(item, self.model, self.config)
                ended = None in ready
        finally:
            stop.set()  # also when the caller goes away: nothing more is asked, and paid for
            thread.join(timeout=self.config.timeout_seconds)

    async def _ask_all(
        self, questions: Sequence[Question], done: queue.SimpleQueue[Any], stop: threading.Event
    ) -> None:
        from openai import AsyncOpenAI

        config = self.config
        pace = _Pace(config.requests_per_minute)
        client = AsyncOpenAI(
            base_url=config.url, api_key=self._key, max_retries=config.retries, timeout=config.timeout_seconds
        )
        left = iter(questions)

        async def worker() -> None:
            for question in left:
                if stop.is_set():
                    return
                known = self._read(question)
                if len(known.texts) == question.n:
                    self.kept, self._answered = self.kept + 1, True
                    done.put((question, known))
                    continue
                self.asked += 1
                reply = await self._ask(client, pace, question, known, stop)
                if reply is None:
                    return
                self._check_willing(reply)
                done.put((question, reply))

        async def until_stopped() -> None:
            try:
                await worker()
            except BaseException:  # nothing more is asked; what the others asked is on its way and paid for
                stop.set()
                raise

        async with client:
            workers = [until_stopped() for _ in range(min(config.concurrency, len(questions)))]
            ends = await asyncio.gather(*workers, return_exceptions=True)
        for end in ends:
            if end is not None:
                raise end

    async def _ask(
        self, client: Any, pace: _Pace, question: Question, reply: Reply, stop: threading.Event
    ) -> Reply | None:
        """The reply with the answers it lacks; an endpoint that gives fewer at once is asked again for the rest.

        None where it is stopped before it has them all.
        """
        import openai

        while len(reply.texts) < question.n:
            await pace.wait()
            if stop.is_set():
                return None
            try:
                answer = await client.chat.completions.create(
                    model=self.model,
                    messages=[{"role": m.role, "content": m.content} for m in question.prompt],
                    n=question.n - len(reply.texts),
                    temperature=question.temperature,
                    top_p=question.top_p,
                    max_tokens=question.max_tokens,
                    seed=question.seed + len(reply.texts),
                )
            except openai.BadRequestError as error:  # this question alone: too long, or against the endpoint's rules
                return replace(reply, error=str(error)[:500])
            if not answer.choices:
                return replace(reply, error="the endpoint gave no answer")
            texts = (*reply.texts, *(choice.message.content or "" for choice in answer.choices))
            reply = Reply(
                texts[: question.n],
                reply.read + (answer.usage.prompt_tokens if answer.usage else 0),
                reply.written + (answer.usage.completion_tokens if answer.usage else 0),
                answer.model or "",
            )
            self._write(question, reply)
        return reply

    def _check_willing(self, reply: Reply) -> None:
        """Raises BadInput where so many were refused, and nothing answered, that it will be all of them."""
        self._answered |= bool(reply.texts)
        self._refused += bool(reply.error)
        if self._refused >= REFUSED and not self._answered:
            raise BadInput(
                self.config.url,
                f"refused {self._refused} questions and answered none",
                given=reply.error,
                expected="an endpoint and a model that take n, temperature, top_p, max_tokens and seed",
            )

    def _path(self, question: Question) -> Path:
        said = {k: v for k, v in asdict(question).items() if k != "id"} | {"model": self.model, "url": self.config.url}
        digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
        return self._folder / digest[:2] / f"{digest}.json"

    def _read(self, question: Question) -> Reply:
        """What is known of the answers: all, some, or none."""
        path = self._path(question)
        if not path.exists():
            return Reply(())
        stored = json.loads(path.read_text(encoding="utf-8"))
        return Reply(tuple(stored["texts"]), stored["read"], stored["written"], stored.get("served", ""))

    def _write(self, question: Question, reply: Reply) -> None:
        path = self._path(question)
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = {"texts": reply.texts, "read": reply.read, "written": reply.written, "served": reply.served}
        write_atomically(path, json.dumps(kept))


class _Pace:
    """Lets so many through a minute, evenly spaced."""

    def __init__(self, per_minute: int | None) -> None:
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._next = time.monotonic()

    async def wait(self) -> None:
        now = time.monotonic()
        self._next = max(self._next, now) + self._gap
        await asyncio.sleep(max(0.0, self._next - self._gap - now))


def endpoint_key(config: EndpointConfig) -> str:
    """The key from the environment; BadInput where the variable that the recipe names is not set."""
    if not config.key_variable:
        return "none"  # the client wants some text
    key = os.environ.get(config.key_variable, "")
    if not key:
        raise BadInput(
            "recipe key 'synthesis.endpoint.key_variable'",
            "names a variable that is not set",
            given=config.key_variable,
            expected="the endpoint's key in it, or an empty name where none is needed",
        )
    return key


def _explained(error: BaseException, model: str, config: EndpointConfig) -> BaseException:
    """The error that the user sees: what is wrong with the recipe, where it is the recipe."""
    import openai

    if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
        return BadInput(
            config.url, "refuses the key", given=config.key_variable, expected="a variable with a valid key"
        )
    if isinstance(error, openai.NotFoundError):
        return BadInput(config.url, "does not know the model", given=model, expected="a name that the endpoint serves")
    if isinstance(error, openai.APITimeoutError):  # one of those below as well
        return BadInput(
            config.url,
            f"did not answer within synthesis.endpoint.timeout_seconds in {config.retries + 1} tries",
            given=config.timeout_seconds,
            expected="more seconds, or fewer questions at a time (concurrency); the run goes on under other values",
        )
    if isinstance(error, openai.APIConnectionError):
        kept = "an endpoint that answers; what it has answered is kept, and the same command goes on from there"
        return BadInput(config.url, f"could not be reached in {config.retries + 1} tries", expected=kept)
    return error

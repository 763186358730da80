"""Requests to score that come bit by bit from several threads, all through one client of the sandbox pool."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from queue import Empty, SimpleQueue

from actors.sandbox import SandboxClient, ScoreRequest, ScoreResult

WAIT_SECONDS = 0.02  # for the next request, before a stream looks at what has finished


class ScoreStream:
    """Requests that come bit by bit, all through one client: the sandboxes share whatever there is to do.

    A context; leaving it calls off what is unfinished.
    """

    def __init__(self, client: SandboxClient) -> None:
        self._client = client
        self._inbox: SimpleQueue[ScoreRequest] = SimpleQueue()
        self._results: dict[str, Future[ScoreResult]] = {}
        self._failure: BaseException | None = None
        self._lock = threading.Lock()
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._run, name="score-stream", daemon=True)

    def __enter__(self) -> ScoreStream:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._thread.join()

    def submit(self, request: ScoreRequest) -> Future[ScoreResult]:
        """What `SandboxClient.score` makes of the request; its id is no other's in this stream."""
        found: Future[ScoreResult] = Future()
        with self._lock:
            if self._failure is not None:
                raise self._failure
            self._results[request.id] = found
        self._inbox.put(request)
        return found

    def _run(self) -> None:
        try:
            for result in self._client.score(self._requests(), self._left.is_set):
                self._results.pop(result.id).set_result(result)
        except BaseException as error:  # whatever ends the stream, whoever waits for a result is told
            with self._lock:
                self._failure = error
            for waiting in self._results.values():
                waiting.set_exception(error)

    def _requests(self) -> Iterator[ScoreRequest | None]:
        while not self._left.is_set():
            try:
                yield self._inbox.get(timeout=WAIT_SECONDS)
            except Empty:
                yield None

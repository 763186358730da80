"""A real HTTP server on loopback for any ASGI application, and an OpenAI-shaped one that fails on purpose."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route


@contextlib.contextmanager
def served(app: Any, port: int = 0) -> Iterator[str]:
    """The address of an application that is served until the end of the block; port 0 is any free one."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=20)


class Faulty:
    """Answers every chat with its last message and a number; the first requests meet the faults given, in order.

    A fault is a status code. `most` caps the answers of one request, as some endpoints do. `fails` holds which request
    for a message, counted from 1, is refused, and `with_status` how.
    """

    def __init__(self, *faults: int, most: int = 99, slow: float = 0.0) -> None:
        self.faults, self.most, self.slow = list(faults), most, slow
        self.fails: dict[str, int] = {}
        self.with_status = 500
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.at_once = self.most_at_once = 0
        self.app = Starlette(routes=[Route("/v1/chat/completions", self.chat, methods=["POST"])])

    async def chat(self, request: Request) -> Response:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(self.slow)
        self.at_once -= 1
        if self.faults:
            return JSONResponse({"error": {"message": "on purpose"}}, self.faults.pop(0), {"retry-after": "0"})
        body = await request.json()
        said = body["messages"][-1]["content"]
        if sum(b["messages"][-1]["content"] == said for b in self.bodies) + 1 == self.fails.get(said):
            return JSONResponse({"error": {"message": "on purpose"}}, self.with_status, {"retry-after": "0"})
        self.bodies.append(body)
        self.keys.append(request.headers["authorization"])
        choices = [
            {"index": i, "finish_reason": "stop", "message": {"role": "assistant", "content": f"{said} {i}"}}
            for i in range(min(body["n"], self.most))
        ]
        usage = {"prompt_tokens": 10, "completion_tokens": 3 * len(choices), "total_tokens": 0}
        made = {"id": "x", "object": "chat.completion", "created": 0, "model": body["model"]}
        return JSONResponse({**made, "choices": choices, "usage": usage})

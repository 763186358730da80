"""Frames, as all parts of a worker exchange them: four bytes of length, and JSON in ASCII."""

from __future__ import annotations

import json
import socket
from typing import Any

MAX_FRAME = 16 << 20

dumps = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
_loads = json.JSONDecoder().decode


class Breach(Exception):
    """A frame that breaks the protocol."""


def parse(text: str) -> Any:
    """JSON of a frame; raises Breach, whatever the text."""
    try:
        return _loads(text)
    except (ValueError, RecursionError, MemoryError) as error:
        raise Breach(f"not JSON: {type(error).__name__}") from None


def send_text(connection: socket.socket, text: str) -> None:
    """Sends one frame; raises OSError when the other side is gone."""
    data = text.encode("ascii")
    connection.sendall(len(data).to_bytes(4, "little") + data)


def send(connection: socket.socket, message: object) -> None:
    """Sends plain JSON as one frame."""
    send_text(connection, dumps(message))


def receive_text(connection: socket.socket, limit: int = MAX_FRAME) -> str:
    """The text of the next frame; raises EOFError when the other side is gone, Breach for one that is no frame."""
    head = _exactly(connection, 4)
    length = int.from_bytes(head, "little")
    if length > limit:
        raise Breach(f"a frame of {length} bytes")
    try:
        return _exactly(connection, length).decode("ascii")
    except UnicodeDecodeError:
        raise Breach("a frame that is not ASCII") from None


def _exactly(connection: socket.socket, length: int) -> bytes:
    try:
        data = connection.recv(length) if length else b""
        if len(data) == length:
            return data
        parts, missing = [data], length - len(data)
        while data and missing:
            data = connection.recv(min(missing, 1 << 20))
            parts.append(data)
            missing -= len(data)
    except ConnectionError:
        raise EOFError from None
    if missing:
        raise EOFError
    return b"".join(parts)

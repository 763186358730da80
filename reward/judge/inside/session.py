"""One exchange with one program: the proxies that tests call, and what came back. Trusted side."""

from __future__ import annotations

import builtins
import reprlib
import secrets
import socket
from typing import Any

from . import values, wire

TEXT = 300  # characters of a value that is shown


class Ended(BaseException):
    """The exchange is over: the program's process is gone, or it broke the protocol. Not an Exception: a test's own
    `except Exception` must not hide it."""

    def __init__(self, reason: str, breach: bool) -> None:
        super().__init__(reason)
        self.reason, self.breach = reason, breach


class OpaqueResult(BaseException):
    """The program returned something that is no plain value."""


class NeedsWeak(BaseException):
    """The test hands the program something that is no plain value."""


class RemoteError(Exception):
    """An exception of a class that the program defined itself."""


_SHOW = reprlib.Repr()
_SHOW.maxlevel, _SHOW.maxstring, _SHOW.maxother, _SHOW.maxlong = 8, TEXT, TEXT, 100
_SHOW.maxlist = _SHOW.maxtuple = _SHOW.maxset = _SHOW.maxfrozenset = _SHOW.maxdict = _SHOW.maxdeque = 60


def show(value: object) -> str:
    """A value as short text."""
    if type(value) is int and value.bit_length() > 4000:
        return f"<an integer of {value.bit_length()} bits>"
    try:
        text = _SHOW.repr(value)
    except (ValueError, RecursionError, MemoryError, ArithmeticError) as error:
        return f"<{type(value).__name__} that cannot be shown: {type(error).__name__}>"
    return text if len(text) <= TEXT else text[: TEXT - 3] + "..."


def _text(value: object, limit: int = 500) -> str:
    if type(value) is not str:
        raise wire.Breach("text expected")
    return value[:limit]


class Session:
    """The exchange with one program. `ended` and `need`, once set, stay: no test after that can pass."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.ended: Ended | None = None
        self.need: NeedsWeak | None = None
        self.raised: tuple[BaseException, dict[str, Any]] | None = None
        self._call: tuple[str, str, list[str], str] | None = None
        self._value: Any = None
        self._has_value = False

    def load(self, names: tuple[str, ...]) -> dict[str, Any] | None:
        """Waits until the program has been run and holds the names; what went wrong, or None."""
        reply = self._exchange({"names": list(names)})
        try:
            if "e" in reply:
                return self._error(reply["e"])
            missing = reply["missing"]
            if type(missing) is not list or not all(type(name) is str for name in missing):
                raise wire.Breach("missing")
        except (wire.Breach, KeyError, TypeError) as error:
            raise self._end(f"an answer that makes no sense: {error}", breach=True) from None
        if missing:
            return {"error": f"NameError: the program does not define {missing[0][:80]}"}
        return None

    def call(self, name: str, arguments: tuple[Any, ...], keywords: dict[str, Any], observe: bool = False) -> Any:
        """Calls a function of the program, as the test would."""
        try:
            texts = values.to_text(list(arguments)), values.to_text(list(keywords.values()))
        except values.Unknown as reason:  # the test's own object: nothing that a program returns is of an unknown kind
            self.need = NeedsWeak(f"the test hands over {reason}")
            raise self.need from None
        except values.Opaque as reason:  # what the program returned before, and no choice of weak mode for it
            raise OpaqueResult(f"what it returned cannot be handed on: {reason}") from None
        return self.call_text_frames(name, *texts, list(keywords), arguments if observe else ())

    def call_text_frames(
        self, name: str, arguments: str, named: str, keywords: list[str], observed: tuple[Any, ...] = ()
    ) -> Any:
        """The same with arguments already in the closed format (they are the same for each program)."""
        if self.ended is not None:
            raise self.ended
        self._call, self._has_value = (name, arguments, keywords, named), False
        names = wire.dumps(keywords)
        body = f'"f":{wire.dumps(name)},"a":{arguments},"k":[{names},{named}],"m":{"true" if observed else "false"}'
        reply = self._exchange(body)
        try:
            if "v" in reply:
                value = values.from_json(reply["v"])
                self._value, self._has_value = value, True
                if observed:
                    for argument, after in zip(observed, values.from_json(reply["m"]), strict=True):
                        _reflect(argument, after)
                return value
            if "o" in reply:
                raise OpaqueResult(f"it returned {_text(reply['o'])}")
            described = self._error(reply["e"])
            error = _builtin(reply["e"])
        except (wire.Breach, KeyError, TypeError, ValueError) as problem:
            raise self._end(f"an answer that makes no sense: {problem}", breach=True) from None
        self.raised = (error, described)
        raise error

    def run_test(self, item: dict[str, Any], setup: str, entry: str) -> tuple[str, dict[str, Any] | None]:
        """Weak mode: one test in the program's own process."""
        reply = self._exchange({**item, "setup": setup, "entry": entry})
        try:
            outcome, error = reply["r"]
            if outcome not in ("passed", "failed", "error"):
                raise wire.Breach("outcome")
            return outcome, (self._error(error) if error is not None else None)
        except (wire.Breach, KeyError, TypeError, ValueError) as problem:
            raise self._end(f"an answer that makes no sense: {problem}", breach=True) from None

    def call_text(self) -> str:
        """The last call as one would write it."""
        if self._call is None:
            return ""
        name, arguments, keywords, named_text = self._call
        positional = [show(value) for value in values.from_text(arguments)]
        named = [f"{key}={show(value)}" for key, value in zip(keywords, values.from_text(named_text), strict=True)]
        text = f"{name}({', '.join(positional + named)})"
        return text if len(text) <= TEXT else text[: TEXT - 4] + "...)"

    def got_text(self) -> str:
        return show(self._value) if self._has_value else ""

    def forget_call(self) -> None:
        self._call, self._has_value, self.raised = None, False, None

    def _exchange(self, body: str | dict[str, Any]) -> Any:
        number = secrets.randbits(52)
        try:
            if isinstance(body, str):
                wire.send_text(self._connection, f'{{"n":{number},{body}}}')
            else:
                wire.send(self._connection, {"n": number, **body})
            reply = wire.parse(wire.receive_text(self._connection))
        except (EOFError, OSError):
            raise self._end("the program's process ended", breach=False) from None
        except wire.Breach as problem:
            raise self._end(str(problem), breach=True) from None
        if type(reply) is not dict or type(reply.get("n")) is not int or reply["n"] != number:
            raise self._end("an answer that nobody asked for", breach=True)
        return reply

    def _end(self, reason: str, *, breach: bool) -> Ended:
        self.ended = Ended(reason, breach)
        return self.ended

    def _error(self, described: Any) -> dict[str, Any]:
        name, message, line, _ = described
        if type(line) is not int or not 0 <= line < 10_000_000:
            raise wire.Breach("line")
        text = _text(name, 80) + (f": {_text(message)}" if message else "")
        return {"error": text, "line": line, "kind": _text(name, 80)}


class Proxy:
    """Stands for a function of the program in the data set's test code."""

    def __init__(self, session: Session, name: str, observe: bool) -> None:
        self._session, self._observe, self.__name__ = session, observe, name

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._session.call(self.__name__, arguments, keywords, self._observe)


def _builtin(described: Any) -> BaseException:
    """The exception for the test code: the most derived builtin class that the program's exception has."""
    _, message, _, bases = described
    if type(bases) is not list:
        raise wire.Breach("bases")
    for name in bases[:20]:
        kind = getattr(builtins, name, None) if type(name) is str else None
        if isinstance(kind, type) and issubclass(kind, (Exception, SystemExit)) and kind is not Exception:
            try:
                return kind(_text(message))
            except TypeError:  # a class with a constructor of its own (UnicodeDecodeError)
                continue
    return RemoteError(_text(message))


def _reflect(before: Any, after: Any) -> None:
    """Makes the test's own argument what the program made of it; nested containers keep their identity."""
    if type(before) is not type(after):
        return
    if type(before) is list:
        before[:] = [_merged(before[i], new) if i < len(before) else new for i, new in enumerate(after)]
    elif type(before) is dict:
        merged = {key: _merged(before[key], new) if key in before else new for key, new in after.items()}
        before.clear()
        before.update(merged)
    elif type(before) is set:
        before.clear()
        before.update(after)
    elif type(before) is tuple:
        for old, new in zip(before, after, strict=False):
            _reflect(old, new)


def _merged(old: Any, new: Any) -> Any:
    if type(old) is type(new) and type(old) in (list, dict, set):
        _reflect(old, new)
        return old
    return new

"""What happens in the child, on the untrusted side: the program is loaded and its functions are called.

Nothing here is a line of defence: the program may change any of it. The defence is that this process holds no test and
no expected value, can reach nothing, and that its answers are plain data which the referee judges.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import random
import socket
import sys
import types
from typing import Any, TextIO

from . import values, wire

SOURCE = "<solution>"
MESSAGE = 500  # characters of an exception's message


def run(descriptor: int, script: bool) -> None:
    """Reads the program and serves it until the other side closes; ends the process."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, descriptor)
    program, weak, prelude = wire.parse(wire.receive_text(connection))
    if script:
        os._exit(_run_script(connection, program, prelude))
    elif weak:
        _serve_tests(connection, program, prelude)
    else:
        _serve_calls(connection, program, prelude)
    os._exit(0)


def rehearse() -> None:
    """Runs the code of a child's life a few times, so that children find it specialised instead of doing that anew."""
    for _ in range(16):
        names = _load("def f(a, b):\n    return [a, b]\n", "rehearsal", "")
        ours, theirs = socket.socketpair()
        with ours, theirs:
            wire.send(ours, {"n": 1, "f": "f", "a": [1, {"t": [2.5, "x"]}], "k": [[], []], "m": False})
            call = wire.parse(wire.receive_text(theirs))
            wire.send_text(theirs, _answer(names, call))
            wire.send(ours, {"n": 1, "missing": []})
    del sys.modules["rehearsal"]


def _load(program: str, name: str, prelude: str) -> dict[str, Any]:
    module = types.ModuleType(name)
    sys.modules[name] = module
    if prelude:
        exec(compile(prelude, "<prelude>", "exec", dont_inherit=True), module.__dict__)
    try:
        code = compile(program, SOURCE, "exec", dont_inherit=True)
    except SyntaxError as error:
        if not prelude or "outside function" not in str(error.msg):
            raise
        code = _as_function(program)
    exec(code, module.__dict__)
    return module.__dict__


def _as_function(program: str) -> types.CodeType:
    """The program as the body of a function that is called: APPS runs scripts so, and some `return`."""
    import ast

    tree = ast.parse(program, SOURCE)
    whole = ast.parse("def code(): pass\ncode()")
    whole.body[0].body = tree.body  # type: ignore[attr-defined]
    return compile(whole, SOURCE, "exec", dont_inherit=True)


def _describe(error: BaseException) -> list[Any]:
    """Name, message, line in the solution, and the names of the bases, most derived first."""
    line = 0
    if isinstance(error, SyntaxError) and error.filename == SOURCE:
        line, message = error.lineno or 0, str(error.msg)
    else:
        try:
            message = str(error)
        except BaseException as second:  # the program's own __str__ may do anything
            message = f"(its message could not be read: {type(second).__name__})"
    step = error.__traceback__
    while step is not None:
        if step.tb_frame.f_code.co_filename == SOURCE:
            line = step.tb_lineno
        step = step.tb_next
    return [type(error).__name__, message[:MESSAGE], line, [base.__name__ for base in type(error).__mro__]]


def _serve_calls(connection: socket.socket, program: str, prelude: str) -> None:
    failure: list[Any] | None = None
    names: dict[str, Any] = {}
    try:
        names = _load(program, "solution", prelude)
    except BaseException as error:  # the program may raise anything, SystemExit included
        failure = _describe(error)
    wanted = _next(connection)
    if failure is not None:
        return wire.send(connection, {"n": wanted["n"], "e": failure})
    missing = [name for name in wanted["names"] if _find(names, name) is None]
    wire.send(connection, {"n": wanted["n"], "missing": missing})
    while True:
        call = _next(connection)
        wire.send_text(connection, _answer(names, call))


def _next(connection: socket.socket) -> Any:
    try:
        return wire.parse(wire.receive_text(connection))
    except EOFError:
        os._exit(0)


def _find(names: dict[str, Any], name: str) -> Any:
    """The function; a method of `Solution` where that is how the program is written."""
    if name in names:
        return names[name]
    solution = names.get("Solution")
    return getattr(solution(), name, None) if isinstance(solution, type) and hasattr(solution, name) else None


def _answer(names: dict[str, Any], call: dict[str, Any]) -> str:
    number = call["n"]
    try:
        function = _find(names, call["f"])
        arguments = values.from_json(call["a"])
        keywords = dict(zip(call["k"][0], values.from_json(call["k"][1]), strict=True))
        value = function(*arguments, **keywords)
        text = f'"v":{values.to_text(value)}'
        if call["m"]:  # the test can see what became of the arguments
            text += f',"m":{values.to_text(arguments)}'
    except values.Opaque as error:
        text = f'"o":{values.to_text(str(error))}'
    except BaseException as error:  # the program may raise anything; its OSError is no failure of the exchange
        text = f'"e":{values.to_text(_describe(error))}'
    return f'{{"n":{number},{text}}}'


def _serve_tests(connection: socket.socket, program: str, prelude: str) -> None:
    """Weak mode: the tests themselves run here. What is answered can be forged, and the verdict says so."""
    failure: list[Any] | None = None
    names: dict[str, Any] = {}
    try:
        names = _load(program, "solution", prelude)
    except BaseException as error:
        failure = _describe(error)
    wanted = _next(connection)
    if failure is not None:
        return wire.send(connection, {"n": wanted["n"], "e": failure})
    missing = [name for name in wanted["names"] if _find(names, name) is None]
    wire.send(connection, {"n": wanted["n"], "missing": missing})
    while True:
        item = _next(connection)
        outcome: list[Any] = ["passed", None]
        try:
            random.seed(0)
            space = dict(_load(program, "solution", prelude))  # anew: no test finds what another did to its classes
            space["candidate"] = _find(space, item["entry"]) if item["entry"] else None
            exec(compile(item["setup"], "<setup>", "exec", dont_inherit=True), space)
            exec(compile(item["code"], "<test>", "exec", dont_inherit=True), space)
            if item["check"]:
                space["check"](space["candidate"])
        except AssertionError as error:
            described = _describe(error)
            outcome = ["failed" if described[2] == 0 else "error", described]
        except BaseException as error:
            outcome = ["error", _describe(error)]
        wire.send(connection, {"n": item["n"], "r": outcome})


def _run_script(connection: socket.socket, program: str, prelude: str) -> int:
    output = _open_streams()
    code, failure = 0, None
    try:
        _load(program, "__main__", prelude)
    except SystemExit as exit:
        code = exit.code if isinstance(exit.code, int) else int(exit.code is not None)
    except BaseException as error:
        code, failure = 1, _describe(error)
    try:
        if "threading" in sys.modules:  # as the interpreter does at its end: threads, then what was registered for it
            sys.modules["threading"]._shutdown()
        atexit._run_exitfuncs()
        present = getattr(sys, "stdout", None)
        if present is not None and not getattr(present, "closed", False):
            present.flush()
    except BaseException as error:
        code, failure = code or 1, failure or _describe(error)
    with contextlib.suppress(OSError, ValueError):  # closed or detached: nothing is left in it
        output.flush()  # the interpreter's own is destroyed last, also where the program has put another in its place
    if failure is not None:
        with contextlib.suppress(OSError):
            wire.send(connection, failure)
    return code & 255


def _open_streams() -> TextIO:
    """Makes the three standard streams as the interpreter does at its start; returns standard output."""
    for descriptor, name, mode, errors in (
        (0, "stdin", "r", "surrogateescape"),
        (1, "stdout", "w", "surrogateescape"),
        (2, "stderr", "w", "backslashreplace"),
    ):
        buffering = 1 if name == "stderr" else -1
        stream: Any = open(descriptor, mode, buffering, encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115
        stream.buffer.raw.name = f"<{name}>"
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    return sys.stdout

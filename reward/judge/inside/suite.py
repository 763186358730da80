"""A problem's tests as the referee holds them, prepared once for all programs of the problem."""

from __future__ import annotations

import ast
from types import CodeType
from typing import Any

from . import assertions, decoys, values
from .compare import matches
from .session import NeedsWeak, OpaqueResult, Proxy, Session, show


class Suite:
    """Tests, set-up code and the names of the program that they call. `broken` says what is wrong with the data."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.entry: str = data["entry"]
        self.setup: str = data["setup"]
        self.broken = self.weak = ""
        self.tests: list[CodeTest | CallTest] = []
        self._setup_code: CodeType | None = None
        names = {self.entry} - {""}
        try:
            self._setup_code = compile(self.setup, "<setup>", "exec", dont_inherit=True)
            given = assertions.defined_names(self.setup)
            self.weak = assertions.weak_setup(self.setup)
            for test in data["tests"]:
                prepared = _prepare(test, self.entry, given)
                names.update(prepared.names)
                self.weak = self.weak or prepared.weak
                self.tests.append(prepared)
        except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError, NeedsWeak) as error:
            self.broken = f"the test cannot be read: {type(error).__name__}: {error}"
        self.names = tuple(sorted(names))
        if self.weak and any(isinstance(test, CallTest) for test in self.tests):
            self.broken = self.broken or "tests that need weak mode and tests by value in one problem"

    def namespace(self, session: Session) -> dict[str, Any]:
        """What the tests' code sees: the set-up, run afresh, and the program's functions."""
        space: dict[str, Any] = {"__name__": "tests", assertions.CHECK_FAILED: assertions.failed}
        space.update({name: Proxy(session, name, True) for name in self.names})
        if self._setup_code is not None and self.setup:
            exec(self._setup_code, space)
        return space


def _prepare(test: dict[str, Any], entry: str, given: frozenset[str]) -> CodeTest | CallTest:
    if test["kind"] == "code":
        return CodeTest(assertions.prepare(test["code"], entry, given), entry, check=False)
    if test["kind"] == "check":
        return CodeTest(assertions.prepare(test["code"], entry, given), entry, check=True)
    return CallTest(test, entry)


class CodeTest:
    """Test code run against proxies: one assert, or a `check(candidate)`."""

    expected_text = ""

    def __init__(self, code: assertions.TestCode, entry: str, *, check: bool) -> None:
        self._code, self._entry, self._check = code, entry, check
        self.names, self.weak, self.text = code.names, code.weak, code.text

    def run(self, session: Session, space: dict[str, Any]) -> None:
        session.forget_call()
        candidate = Proxy(session, self._entry, self._code.observes)
        for name in self.names:
            space[name] = Proxy(session, name, self._code.observes)
        space["candidate"] = candidate
        exec(self._code.code, space)
        if self._check:
            space["check"](candidate)

    def weak_items(self) -> list[tuple[bool, dict[str, Any]]]:
        """The test (True) and its decoy (False), as the program's own process runs them."""
        twins = decoys.twins(self._code.source, self._check)
        return [(real, {"code": code, "check": self._check}) for real, code in zip((True, False), twins, strict=True)]


class CallTest:
    """One call with an expected value, or with an oracle of the data set."""

    weak = ""

    def __init__(self, data: dict[str, Any], entry: str) -> None:
        self._entry = entry
        self._arguments_source = data["args"]
        arguments = ast.literal_eval(data["args"])
        keywords = ast.literal_eval(data["kwargs"] or "{}")
        if not isinstance(arguments, tuple):
            raise ValueError("args must be a tuple")
        try:
            self._arguments = values.to_text(list(arguments))
            self._values = values.to_text(list(keywords.values()))
        except values.Opaque as reason:
            raise ValueError(f"args: {reason}") from None
        self._keywords = list(keywords)
        self.names: tuple[str, ...] = ()
        self._oracle: CodeType | None = None
        self._wants_value = data["kind"] == "output"
        self.expected_text = self.text = ""
        if self._wants_value:
            return
        if data["kind"] == "oracle":
            self._oracle = compile(data["oracle"], "<oracle>", "exec", dont_inherit=True)
            self.text = "the task's own check"
        else:
            self._expected = ast.literal_eval(data["expected"])
            self._how, self._atol, self._rtol = data["compare"], data["atol"], data["rtol"]
            self.expected_text = show(self._expected)

    def run(self, session: Session, space: dict[str, Any]) -> dict[str, Any] | None:
        session.forget_call()
        got = session.call_text_frames(self._entry, self._arguments, self._values, self._keywords)
        if self._wants_value:
            try:
                return {"value": values.to_text(got)}
            except values.Opaque as reason:  # a match object arrives, but there is no literal for it
                raise OpaqueResult(str(reason)) from None
        if self._oracle is not None:
            exec(self._oracle, space)
            if not space["check"](ast.literal_eval(self._arguments_source), got):
                assertions.failed(self.text, "")
        elif not matches(got, self._expected, self._how, self._atol, self._rtol):
            assertions.failed(self.text, "", got, self._expected, compared=True)
        return None

    def weak_items(self) -> list[tuple[bool, dict[str, Any]]]:
        raise AssertionError("tests by value never need weak mode")

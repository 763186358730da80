"""A real headless Chromium, driven over its own protocol: what it logged, what it shows, how it looks."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
DEADLINE = 60.0  # seconds for anything the browser is asked; it answers in a fraction of that


class Page:
    """One tab. `messages` holds all that was logged, thrown or refused in it."""

    def __init__(self, socket: Any) -> None:
        self._socket, self._ids = socket, itertools.count(1)
        self.messages: list[str] = []
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def open(self, url: str) -> None:
        """Goes to a page and waits until it has loaded."""
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives, promises awaited."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, expression: str) -> None:
        """Waits until an expression is true."""
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end:
            if self.value(expression):
                return
            time.sleep(0.1)
        raise AssertionError(f"never true: {expression}")

    def heard(self) -> list[str]:
        """All that was logged, thrown or refused so far; one round trip first, so that nothing is still on its way."""
        self.value("new Promise(done => setTimeout(done, 50))")
        return self.messages

    def size(self, width: int, height: int, phone: bool = False) -> None:
        """The window's size in CSS pixels; a phone has a finer screen and no pointer."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)

    def dark(self, dark: bool = True) -> None:
        """What the page hears of the system's colours."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self, path: Path) -> None:
        """The whole page as a PNG."""
        taken = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(taken["data"]))

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol; events that arrive meanwhile are looked through for messages."""
        number = next(self._ids)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv(timeout=DEADLINE))
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                found: dict[str, Any] = answer["result"]
                return found
            if answer.get("method") in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
                self.messages.append(json.dumps(answer["params"])[:500])
            if answer.get("method") == "Page.javascriptDialogOpening":
                raise AssertionError(f"a dialog opened: {answer['params']}")


@contextlib.contextmanager
def chromium(profile: Path) -> Iterator[Page]:
    """A browser of our own, ended at the end; skips the test where none is installed."""
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"no browser here ({', '.join(NAMES)})")
    connect = pytest.importorskip("websockets.sync.client", reason="no websockets here to talk to a browser").connect
    flags = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")
    command = [program, *flags, "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            port = _port(profile / "DevToolsActivePort", process)
            with connect(_first_tab(port), max_size=None, open_timeout=DEADLINE) as socket:
                yield Page(socket)
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()


def _port(file: Path, process: subprocess.Popen[bytes]) -> int:
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        assert process.poll() is None, f"the browser ended with {process.returncode}"
        if file.exists() and len(lines := file.read_text().splitlines()) == 2:
            return int(lines[0])
        time.sleep(0.1)
    raise AssertionError("the browser never said its port")


def _first_tab(port: int) -> str:
    import urllib.request

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=DEADLINE) as answer:
        return next(str(tab["webSocketDebuggerUrl"]) for tab in json.load(answer) if tab["type"] == "page")

"""A headless Chromium, driven through its DevTools protocol."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

WAIT = 30
_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--disable-dev-shm-usage",
    "--remote-debugging-port=0",
    "--remote-allow-origins=*",
]
_KEYS = {
    "ArrowUp": 38,
    "ArrowDown": 40,
    "ArrowLeft": 37,
    "ArrowRight": 39,
    "Home": 36,
    "End": 35,
    "Tab": 9,
    "PageUp": 33,
    "PageDown": 34,
    "g": 71,
}


def chromium() -> str:
    """The browser's program; without one the test is skipped, or fails where CI is to have it."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        found = shutil.which(name)
        if found:
            return found
    reason = "no Chromium on this machine (Debian: apt-get install chromium)"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def browser(folder: Path) -> Iterator[Page]:
    """An empty page of a new browser, which keeps its profile in `folder`.

    Every name is resolved to an address that nobody has, so that a request fails and is seen.
    """
    program = chromium()
    log = (folder / "chromium.log").open("wb")
    flags = [
        *_FLAGS,
        f"--user-data-dir={folder / 'profile'}",
        "--host-resolver-rules=MAP * 192.0.2.1",
    ]
    running = subprocess.Popen(
        [program, *flags, "about:blank"], stdout=log, stderr=log, start_new_session=True
    )
    try:
        yield Page(_address(folder / "profile" / "DevToolsActivePort", running))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
        running.wait(WAIT)
        log.close()


def _address(port_file: Path, running: subprocess.Popen[bytes]) -> str:
    """The page's DevTools address, once the browser listens."""
    until = time.monotonic() + WAIT
    while time.monotonic() < until:
        assert running.poll() is None, "Chromium ended at once"
        try:
            port = int(port_file.read_text().splitlines()[0])
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=WAIT) as answer:
                pages = [p for p in json.loads(answer.read()) if p["type"] == "page"]
            if pages:
                return pages[0]["webSocketDebuggerUrl"]
        except (OSError, ValueError, IndexError):
            pass
        time.sleep(0.05)
    raise AssertionError("Chromium does not answer")


class Page:
    """One page.

    Attributes:
        requests: addresses that the page asked for. refused: those of them that its own policy
            refused, so that nothing was sent. said: messages of its console and its errors.
    """

    def __init__(self, address: str) -> None:
        import websocket

        self._socket = websocket.create_connection(address, timeout=WAIT)
        self._numbers = itertools.count(1)
        self.requests: list[str] = []
        self.refused: list[str] = []
        self._asked: dict[str, str] = {}
        self.said: list[str] = []
        self._loaded = False
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol; events that come meanwhile are noted."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv())
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self._note(answer.get("method", ""), answer.get("params", {}))

    def _note(self, event: str, said: dict[str, Any]) -> None:
        if event == "Network.requestWillBeSent":
            self.requests.append(said["request"]["url"])
            self._asked[said["requestId"]] = said["request"]["url"]
        elif event == "Network.loadingFailed" and said.get("blockedReason") == "csp":
            self.refused.append(self._asked[said["requestId"]])
        elif event == "Page.loadEventFired":
            self._loaded = True
        elif event in (
            "Runtime.consoleAPICalled",
            "Runtime.exceptionThrown",
            "Log.entryAdded",
            "Page.javascriptDialogOpening",
        ):
            self.said.append(json.dumps(said))

    def open(self, path: Path) -> None:
        """Load a file and wait until it is there."""
        self._loaded = False
        self.call("Page.navigate", url=path.absolute().as_uri())
        until = time.monotonic() + WAIT
        while not self._loaded:
            assert time.monotonic() < until, "the page does not load"
            self.evaluate("0")
            time.sleep(0.02)

    def evaluate(self, script: str) -> Any:
        """The value of an expression in the page."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, key: str, *, modifiers: int = 0) -> None:
        """A key, as a person presses it; modifiers: 2 is Ctrl."""
        common = {
            "key": key,
            "code": key,
            "modifiers": modifiers,
            "windowsVirtualKeyCode": _KEYS[key],
        }
        self.call("Input.dispatchKeyEvent", type="keyDown", **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def hover(self, element: str) -> None:
        """Move the mouse over an element, given as an expression."""
        self.evaluate(f"{element}.scrollIntoView({{block: 'center', inline: 'center'}})")
        x, y = self.evaluate(
            f"(() => {{ const r = {element}.getBoundingClientRect();"
            " return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def size(self, width: int, height: int, *, scheme: str = "light", scale: float = 1) -> None:
        """The window, and whether it is light or dark."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < 600,
        )
        self.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )

    def picture(self, path: Path, element: str | None = None) -> None:
        """A PNG of an element, or of what the window shows."""
        more: dict[str, Any] = {}
        if element is not None:
            x, y, width, height = self.evaluate(
                f"(() => {{ const r = {element}.getBoundingClientRect();"
                " return [r.x + scrollX, r.y + scrollY, r.width, r.height]; })()"
            )
            clip = {"x": x, "y": y, "width": width, "height": height, "scale": 1}
            more = {"clip": clip, "captureBeyondViewport": True}
        found = self.call("Page.captureScreenshot", format="png", **more)
        path.write_bytes(base64.b64decode(found["data"]))

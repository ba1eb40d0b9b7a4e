"""A headless Chromium driven through its DevTools pipe: opens pages and tells how they were laid out and what they asked for.

Only events of the page itself are counted. What the browser does on its own account is not seen here, and cannot reach
any host.
"""

import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND", "--remote-debugging-pipe",
)  # fmt: skip
_TIMEOUT_S = 120
PHONE, DESK = 390, 1280
"""Widths of windows, in pixels."""

_LAYOUT = """(() => {
  const root = document.documentElement, drawings = [...document.querySelectorAll("svg")];
  const outside = (text) => {
    const box = text.getBBox(), view = text.ownerSVGElement.viewBox.baseVal;
    return box.x < -1 || box.y < -1 || box.x + box.width > view.width + 1 || box.y + box.height > view.height + 1;
  };
  const area = (one) => { const box = one.getBoundingClientRect(); return box.width * box.height; };
  return {
    width: root.clientWidth, content: root.scrollWidth, height: root.scrollHeight, text: document.body.textContent,
    background: getComputedStyle(document.body).backgroundColor,
    wide: [...document.body.querySelectorAll("*")].filter(one => one.getBoundingClientRect().right > root.clientWidth + 1)
      .map(one => one.outerHTML.slice(0, 120)),
    drawings: drawings.length,
    flat: drawings.filter(one => !area(one) && !one.closest("details:not([open])")).length,
    clipped: [...document.querySelectorAll("svg text")].filter(outside).map(one => one.textContent),
    active: document.querySelectorAll("script,iframe,object,embed,link,form,base").length,
  };
})()"""


@dataclass(frozen=True)
class Opened:
    """A page as the browser laid it out on a phone and on a desk."""

    layouts: list[dict[str, Any]]
    console: list[str]
    """Errors, messages of scripts, and what the page's policy forbade."""
    requests: list[str]
    """Addresses that the page asked for beside its own, ``data:`` addresses left out."""


class Browser:
    """One page of a running browser."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers, self._buffer, self._calls = commands, answers, b"", 0
        self._events: list[dict[str, Any]] = []
        self._session = ""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self._call(f"{domain}.enable")

    def open(self, page: Path, dark: bool = False) -> Opened:
        """Open a page and lay it out on a phone and a desk."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._call("Emulation.setEmulatedMedia", features=scheme)
        self._events.clear()
        self._call("Page.navigate", url=page.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            self._read()
        layouts = [self._layout(width, mobile) for width, mobile in ((PHONE, True), (DESK, False))]
        requests, console = [], []
        for event in self._events:
            if event["method"] == "Network.requestWillBeSent":
                requests.append(event["params"]["request"]["url"])
            elif event["method"] in ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
                console.append(json.dumps(event["params"]))
        requests.remove(page.as_uri())
        return Opened(layouts, console, [address for address in requests if not address.startswith("data:")])

    def _layout(self, width: int, mobile: bool) -> dict[str, Any]:
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=mobile)
        for _ in range(100):
            layout: dict[str, Any] = self._call("Runtime.evaluate", expression=_LAYOUT, returnByValue=True)["result"][
                "value"
            ]
            if layout["width"] == width:
                return layout
            time.sleep(0.05)
        raise AssertionError(f"the page is {layout['width']} pixels wide, not {width}")

    def print(self) -> str:
        """Return the open page as a PDF in base64."""
        return str(self._call("Page.printToPDF")["data"])

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._calls += 1
        message = {"id": self._calls, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._calls:
            pass
        assert "error" not in answer, answer
        return answer["result"]  # type: ignore[no-any-return]

    def _read(self) -> dict[str, Any]:
        """Return the next message; events of the page are kept."""
        deadline = time.monotonic() + _TIMEOUT_S
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, deadline - time.monotonic()))
            chunk = os.read(self._answers, 1 << 16) if ready else b""
            assert chunk, "the browser does not answer"
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        if "method" in message and message.get("sessionId") == self._session:
            self._events.append(message)
        return message


@contextmanager
def running_browser(folder: Path) -> Iterator[Browser]:
    """Start a browser with an own profile in ``folder``; skip if there is none."""
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        pytest.skip("no browser to open pages in; install one: apt-get install chromium")
    pipes = (*os.pipe(), *os.pipe())
    # The browser reads commands from descriptor 3 and writes to 4; its ends have other numbers, so that none is overwritten.
    its_ends = [fcntl.fcntl(pipes[end], fcntl.F_DUPFD, 100) for end in (0, 3)]
    process = subprocess.Popen(
        ["bash", "-c", f'exec "$@" 3<&{its_ends[0]} 4>&{its_ends[1]}', "bash", program, *_FLAGS, f"--user-data-dir={folder}"],
        pass_fds=its_ends, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    for end in (pipes[0], pipes[3], *its_ends):
        os.close(end)
    try:
        yield Browser(pipes[1], pipes[2])
    finally:
        os.close(pipes[1])
        os.close(pipes[2])
        process.terminate()
        process.wait(timeout=30)

"""A real browser without a window: opens pages from a server of ours and tells what became of them."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

HOST = "pages.test"
_NAMES = ("chromium", "chromium-browser", "google-chrome")
_OWN_SERVICES = re.compile(
    r"(clients\d*|update|accounts|optimizationguide-pa|safebrowsing|content-autofill|redirector)\."
)
"""Hosts that a browser calls on its own account, whatever page it shows."""

_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-default-apps", "--enable-logging=stderr",
    "--proxy-bypass-list=<-loopback>", "--virtual-time-budget=10000",
)  # fmt: skip

_FRAMES = """<!doctype html><meta charset="utf-8"><title>frames</title><body>%s<pre id="found"></pre><script>
const look = frame => {
  const page = frame.contentDocument, root = page.documentElement, drawings = [...page.querySelectorAll("svg")];
  const outside = (text) => {
    const box = text.getBBox(), view = text.ownerSVGElement.viewBox.baseVal;
    return box.x < -1 || box.y < -1 || box.x + box.width > view.width + 1 || box.y + box.height > view.height + 1;
  };
  return {
    width: root.clientWidth, content: root.scrollWidth, height: root.scrollHeight, title: page.title,
    text: page.body.textContent, background: getComputedStyle(page.body).backgroundColor,
    wide: [...page.body.querySelectorAll("*")].filter(one => one.getBoundingClientRect().right > root.clientWidth + 1)
      .map(one => one.outerHTML.slice(0, 120)),
    drawings: drawings.length, flat: drawings.filter(one => {
      const box = one.getBoundingClientRect(); return !(box.width > 0 && box.height > 0); }).length,
    clipped: [...page.querySelectorAll("svg text")].filter(outside).map(one => one.textContent),
    active: page.querySelectorAll("script,iframe,object,embed,link,form,base").length,
  };
};
addEventListener("load", () => {
  document.getElementById("found").textContent = JSON.stringify([...document.querySelectorAll("iframe")].map(look));
});
</script></body>"""


@dataclass(frozen=True)
class Shown:
    """Pages in frames of some widths, as the browser laid them out."""

    frames: list[dict[str, Any]]
    console: list[str]
    """What it wrote to its console: errors, and what the page's policy forbade."""
    requests: list[str]
    """Everything that it asked for, but for its own services."""


def browser() -> str:
    """The program; skips where there is none."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.skip("no browser to open pages in; install one: apt-get install chromium")
    return found


def show(pages: Mapping[str, str], widths: Sequence[int], folder: Path, *flags: str) -> Shown:
    """Open every page in a frame of every width, page by page; ``folder`` is for the browser's own files."""
    frames = "".join(
        f'<iframe src="/{name}" width="{width}" height="800" style="border:0"></iframe>'
        for name in pages
        for width in widths
    )
    documents = {**{f"/{name}": content for name, content in pages.items()}, "/": _FRAMES % frames}
    with _proxy(documents) as (port, requests):
        done = subprocess.run(
            [browser(), *_FLAGS, *flags, f"--proxy-server=http://127.0.0.1:{port}", f"--user-data-dir={folder}",
             "--window-size=1400,900", "--dump-dom", f"http://{HOST}/"],
            capture_output=True, timeout=120, check=True,
        )  # fmt: skip
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout.decode(), re.DOTALL)
    assert found and found[1], done.stderr.decode()[-2000:]
    console = [line for line in done.stderr.decode(errors="replace").splitlines() if ":CONSOLE" in line]
    return Shown(json.loads(html.unescape(found[1])), console, requests)


@contextmanager
def _proxy(documents: Mapping[str, str]) -> Iterator[tuple[int, list[str]]]:
    """A proxy that all of the browser's requests go through: it answers with our documents and notes everything."""
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            address = urlsplit(self.path)
            document = documents.get(address.path) if address.hostname == HOST else None
            if not _OWN_SERVICES.match(address.hostname or ""):
                requests.append(self.path)
            self.send_response(404 if document is None else 200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write((document or "").encode("utf-8", "backslashreplace"))

        def do_CONNECT(self) -> None:
            if not _OWN_SERVICES.match(self.path):
                requests.append(self.path)
            self.send_error(403)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port, requests
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

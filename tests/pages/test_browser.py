"""All pages in a real browser: laid out on a phone and a desk, nothing clipped, nothing loaded, nothing run."""

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
from page_browser import PHONE, Browser, Opened, running_browser
from page_contents import HOSTILE, PAGES, plain_manifest, with_names

from tofe_edge.io.artifact import Manifest
from tofe_edge.model.checkpoint import Checkpoint


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with running_browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture
def tiny_manifest(tiny_checkpoint: Checkpoint) -> Manifest:
    return plain_manifest(tiny_checkpoint)


def opened(browser: Browser, page: str, folder: Path, dark: bool = False) -> Opened:
    path = folder / "page.html"
    path.write_text(page, encoding="utf-8")
    return browser.open(path, dark)


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize(
    ("name", "dark"), [("cpu0", False), ("cpu0", True), *((name, False) for name in HOSTILE)], ids=ascii
)
def test_pages_fit_a_phone_and_a_desk_and_load_nothing(
    name: str, page: str, dark: bool, tiny_manifest: Manifest, browser: Browser, tmp_path: Path
) -> None:
    manifest = tiny_manifest if name == "cpu0" else with_names(tiny_manifest, name)
    shown = opened(browser, PAGES[page](manifest, name), tmp_path, dark)
    assert (shown.console, shown.requests) == ([], [])
    for layout in shown.layouts:
        assert layout["content"] <= layout["width"] and layout["wide"] == []
        assert (layout["clipped"], layout["flat"], layout["active"]) == ([], 0, 0)
        assert layout["drawings"] >= 1 and layout["height"] > 800
        assert layout["background"] == ("rgb(21, 24, 28)" if dark else "rgb(255, 255, 255)")
        assert name in layout["text"] or name == HOSTILE[-1]


def test_a_page_can_be_printed(tiny_manifest: Manifest, browser: Browser, tmp_path: Path) -> None:
    opened(browser, PAGES["profile"](tiny_manifest, "cpu0"), tmp_path)
    printed = base64.b64decode(browser.print())
    assert printed.startswith(b"%PDF") and 2 <= printed.count(b"/Type /Page\n") <= 6


def test_the_browser_would_tell_of_what_pages_must_not_do(browser: Browser, tmp_path: Path) -> None:
    """The checks above can fail: a script, an image from elsewhere, a row that is too wide and a clipped label."""
    bad = (
        "<!doctype html><meta name=viewport content='width=device-width'><title>bad</title>%s<body>"
        "<script>console.error('ran')</script><img src='http://elsewhere.test/a.png'><p style='width:2000px'>wide</p>"
        "<svg viewBox='0 0 9 9' width='9' height='9'><text x='8' y='5'>clipped</text></svg>"
    )
    shown = opened(browser, bad % "", tmp_path)
    assert any("ran" in line for line in shown.console) and "http://elsewhere.test/a.png" in shown.requests
    layout = shown.layouts[0]
    assert layout["content"] > PHONE and layout["wide"] and layout["clipped"] == ["clipped"] and layout["active"] == 1
    policy = "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    forbidden = opened(browser, bad % policy, tmp_path)
    assert not any("ran" in line for line in forbidden.console) and len(forbidden.console) >= 2

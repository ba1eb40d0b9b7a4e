"""All pages in a real browser: laid out on a phone and a desk, nothing clipped, nothing loaded, nothing run."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from page_browser import HOST, Shown, browser, show
from page_contents import HOSTILE, convert_page, plain_manifest, profile_page, with_names
from test_analysis import NAMES, sides

from tofe_edge.cli.pages import convert, parity, profile
from tofe_edge.evaluation.analysis import analyse
from tofe_edge.evaluation.parity import INT8_GATES, compare
from tofe_edge.io.artifact import Manifest
from tofe_edge.model.checkpoint import Checkpoint

WIDTHS = (390, 1280)


def pages_of(manifest: Manifest, names: tuple[str, ...]) -> dict[str, str]:
    reference, artifact, labels = sides()
    found = compare(reference, artifact, labels, INT8_GATES)
    images = [names[number % len(names)] for number in range(len(NAMES))]
    return {
        "profile.html": profile.render(profile_page(manifest, names)),
        "convert.html": convert.render(convert_page(manifest, names)),
        "parity.html": parity.render(
            manifest, found, analyse(reference, artifact, labels, images), names[0], lambda name: None
        ),
    }


def check(shown: Shown, pages: dict[str, str]) -> None:
    assert shown.console == []
    allowed = {f"http://{HOST}/{name}" for name in (*pages, "", "favicon.ico")}
    assert set(shown.requests) <= allowed
    assert len(shown.frames) == len(pages) * len(WIDTHS)
    for frame in shown.frames:
        assert frame["content"] <= frame["width"] and frame["wide"] == [], frame["title"]
        assert (frame["clipped"], frame["flat"], frame["active"]) == ([], 0, 0), frame["title"]
        assert frame["drawings"] >= 1 and frame["height"] > 800, frame["title"]


@pytest.fixture(scope="session")
def tiny_manifest(tiny_checkpoint: Checkpoint) -> Manifest:
    return plain_manifest(tiny_checkpoint)


def test_pages_fit_a_phone_and_a_desk_and_load_nothing(tiny_manifest: Manifest, tmp_path: Path) -> None:
    pages = pages_of(tiny_manifest, ("cpu0", "gpu-thermal"))
    shown = show(pages, WIDTHS, tmp_path)
    check(shown, pages)
    assert {frame["background"] for frame in shown.frames} == {"rgb(255, 255, 255)"}


def test_hostile_names_stay_text_and_within_the_page(tiny_manifest: Manifest, tmp_path: Path) -> None:
    pages: dict[str, str] = {}
    for number, name in enumerate(HOSTILE):
        made = pages_of(with_names(tiny_manifest, name), (name, name))
        pages |= {f"{number}-{kind}": page for kind, page in made.items()}
    shown = show(pages, WIDTHS, tmp_path)
    check(shown, pages)
    for number, name in enumerate(HOSTILE[:-1]):
        first, last = number * 3 * len(WIDTHS), (number + 1) * 3 * len(WIDTHS)
        assert all(name in frame["text"] for frame in shown.frames[first:last])


def test_pages_are_dark_where_the_reader_wants_it(tiny_manifest: Manifest, tmp_path: Path) -> None:
    pages = pages_of(tiny_manifest, ("cpu0",))
    shown = show(pages, WIDTHS, tmp_path, "--blink-settings=preferredColorScheme=0")
    assert {frame["background"] for frame in shown.frames} == {"rgb(21, 24, 28)"}


def test_a_page_can_be_printed(tiny_manifest: Manifest, tmp_path: Path) -> None:
    page, printed = tmp_path / "page.html", tmp_path / "page.pdf"
    page.write_text(pages_of(tiny_manifest, ("cpu0",))["profile.html"], encoding="utf-8")
    flags = (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'own'}",
        "--no-pdf-header-footer",
    )
    subprocess.run(
        [browser(), *flags, f"--print-to-pdf={printed}", page.as_uri()], capture_output=True, timeout=120, check=True
    )
    content = printed.read_bytes()
    assert content.startswith(b"%PDF") and 2 <= content.count(b"/Type /Page\n") <= 6


def test_the_browser_would_tell_of_what_pages_must_not_do(tmp_path: Path) -> None:
    """The checks above can fail: a script, an image from elsewhere, a row that is too wide and a clipped label."""
    page = (
        "<!doctype html><title>bad</title><body><script>console.error('ran')</script><img src='http://elsewhere.test/a.png'>"
        "<p style='width:2000px'>wide</p><svg viewBox='0 0 9 9' width='9' height='9'><text x='8' y='5'>clipped</text></svg>"
    )
    shown = show({"bad.html": page}, (390,), tmp_path)
    assert any("ran" in line for line in shown.console)
    assert "http://elsewhere.test/a.png" in shown.requests
    (frame,) = shown.frames
    assert (
        frame["content"] > frame["width"] and frame["wide"] and frame["clipped"] == ["clipped"] and frame["active"] == 1
    )

"""Escaping, the frame of a page, and colours that can be told from the paper."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tags import Tags

from tofe_edge.cli.pages.html import Html, facts, join, name, page, paragraph, section, table, text, write
from tofe_edge.errors import InputError

STYLE = files("tofe_edge.cli.pages").joinpath("style.css").read_text(encoding="utf-8")


@given(st.text())
def test_any_text_stays_text(value: str) -> None:
    tags = Tags(
        page(value, (paragraph(name(value)), table([(text(value), text(value))]), facts([(value, text(value))])))
    )
    assert set(tags.names) <= {
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "p",
        "bdi",
        "table",
        "tbody",
        "tr",
        "th",
        "td",
    }
    assert not re.search("[\x00-\x08\x0e-\x1f\x7f-\x9f\ud800-\udfff]", tags.text)


@given(st.text(st.characters(exclude_categories=("Cc", "Cs", "Cn")), min_size=1))
def test_a_text_is_shown_as_it_is(value: str) -> None:
    assert Tags(f"<p>{text(value)}</p>").text == value


def test_names_are_isolated_and_titles_cannot_turn_the_writing() -> None:
    assert name("a\u202eb") == "<bdi>a\u202eb</bdi>"
    assert "<title>a\ufffdb</title>" in page("a\u202eb", ())


def test_empty_parts_leave_no_trace() -> None:
    nothing = Html("")
    assert table([]) == section("Title", nothing, nothing) == paragraph(nothing) == join([nothing, nothing], ", ") == ""
    assert "<th" not in facts([("what", nothing)])


def test_the_policy_forbids_to_load_anything() -> None:
    policies = [tag for tag in Tags(page("t", ())).seen if tag[1].get("http-equiv") == "Content-Security-Policy"]
    assert policies == [
        (
            "meta",
            {
                "http-equiv": "Content-Security-Policy",
                "content": "default-src 'none'; img-src data:; style-src 'unsafe-inline'",
            },
        )
    ]
    assert "url(" not in STYLE and "@import" not in STYLE


def test_a_page_of_half_a_character_can_be_written(tmp_path: Path) -> None:
    write(tmp_path / "a.html", "\ud800")
    assert (tmp_path / "a.html").read_bytes() == rb"\ud800"
    with pytest.raises(InputError, match="cannot be written"):
        write(tmp_path, "")


def luminance(colour: str) -> float:
    """Relative luminance of ``#rrggbb``, as WCAG 2.2 defines it."""
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_writing_and_lines_stand_out_from_the_paper(scheme: int) -> None:
    colours = dict(re.findall(r"--(\w+): (#\w{6})", STYLE.split("prefers-color-scheme: dark")[scheme]))
    paper = colours["paper"]
    for writing in ("ink", "quiet", "good", "bad"):
        assert contrast(colours[writing], paper) >= 4.5, writing
    for line in ("one", "two", "three", "four"):
        assert contrast(colours[line], paper) >= 3, line

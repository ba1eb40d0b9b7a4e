"""HTML from data: escaping that the type checker follows, tables, and the frame of every page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import NewType

from tofe_edge.io.files import write_bytes

Html = NewType("Html", str)
"""Markup. Everything else that goes into a page is a ``str`` and passes through :func:`text` or :func:`name`."""

NOTHING = Html("")

_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_ISOLATES = re.compile("[\u202a-\u202e\u2066-\u2069\u200e\u200f\u061c]")
"""They turn the direction of the text after them."""

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""A browser that opens the page loads nothing and runs nothing, whatever is in it."""


def text(value: str) -> Html:
    """Text as markup: no character of it is read as a tag, an attribute's end or a control."""
    return Html(escape(_CONTROLS.sub("\ufffd", value)))


def name(value: str) -> Html:
    """Somebody else's text within ours: its writing direction does not reach what stands around it."""
    return Html(f"<bdi>{text(value)}</bdi>")


def plain(value: str) -> Html:
    """Text with somebody else's names somewhere in it, where they cannot be isolated: nothing turns its writing direction."""
    return text(_ISOLATES.sub("\ufffd", value))


def join(parts: Iterable[Html], between: str = "") -> Html:
    """One after another."""
    return Html(between.join(filter(None, parts)))


def table(rows: Sequence[Sequence[Html]], headings: Sequence[str] = (), numbers: Sequence[int] = ()) -> Html:
    """Rows whose first cell names them; the columns in ``numbers`` are aligned as figures. Nothing where there are no rows."""
    if not rows:
        return NOTHING

    def cell(column: int, content: Html) -> str:
        kind = ' class="number"' if column in numbers else ' class="gauge"' if content.startswith("<svg") else ""
        return f'<th scope="row">{content}</th>' if column == 0 else f"<td{kind}>{content}</td>"

    def heading(column: int, title: str) -> str:
        kind = ' class="number"' if column in numbers else ""
        return f'<th scope="col"{kind}>{text(title)}</th>' if title else "<td></td>"

    head = f"<thead><tr>{''.join(heading(*one) for one in enumerate(headings))}</tr></thead>" if headings else ""
    body = "".join(f"<tr>{''.join(cell(*one) for one in enumerate(row))}</tr>\n" for row in rows)
    return Html(f"<table>{head}<tbody>\n{body}</tbody></table>")


def facts(rows: Iterable[tuple[str, Html]]) -> Html:
    """What, and its value; rows without a value are left out."""
    cells = [(text(what), value) for what, value in rows if value]
    return Html(table(cells).replace("<table>", '<table class="facts">', 1))


def key_figures(figures: Iterable[tuple[str, str]]) -> Html:
    """The few figures that somebody opens the page for: what, and the figure with its unit."""
    entries = "".join(f"<div><dt>{text(what)}</dt><dd>{text(figure)}</dd></div>" for what, figure in figures)
    return Html(f'<dl class="key">{entries}</dl>')


def paragraph(content: Html, kind: str = "") -> Html:
    """A paragraph, of the style's class ``kind``; nothing where it is empty."""
    return Html(f'<p class="{kind}">{content}</p>' if kind else f"<p>{content}</p>") if content else NOTHING


def section(title: str, *parts: Html, level: int = 2) -> Html:
    """A titled section; nothing where all of its parts are empty."""
    content = join(parts, "\n")
    return Html(f"<h{level}>{text(title)}</h{level}>\n{content}") if content else NOTHING


def figure(picture: Html, caption: Html = NOTHING) -> Html:
    """A picture with the words below it."""
    return Html(f"<figure>{picture}{f'<figcaption>{caption}</figcaption>' if caption else ''}</figure>")


def page(title: str, parts: Iterable[Html]) -> str:
    """A whole document that loads nothing and holds no script; ``title`` is the browser's."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{plain(title)}</title><style>\n{_style()}</style></head>\n<body>\n{join(parts, chr(10))}\n</body></html>\n"
    )


def write(path: Path, document: str) -> None:
    """Write a page atomically. Raises :class:`InputError` where it cannot be written."""
    write_bytes(path, document.encode("utf-8", "backslashreplace"))


@cache
def _style() -> str:
    return files("tofe_edge.cli.pages").joinpath("style.css").read_text(encoding="utf-8")

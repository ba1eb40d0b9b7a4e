"""Jinja2 templates made into pages that load nothing and run nothing, whatever text is in them."""

from __future__ import annotations

import math
import platform
import re
import shlex
import sys
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tofe_edge import __version__
from tofe_edge.cli.pages import charts
from tofe_edge.io.files import write_bytes

_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_DIRECTIONS = re.compile("[\u202a-\u202e\u2066-\u2069\u200e\u200f\u061c]")
"""Characters that turn the writing direction of the text after them."""

_PATH = re.compile(r"(?<![^\s=])/(?:[^\s/]+/)*([^\s/]+/[^\s/]+)")

_LARGEST_COUNT = 10**15


def render_template(template: str, **values: Any) -> str:
    """Return a page. All text in it is escaped; control characters and half surrogate pairs are replaced."""
    return _CONTROLS.sub("\ufffd", _environment().get_template(template).render(values, made=_made()))


def _made() -> dict[str, str]:
    """When, where and by which call a page was made."""
    return {
        "date": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "host": f"{platform.node()} ({platform.machine()})",
        "version": __version__,
        "command": shlex.join(["tofe-edge", *map(_short, sys.argv[1:])]),
    }


def _short(text: str) -> str:
    """Paths of this machine in a text by their last two parts: the others are nobody else's business."""
    return _PATH.sub(r"\1", text)


def write_html(path: Path, page: str) -> None:
    """Write a page atomically. Raises :class:`InputError` if it cannot be written."""
    write_bytes(path, page.encode())


def number(value: Any) -> float | None:
    """Return a finite number from the free parts of a manifest, or ``None`` for anything else."""
    counts = type(value) is int and abs(value) < _LARGEST_COUNT
    return float(value) if counts or (type(value) is float and math.isfinite(value)) else None


def _name(value: str | None) -> Markup:
    """Isolate a text that is not ours, so that its writing direction does not reach the text around it."""
    return Markup("<bdi>{}</bdi>").format(value) if value else Markup("")


def _plain(value: str) -> str:
    """Replace direction characters in a text whose names cannot be isolated."""
    return _DIRECTIONS.sub("\ufffd", value)


def _decimal(value: Any, pattern: str, missing: str = "") -> str:
    """Format a number from the free parts of a manifest; ``missing`` for anything else."""
    decimal = number(value)
    return missing if decimal is None else pattern.format(decimal)


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("tofe_edge.cli.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        extensions=["jinja2.ext.do"],
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(name=_name, short=_short, plain=_plain, decimal=_decimal, plural=_plural)
    environment.globals.update(gauge=charts.gauge)
    return environment

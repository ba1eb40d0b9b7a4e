"""What commands print: a JSON document for machines or a table for people."""

from __future__ import annotations

import json
import math
import shlex
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any

from tofe_edge.cli.streams import write_out
from tofe_edge.errors import InputError, TofeEdgeError, coloured, visible
from tofe_edge.io.files import check_place
from tofe_edge.profiles import LatencyTable

_LEAST_COLUMN = 8
"""Characters that a column has even in the narrowest terminal."""

_LONGEST_NAME = 20
"""Of a fact, in characters."""


def emit(as_json: bool, document: Any, text: str) -> None:
    """Print ``document`` as JSON, or ``text``. Control characters are written out; a number that is none is ``null``.

    Raises:
        DeviceError: stdout takes no more.
    """
    write_out(f"{_json(document) if as_json else coloured(visible(text), sys.stdout)}\n", sys.stdout)


class JsonList:
    """One JSON list on stdout, written entry by entry."""

    def __init__(self) -> None:
        self.opened = False

    def add(self, entry: Any) -> None:
        """Print the next entry."""
        write_out(",\n  " if self.opened else "[\n  ", sys.stdout)
        self.opened = True
        write_out(_json(entry).replace("\n", "\n  "), sys.stdout)

    def close(self) -> None:
        """Print the end."""
        write_out("\n]\n" if self.opened else "[]\n", sys.stdout)


@contextmanager
def json_list() -> Iterator[JsonList]:
    """A list whose end is printed, unless an error came before its first entry: what is printed is a document."""
    document = JsonList()
    try:
        yield document
    except TofeEdgeError:
        if document.opened:
            document.close()
        raise
    document.close()


def table(rows: Sequence[Sequence[Any]], headers: Sequence[str]) -> str:
    """A plain table, as wide as the terminal at most: wide columns are folded. Numbers come formatted as text."""
    lines = [[*headers], *([_cell(one) for one in row] for row in rows)]
    columns = list(zip(*lines))
    widths = [max(map(len, column)) for column in columns]
    words = [max(len(word) for cell in column for word in [*cell.split(), ""]) for column in columns]
    while sum(widths) + 2 * (len(widths) - 1) > max(_width(), _LEAST_COLUMN * len(widths)):
        # As long as that is enough, between words.
        loose = [index for index, width in enumerate(widths) if width > words[index]] or range(len(widths))
        widths[max(loose, key=lambda index: widths[index])] -= 1
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(text for cells in lines for text in _row(cells, widths))


def _row(cells: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    """The lines of a table's row."""
    folded = [textwrap.wrap(cell, max(width, 1), break_on_hyphens=False) for cell, width in zip(cells, widths)]
    for parts in zip_longest(*folded, fillvalue="") if any(folded) else [()]:
        yield "  ".join(f"{part:<{width}}" for part, width in zip(parts, widths)).rstrip()


def facts(rows: Sequence[tuple[str, Any]]) -> str:
    """Two aligned columns: what, and its value, folded to the terminal's width; words stay whole.

    Paths and commands (lists of words) are not folded, so that they can be copied.
    """
    names = [_cell(name) for name, _ in rows]
    column = max((len(name) for name in names if len(name) <= _LONGEST_NAME), default=0)
    lines = []
    for name, (_, value) in zip(names, rows):
        # A name that would push all values to the right has a line of its own.
        heading, name = ([name], "") if len(name) > column else ([], name)
        first = f"{name:<{column}}  "
        if isinstance(value, str):
            lines += [*heading, *_folded(first, _cell(value))]
        else:
            lines += [*heading, first + _cell(shlex.join(map(str, value)) if isinstance(value, list) else value)]
    return "\n".join(lines)


def paragraph(text: str) -> str:
    """Prose, folded to the terminal's width line by line."""
    return "\n".join(line for one in text.splitlines() for line in _folded("", one))


def tree(document: Mapping[str, Any], indent: str = "") -> str:
    """Facts of a nested document: a mapping's own facts stand below its name, two blanks further in."""
    plain = {key: value for key, value in document.items() if not isinstance(value, dict) or not value}
    column = max((len(key) for key in plain), default=0)
    lines = []
    for key, value in document.items():
        if key in plain:
            lines += _folded(f"{indent}{_cell(key):<{column}}  ", _cell(_leaf(value)))
        else:
            lines += [f"{indent}{_cell(key)}", tree(value, f"{indent}  ")]
    return "\n".join(lines)


def _leaf(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_leaf, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_leaf(one)}" for key, one in value.items()) or "none"
    return f"{value:.7g}" if isinstance(value, float) else "none" if value is None else str(value)


def _folded(first: str, text: str) -> list[str]:
    """``first`` and the text, whose further lines are indented as far."""
    room = max(_width() - len(first), _LEAST_COLUMN)
    lines = textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False) or [""]
    return [f"{first if number == 0 else ' ' * len(first)}{line}".rstrip() for number, line in enumerate(lines)]


def _width() -> int:
    """Of the terminal, or what ``COLUMNS`` says; 80 in pipes and logs."""
    return shutil.get_terminal_size().columns


def _cell(value: Any) -> str:
    """Text without line breaks: a name cannot make a row of its own."""
    return visible(str(value)).replace("\n", "\\n")


def _json(document: Any) -> str:
    """JSON as RFC 8259 has it, that may be shown in a terminal."""
    text = json.dumps(_with_null(document), indent=2, ensure_ascii=False, allow_nan=False)
    # JSON itself escapes C0 alone.
    return "".join(one if one == "\n" or visible(one) == one else f"\\u{ord(one):04x}" for one in text)


def _with_null(document: Any) -> Any:
    """NaN and infinities, which JSON does not have, as ``None``."""
    if isinstance(document, float):
        return document if math.isfinite(document) else None
    if isinstance(document, dict):
        return {key: _with_null(value) for key, value in document.items()}
    return [_with_null(one) for one in document] if isinstance(document, (list, tuple)) else document


def milliseconds(value: float, busy: bool = False) -> str:
    """``26.15 ms``, of a busy machine ``26 ms``."""
    digits = max(0, 1 - math.floor(math.log10(value))) if busy and value > 0 else 2
    return f"{value:.{digits}f} ms"


def threads(count: int) -> str:
    """``1 thread``, ``4 threads``."""
    return f"{count} thread{'s' if count > 1 else ''}"


def latency_facts(measured: LatencyTable) -> list[tuple[str, str]]:
    """The summary of a latency table: its times in milliseconds."""
    block = dict(measured.block)
    tokens = {min(block), max(block), *(min(block, key=lambda one: abs(one - near)) for near in (64, 128))}
    step, aligned = measured.step, measured.aligned
    return [
        ("block", ", ".join(f"{one} tokens {block[one]:.3f} ms" for one in sorted(tokens)) + f" ({len(block)} points)"),
        ("step", f"{step.tokens} tokens, {step.ms:.3f} ms" if step else "none seen"),
        ("aligned", f"multiples of {aligned.tokens} spare {aligned.ms:.3f} ms" if aligned else "none seen"),
        ("stem", f"{measured.stem:.3f} ms"),
        ("selection", f"{measured.selection:.3f} ms"),
        ("tail", f"{measured.tail[0][1]:.3f} to {measured.tail[-1][1]:.3f} ms"),
        ("approximator", f"{measured.approximator[0][1]:.3f} to {measured.approximator[-1][1]:.3f} ms"),
        ("dense", f"{measured.dense:.2f} ms"),
        *((f"kept {', '.join(map(str, one.kept))}", f"{one.ms:.2f} ms") for one in measured.tofe),
    ]


def check_html_place(path: Path, places: Iterable[Path]) -> None:
    """Refuse a place for the page that is a folder or belongs to the model, before minutes are spent on it.

    Raises:
        InputError: it is one.
    """
    check_place(path, folder=False)
    taken = path.resolve()
    if any(taken == place.resolve() or place.resolve() in taken.parents for place in places):
        raise InputError(f"{path}: is where the model itself goes; choose another file for --html")

"""What commands print: a JSON document for machines or a table for people."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tabulate import tabulate

from tofe_edge.cli.streams import write_out
from tofe_edge.errors import InputError, TofeEdgeError, visible
from tofe_edge.io.files import check_place
from tofe_edge.profiles import LatencyTable


def emit(as_json: bool, document: Any, text: str) -> None:
    """Print ``document`` as JSON, or ``text``. Control characters are written out; a number that is none is ``null``.

    Raises:
        DeviceError: stdout takes no more.
    """
    write_out(f"{_json(document) if as_json else visible(text)}\n", sys.stdout)


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
    """A plain table; numbers come formatted as text."""
    return tabulate(
        [[_cell(one) for one in row] for row in rows], headers=headers, tablefmt="simple", disable_numparse=True
    )


def facts(rows: Sequence[tuple[str, Any]]) -> str:
    """Two aligned columns: what, and its value."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{_cell(name):<{width}}  {_cell(value)}" for name, value in rows)


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

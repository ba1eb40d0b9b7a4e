"""What commands print: a JSON document for machines or a table for people."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from tofe_edge.errors import InputError
from tofe_edge.io.files import check_place


def emit(as_json: bool, document: Any, text: str) -> None:
    """Print ``document`` as JSON, or ``text``."""
    print(json.dumps(document, indent=2, ensure_ascii=False) if as_json else text)


def table(rows: Sequence[Sequence[Any]], headers: Sequence[str]) -> str:
    """A plain table; numbers come formatted as text."""
    return tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True)


def facts(rows: Sequence[tuple[str, Any]]) -> str:
    """Two aligned columns: what, and its value."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def check_html_place(path: Path, places: Iterable[Path]) -> None:
    """Refuse a place for the page that is a folder or belongs to the model, before minutes are spent on it.

    Raises:
        InputError: it is one.
    """
    check_place(path, folder=False)
    taken = path.resolve()
    if any(taken == place.resolve() or place.resolve() in taken.parents for place in places):
        raise InputError(f"{path}: is where the model itself goes; choose another file for --html")

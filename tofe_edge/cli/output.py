"""What commands print: a JSON document for machines or a table for people."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from tofe_edge.errors import InputError
from tofe_edge.io.files import check_place
from tofe_edge.profiles import LatencyTable


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

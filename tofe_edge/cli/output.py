"""What commands print: a JSON document for machines or a table for people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tabulate import tabulate


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

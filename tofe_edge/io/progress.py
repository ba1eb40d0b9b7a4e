"""Progress bars on stderr, silent if nobody watches."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

from tqdm import tqdm

from tofe_edge.errors import visible

_covered: ContextVar[bool] = ContextVar("covered", default=False)


def progress_bar(what: str, total: float, initial: int = 0, unit: str = "it") -> Any:
    """A tqdm bar on stderr; shown only on a terminal, so that logs and pipes stay clean."""
    return tqdm(
        desc=what,
        total=total,
        initial=initial,
        unit=unit,
        file=sys.stderr,
        disable=_covered.get() or not sys.stderr.isatty(),
        dynamic_ncols=True,
        smoothing=0.1,
    )


@contextmanager
def covering_bar(what: str, total: float, unit: str = "it") -> Iterator[Any]:
    """A bar for work of which each piece would show one of its own: those stay hidden while it is there."""
    with progress_bar(what, total, unit=unit) as bar:
        token = _covered.set(True)
        try:
            yield bar
        finally:
            _covered.reset(token)


def warn(text: str) -> None:
    """One line on stderr for the user, apart from results."""
    print(f"tofe-edge: warning: {visible(text)}", file=sys.stderr)


@cache
def warn_once(text: str) -> None:
    """The same, but never twice."""
    warn(text)

"""Progress on stderr: a bar in a terminal, now and then a line elsewhere. Warnings."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from threading import Event, Thread
from typing import Any, Self

from tqdm import tqdm

from tofe_edge.errors import coloured, visible

_TICK_S = 1.0
_FIRST_LINE_S, _NEXT_LINE_S = 20.0, 60.0
"""Where nobody watches: what takes less says nothing, and nothing is silent for longer."""

_FEW = 10
"""Steps of a few are different kinds of work, so that the time of the first ones does not tell that of the rest."""

_covered: ContextVar[bool] = ContextVar("covered", default=False)


class _Clock:
    """Calls a function once per second until it is stopped."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call, self._stopped = call, Event()
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped.wait(_TICK_S):
            with suppress(OSError, ValueError):  # nobody reads stderr any more: the work goes on
                self._call()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()


class _Bar(tqdm):  # type: ignore[type-arg]
    """A bar whose clock goes on while a step runs, and whose estimate is the mean of all work done."""

    def __init__(self, what: str, total: float, initial: int, unit: str) -> None:
        estimate = "<{remaining}" if total >= _FEW else ""
        layout = "{desc}{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}" + estimate + "{postfix}]"
        options: dict[str, Any] = {"file": sys.stderr, "dynamic_ncols": True, "smoothing": 0, "bar_format": layout}
        super().__init__(desc=f"{what}: ", total=total, initial=initial, unit=unit, **options)
        self._clock = _Clock(self.refresh)

    def close(self) -> None:
        if not self.disable:
            self._clock.stop()
        super().close()


class _Lines:
    """The same as lines. What a thread of work reports is added up here; its clock prints."""

    def __init__(self, what: str, total: float, initial: int, unit: str) -> None:
        self.n, self._total, self._initial = float(initial), total, initial
        self._what, self._unit, self._postfix = what, unit if len(unit) == 1 else f"{unit}s", ""
        self._file, self._begun = sys.stderr, time.monotonic()
        self._said, self._due = what, _FIRST_LINE_S

    def __enter__(self) -> Self:
        self._clock = _Clock(self.refresh)
        return self

    def __exit__(self, *_: object) -> None:
        self._clock.stop()

    def update(self, done: float = 1) -> None:
        self.n += done

    def set_description(self, what: str) -> None:
        self._what = what

    def set_postfix_str(self, text: str) -> None:
        self._postfix = text

    def refresh(self) -> None:
        """Print a line if one is due, or if there was one and now is another step."""
        passed = time.monotonic() - self._begun
        if passed >= self._due or (passed >= _FIRST_LINE_S and self._what != self._said):
            self._said, self._due = self._what, passed + _NEXT_LINE_S
            print(f"tofe-edge: {visible(self._line(passed))}", file=self._file, flush=True)

    def _line(self, passed: float) -> str:
        done, left = self.n - self._initial, ""
        if self._total >= _FEW and done > 0:
            left = f"about {tqdm.format_interval(passed / done * (self._total - self.n))} left"
        count = f"{self.n:.0f} of {self._total:.0f} {self._unit}"
        return f"{self._what}: {', '.join(filter(None, (count, tqdm.format_interval(passed), left, self._postfix)))}"


def progress_bar(what: str, total: float, initial: int = 0, unit: str = "it") -> Any:
    """Progress of ``total`` units on stderr: tqdm's bar in a terminal, elsewhere a line after 20 s and then per minute.

    A new description (``set_description``) is a step, which has a line of its own once there was a first one.
    """
    if _covered.get():
        return tqdm(total=total, disable=True)
    return (_Bar if sys.stderr.isatty() else _Lines)(what, total, initial, unit)


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
    print(coloured(f"tofe-edge: warning: {visible(text)}", sys.stderr), file=sys.stderr)


@cache
def warn_once(text: str) -> None:
    """The same, but never twice."""
    warn(text)

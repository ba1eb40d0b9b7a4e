"""Errors a user can act on: one line saying what is wrong, where, and what to try.

Each class carries the process exit code of the command line. Anything that is not a
:class:`TofeEdgeError` is a defect of this program (exit code 3; the traceback shows with ``--debug``).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_MAX_QUOTED = 60
_MAX_COMPARED = 64


class TofeEdgeError(Exception):
    """Base class. ``str(error)`` is the one line shown to the user."""

    exit_code = 2


class InputError(TofeEdgeError):
    """The call or a file given to it is wrong (exit code 2)."""

    exit_code = 2


class GateError(TofeEdgeError):
    """A gate failed: parity below its threshold, a budget nothing fits (exit code 1)."""

    exit_code = 1


class DeviceError(TofeEdgeError):
    """A device or an inference runtime failed while running a valid model (exit code 3)."""

    exit_code = 3


def quoted(text: object) -> str:
    """Return text of unknown origin as one short line in quotes, for a message."""
    line = repr(text)
    return line if len(line) <= _MAX_QUOTED else f"{line[:_MAX_QUOTED]}..."


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the allowed word nearest to ``word``, or an empty string when none is near."""
    # Comparing is quadratic in the length, and the word may be a megabyte of somebody's file.
    nearest = difflib.get_close_matches(word[:_MAX_COMPARED], list(allowed), n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""


def require(condition: object, message: str) -> None:
    """Raise :class:`InputError` with ``message`` unless ``condition``."""
    if not condition:
        raise InputError(message)


def first_line(error: object) -> str:
    """What a library's error says first, cut to a readable length; its type if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]

"""Errors a user can act on: one line saying what is wrong, where, and what to try.

Each class carries the process exit code of the command line. Anything that is not a
:class:`TofeEdgeError` is a defect of this program (exit code 3; the traceback shows with ``--debug``).
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TextIO

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


_COMMANDS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""What a terminal takes for a command or for another direction of writing; line breaks (U+000A) are not among them."""


def visible(text: str) -> str:
    """Return text with every control character written out, so that no name in a file can command a terminal.

    These are C0 (but for line breaks), DEL, C1, Unicode's line separators and its marks of direction: ESC becomes ``\\x1b``.
    """
    return _COMMANDS.sub(lambda found: ascii(found[0])[1:-1], text)


_COLOURS = {
    31: re.compile(r"\bFAILED\b|(?<=^tofe-edge: )error(?=:)", re.MULTILINE),
    32: re.compile(r"\bpassed\b"),
    33: re.compile(r"^(?:warning|beware|wrong|waived|left out)(?=  )|(?<=^tofe-edge: )warning(?=:)", re.MULTILINE),
}
"""By ANSI's number of a colour: red, green, yellow."""


def coloured(text: str, stream: TextIO) -> str:
    """Return visible text with verdicts in colour if ``stream`` is a terminal that wants them (https://no-color.org)."""
    if not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    for colour, words in _COLOURS.items():
        text = words.sub(f"\x1b[{colour}m\\g<0>\x1b[0m", text)
    return text


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


@contextmanager
def naming(place: object) -> Iterator[None]:
    """Put a file or key in front of the message of an :class:`InputError`, unless it begins with it."""
    try:
        yield
    except InputError as error:
        if str(error).startswith(str(place)):
            raise
        raise InputError(f"{place}: {error}") from error


def first_line(error: object) -> str:
    """What a library's error says first, cut to a readable length; its type if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]

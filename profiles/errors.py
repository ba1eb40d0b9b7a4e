"""The one error this package raises for bad input."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_MAX_SHOWN = 60
_MAX_COMPARED = 64


class ProfileError(ValueError):
    """A profile name, or a profile file, is wrong.

    ``str(error)`` is one printable line: where (file, line, dotted key), what is wrong, and what to try.
    """

    def __init__(self, message: str) -> None:
        super().__init__(_one_line(message))


def shown(value: str) -> str:
    """``value`` in quotes for a message, cut when long."""
    return repr(value if len(value) <= _MAX_SHOWN else value[:_MAX_SHOWN] + "...")


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the allowed word nearest to ``word``, or an empty string when none is near."""
    # Comparing is quadratic in the length, and the word may be a megabyte of somebody's file.
    nearest = difflib.get_close_matches(word[:_MAX_COMPARED], list(allowed), n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""


def _one_line(message: str) -> str:
    """``message`` with line breaks and other unprintable characters escaped (file names may hold any)."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in message
    )

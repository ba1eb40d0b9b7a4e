"""What data say about an image's class, as the index among the net's logits."""

from __future__ import annotations

import re
from collections.abc import Sequence

_INDEX = re.compile("[0-9]{1,9}")
_SHOWN = 60


class ClassMap:
    """The classes of a net: ids in the order of its logits, at least one."""

    def __init__(self, ids: Sequence[str]) -> None:
        self._index = {identifier: position for position, identifier in enumerate(ids)}
        self._count = len(ids)
        # Where ids are numbers themselves, "3" must not mean the id here and the position there.
        self._has_numbers = any(map(_INDEX.fullmatch, ids))
        self.example = ids[0]

    def by_id(self, text: str) -> int | None:
        """The index of a class id; None: there is no such class."""
        return self._index.get(text)

    def by_index(self, text: str) -> int | None:
        """An index from 0 in decimal digits; None: it is none, or there is no such class."""
        index = int(text) if _INDEX.fullmatch(text) else self._count
        return index if index < self._count else None

    def find(self, text: str) -> int | None:
        """A class id or, for nets whose ids are no numbers, an index; None: neither."""
        found = self.by_id(text)
        return self.by_index(text) if found is None and not self._has_numbers else found

    @property
    def expected(self) -> str:
        """What :meth:`find` takes, for messages."""
        by_index = "" if self._has_numbers else f" or an index from 0 to {self._count - 1}"
        return f"a class id of this model (such as {self.example}){by_index}"


def shown(text: str) -> str:
    """Text of unknown origin as one short, quoted line."""
    quoted = repr(text)
    return quoted if len(quoted) <= _SHOWN else f"{quoted[:_SHOWN]}..."

"""Binding this process to some of the machine's cores."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Set
from contextlib import contextmanager

from tofe_edge.errors import InputError

_MOST = 4096


def parse_cpus(text: str) -> frozenset[int]:
    """Core numbers of a list as ``0,2-3``. Raises :class:`InputError` where it is none."""
    cores: set[int] = set()
    for part in text.split(","):
        found = re.fullmatch(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if not first <= last < _MOST:
            raise InputError(f"cores {text!r} are no list of numbers such as 0,2-3")
        cores.update(range(first, last + 1))
    return frozenset(cores)


@contextmanager
def bound_to(cpus: str) -> Iterator[None]:
    """Run on the cores of a list alone, threads started within too; nothing changes where it is empty.

    Raises:
        InputError: the list is none, one of these cores is not to be had here, or its system cannot bind.
    """
    if not cpus:
        yield
        return
    cores = parse_cpus(cpus)
    if not hasattr(os, "sched_setaffinity"):
        raise InputError("cores cannot be chosen on this system; leave the choice out")
    before = os.sched_getaffinity(0)
    # The kernel drops a core that there is not without a word.
    if missing := cores - before:
        raise InputError(f"cores {cpus!r} cannot be used (no {_shown(missing)}); this process may use {_shown(before)}")
    try:
        os.sched_setaffinity(0, cores)
    except OSError as error:
        raise InputError(
            f"cores {cpus!r} cannot be used ({error.strerror}); this process may use {_shown(before)}"
        ) from error
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _shown(cores: Set[int]) -> str:
    return ",".join(map(str, sorted(cores)))

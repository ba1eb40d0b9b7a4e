"""Binding this process to some of the machine's cores."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Set
from contextlib import contextmanager

from tofe_edge.errors import InputError

_MOST = 4096


def parse_cpus(text: str) -> frozenset[int]:
    """Return the core numbers of a list such as ``0,2-3``. Raises :class:`InputError` if it is not one."""
    cores: set[int] = set()
    for part in text.split(","):
        bounds = re.fullmatch(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", part)
        first, last = (int(bounds[1]), int(bounds[2] or bounds[1])) if bounds else (1, 0)
        if not first <= last < _MOST:
            raise InputError(f"cores {text!r} are not a list of numbers such as 0,2-3")
        cores.update(range(first, last + 1))
    return frozenset(cores)


@contextmanager
def bound_to(cpus: str) -> Iterator[None]:
    """Run on the cores of a list alone, threads started within too; nothing changes if it is empty.

    Raises:
        InputError: it is not a list, one of these cores is not available here, or the system cannot bind.
    """
    if not cpus:
        yield
        return
    cores = parse_cpus(cpus)
    if not hasattr(os, "sched_setaffinity"):
        raise InputError("cores cannot be chosen on this system; leave the choice out")
    before = os.sched_getaffinity(0)
    # The kernel silently drops a core that does not exist.
    if missing := cores - before:
        raise InputError(
            f"cores {cpus!r} cannot be used (no {_listed(missing)}); this process may use {_listed(before)}"
        )
    try:
        os.sched_setaffinity(0, cores)
    except OSError as error:
        raise InputError(
            f"cores {cpus!r} cannot be used ({error.strerror}); this process may use {_listed(before)}"
        ) from error
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _listed(cores: Set[int]) -> str:
    return ",".join(map(str, sorted(cores)))

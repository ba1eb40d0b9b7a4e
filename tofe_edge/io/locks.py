"""What the operating system guarantees of files: locks that end with their process, exchanges in one step, order on the disk."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_RENAME_SWAP = 2


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a file or folder, after waiting for whoever else holds it. A process that is killed holds nothing any more.

    Without locks (Windows, some network file systems) nobody waits.
    """
    descriptor = _open(path)
    try:
        if descriptor is not None and fcntl is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def is_abandoned(path: Path) -> bool:
    """Whether nobody holds a file or folder that is held as long as it is in use. False if that cannot be told."""
    descriptor = _open(path)
    if descriptor is None or fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _open(path: Path) -> int | None:
    with contextlib.suppress(OSError):
        return os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    return None


def exchange(one: Path, other: Path) -> bool:
    """Swap two files or folders of one file system in one step; False, and nothing done, if the system cannot."""
    library: Any = ctypes.CDLL(None) if os.name == "posix" else None
    names = os.fsencode(one), os.fsencode(other)
    if sys.platform == "linux" and hasattr(library, "renameat2"):
        return bool(library.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0)
    if sys.platform == "darwin" and hasattr(library, "renamex_np"):
        return bool(library.renamex_np(*names, _RENAME_SWAP) == 0)
    return False


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk, as far as the system can, before what comes next."""
    descriptor = _open(folder)
    if descriptor is not None:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
        os.close(descriptor)

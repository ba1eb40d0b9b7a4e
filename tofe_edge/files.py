"""Files: atomic writes and checksums. Every file this project writes goes through here."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tofe_edge.errors import InputError

_PIECE = 1 << 20
_FULL_OR_IN_THE_WAY = (errno.ENOSPC, errno.EDQUOT, errno.EISDIR)


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file.

    Raises:
        InputError: the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as handle:
            while piece := handle.read(_PIECE):
                digest.update(piece)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    return digest.hexdigest()


def write_atomically(path: Path, produce: Callable[[Path], None]) -> None:
    """Let ``produce`` write a temporary file beside ``path``, then rename it into place.

    An interruption at any point leaves the old file or none, never a part of the new one.

    Raises:
        InputError: the folder cannot be written, or the disk is full.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:80]}.", suffix=".part", dir=path.parent)
        temporary = Path(name)
        os.close(descriptor)
        produce(temporary)
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        # mkstemp makes private files; what a user asked for follows the umask like any other file.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}); choose another output folder or free some space"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def workshop(folder: Path) -> Iterator[Path]:
    """A hidden folder inside ``folder`` to build in; gone afterwards, and so is ``folder`` if made here and left empty.

    Made before any long work, so that a folder that cannot be written to is found at once. A full disk
    inside the block is reported like everywhere else, and so is a folder where a file should go.

    Raises:
        InputError: ``folder`` cannot be made or written to.
    """
    existed = folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(prefix=".tofe-edge-", dir=folder, ignore_cleanup_errors=True)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written to ({error.strerror or error}); choose another folder with --out"
        ) from error
    try:
        with temporary as name:
            yield Path(name)
    except OSError as error:
        if error.errno not in _FULL_OR_IN_THE_WAY:
            raise
        raise InputError(
            f"{folder}: cannot be written to ({error}); free some space or choose another folder"
        ) from error
    finally:
        if not existed and not any(folder.iterdir()):
            folder.rmdir()


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` atomically. Raises :class:`InputError` as :func:`write_atomically`."""
    write_atomically(path, lambda temporary: _write_bytes(temporary, content))


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as indented JSON, atomically and with a stable key order."""
    write_bytes(
        path,
        (json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"),
    )


def _write_bytes(path: Path, content: bytes) -> None:
    path.write_bytes(content)

"""A bundle's files in a temporary folder, for programs that read files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tofe_edge.errors import InputError
from tofe_edge.packaging.bundle import BundleFile
from tofe_edge.packaging.place import write_folder


class ScratchError(InputError):
    """There is no room for temporary files: nothing is wrong with what was to be written."""


@contextmanager
def scratch(files: Mapping[str, BundleFile]) -> Iterator[Path]:
    """A temporary folder with these files in it, gone afterwards.

    Raises:
        ScratchError: it cannot be made or filled.
    """
    try:
        temporary = tempfile.TemporaryDirectory(prefix="tofe-edge-", ignore_cleanup_errors=True)
    except OSError as error:
        raise _no_room(error) from error
    with temporary as name:
        try:
            write_folder(Path(name), files)
        except (InputError, OSError) as error:
            raise _no_room(error) from error
        yield Path(name)


def _no_room(error: Exception) -> ScratchError:
    return ScratchError(
        f"a temporary folder cannot be written ({error.__cause__ or error}); free some space or set TMPDIR to another folder"
    )

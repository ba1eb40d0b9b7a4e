"""Putting a bundle on the disk: whole or not at all, and never over anything that is not an untouched bundle."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tofe_edge.errors import InputError
from tofe_edge.io.files import put_in_place, put_where_nothing_is, staging_dir, write_bytes
from tofe_edge.packaging.archive import EXECUTABLE_MODE, pack, unpack
from tofe_edge.packaging.bundle import Bundle, BundleFile
from tofe_edge.packaging.provenance import PROVENANCE, differences, read_provenance
from tofe_edge.packaging.texts import path_text


class ScratchError(InputError):
    """There is no room for temporary files: nothing is wrong with what was to be written."""


def place(bundle: Bundle, out: Path, force: bool) -> Path:
    """Write a bundle to ``out/NAME`` atomically.

    Args:
        force: replace an earlier bundle there. Anything else, and a bundle with files that were added to it or changed in
            it, is left alone: it may be somebody's work.

    Raises:
        InputError: there is something already, or ``out`` cannot be written to.
    """
    path = out / bundle.name
    check_free(path, force)
    with staging_dir(out) as folder:
        draft = folder / bundle.name
        if bundle.form == "folder":
            write_folder(draft, bundle.files)
        else:
            write_bytes(draft, pack(bundle))
        _put(draft, path, force)
    return path


def write_folder(folder: Path, files: Mapping[str, BundleFile]) -> None:
    """Write files below ``folder``, with their permissions. Raises :class:`InputError` if that fails."""
    for name, file in files.items():
        write_bytes(folder / name, file.data)
        if file.executable:
            (folder / name).chmod((folder / name).stat().st_mode | EXECUTABLE_MODE & 0o111)


@contextmanager
def scratch(files: Mapping[str, BundleFile]) -> Iterator[Path]:
    """Yield a temporary folder with these files in it, for programs that read files.

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
    reason = error.__cause__ or error
    return ScratchError(
        f"a temporary folder cannot be written ({reason}); free some space or set TMPDIR to another folder"
    )


def check_free(path: Path, force: bool) -> None:
    """Refuse to write to ``path`` if something is there; with ``force``, if that is not an untouched bundle.

    Raises:
        InputError: saying what is there.
    """
    if not os.path.lexists(path):
        return
    if not force:
        raise InputError(
            f"{path_text(path)}: exists already; --force replaces an earlier bundle, or choose another --out"
        )
    _check_untouched(path)


def _cannot_write(path: Path, error: OSError) -> InputError:
    return InputError(f"{path_text(path)}: cannot be written ({error.strerror or error}); choose another --out")


def _check_untouched(path: Path) -> None:
    """Refuse what is not a bundle as it was packaged."""
    where = path_text(path)
    if path.is_symlink():
        raise InputError(f"{where}: is a link, which --force does not replace; remove it or choose another --out")
    try:
        files = unpack(path).files
        provenance = read_provenance(files[PROVENANCE], PROVENANCE)
    except (InputError, KeyError) as error:
        reason = f"no {PROVENANCE}" if isinstance(error, KeyError) else error
        raise InputError(
            f"{where}: is not a bundle of this program ({reason}), and --force replaces nothing else; choose another --out"
        ) from error
    changed = differences(provenance.files, files)
    if changed:
        raise InputError(
            f"{where}: was changed since it was packaged ({changed[0]}), which --force would lose; move it away or choose "
            "another --out"
        )


def _put(draft: Path, path: Path, force: bool) -> None:
    """Put a finished bundle at ``path``. What was made or changed there meanwhile is refused and stays."""
    try:
        if force and os.path.lexists(path):
            _check_untouched(path)
            put_in_place(draft, path)
        else:
            put_where_nothing_is(draft, path)
    except FileExistsError as error:
        raise InputError(f"{path_text(path)}: was made meanwhile; move it away or choose another --out") from error
    except OSError as error:
        raise _cannot_write(path, error) from error

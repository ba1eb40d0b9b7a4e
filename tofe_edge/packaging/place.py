"""Putting a bundle on the disk: whole or not at all, and never over anything that is not a bundle's."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tofe_edge.errors import InputError
from tofe_edge.io.files import put_where_nothing_is, staging_dir, write_bytes
from tofe_edge.packaging.archive import EXECUTABLE_MODE, tar_gz_bytes, zip_bytes
from tofe_edge.packaging.bundle import Bundle, BundleFile
from tofe_edge.packaging.provenance import PROVENANCE, differences, read_provenance
from tofe_edge.packaging.unpack import unpack
from tofe_edge.packaging.wording import named


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
            write_bytes(draft, packed(bundle))
        _swap(draft, path, force)
    return path


def write_folder(folder: Path, files: Mapping[str, BundleFile]) -> None:
    """Write files below ``folder``, with their permissions. Raises :class:`InputError` where that fails."""
    for name, file in files.items():
        write_bytes(folder / name, file.data)
        if file.executable:
            (folder / name).chmod((folder / name).stat().st_mode | EXECUTABLE_MODE & 0o111)


def packed(bundle: Bundle) -> bytes:
    """The bytes of a bundle that is an archive."""
    if bundle.form == "zip":
        return zip_bytes(bundle.files)
    return tar_gz_bytes(bundle.files, bundle.name.removesuffix(".tar.gz"))


def check_free(path: Path, force: bool) -> None:
    """Refuse to write to ``path`` where something is, with ``force`` where that is not an untouched bundle.

    Raises:
        InputError: saying what is there.
    """
    if not _is_there(path):
        return
    if not force:
        raise InputError(f"{named(path)}: exists already; --force replaces an earlier bundle, or choose another --out")
    _check_untouched(path, path)


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise InputError(
            f"{named(path)}: cannot be written ({error.strerror or error}); choose another --out"
        ) from error
    return True


def _check_untouched(found: Path, path: Path) -> None:
    """Refuse what is no bundle as it was packaged. It lies at ``found`` and messages call it ``path``."""
    if found.is_symlink():
        raise InputError(f"{named(path)}: is a link, which --force does not replace; remove it or choose another --out")
    try:
        files = unpack(found).files
        provenance = read_provenance(files[PROVENANCE], PROVENANCE)
    except (InputError, KeyError) as error:
        reason = f"no {PROVENANCE}" if isinstance(error, KeyError) else str(error).replace(str(found), str(path))
        raise InputError(
            f"{named(path)}: is no bundle of this program ({reason}), and --force replaces nothing else; choose another --out"
        ) from error
    changed = differences(provenance.files, files)
    if changed:
        raise InputError(
            f"{named(path)}: was changed since it was packaged ({changed[0]}), which --force would lose; move it away or "
            "choose another --out"
        )


def _swap(draft: Path, path: Path, force: bool) -> None:
    """Put a finished bundle at ``path``: where nothing is, with ``force`` in place of an untouched bundle.

    What is there is moved aside first and looked at there, so that nobody changes it between the look and the deletion.
    It is never deleted where the new bundle is not in its place.

    Raises:
        InputError: something was made at ``path`` meanwhile, or was changed there.
    """
    old = _moved_aside(path) if force else None
    try:
        if old is not None:
            _check_untouched(old, path)
        _move(draft, path)
    except BaseException as error:
        if old is not None:
            _move_back(old, path, error)
        raise
    if old is not None:
        shutil.rmtree(old.parent, ignore_errors=True)


def _moved_aside(path: Path) -> Path | None:
    """Where what was at ``path`` is now, in a folder of its own beside it; ``None``: there was nothing."""
    if not _is_there(path):
        return None
    try:
        folder = Path(tempfile.mkdtemp(prefix=f"{path.name[:80]}.replaced-", dir=path.parent))
        try:
            path.rename(folder / path.name)
        except BaseException as error:
            folder.rmdir()
            if isinstance(error, FileNotFoundError):
                return None
            raise
    except OSError as error:
        raise InputError(
            f"{named(path)}: cannot be replaced ({error.strerror or error}); move it away or choose another --out"
        ) from error
    return folder / path.name


def _move_back(old: Path, path: Path, reason: BaseException) -> None:
    try:
        _move(old, path)
        old.parent.rmdir()
    except (InputError, OSError) as error:
        raise InputError(f"{reason}; what was there before is in {named(old.parent)}") from error


def _move(draft: Path, path: Path) -> None:
    try:
        put_where_nothing_is(draft, path)
    except FileExistsError as error:
        raise InputError(f"{named(path)}: was made meanwhile; move it away or choose another --out") from error
    except OSError as error:
        raise InputError(
            f"{named(path)}: cannot be written ({error.strerror or error}); choose another --out"
        ) from error

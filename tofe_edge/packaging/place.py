"""Putting a bundle on the disk: whole or not at all, and never over anything that is not a bundle's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tofe_edge.errors import InputError
from tofe_edge.files import put_in_place, workshop, write_bytes
from tofe_edge.packaging.archive import EXECUTABLE_MODE, tar_gz_bytes, zip_bytes
from tofe_edge.packaging.bundle import Bundle, BundleFile
from tofe_edge.packaging.provenance import PROVENANCE, differences, read_provenance
from tofe_edge.packaging.unpack import unpack


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
    with workshop(out) as folder:
        draft = folder / bundle.name
        if bundle.form == "folder":
            write_folder(draft, bundle.files)
        else:
            write_bytes(draft, packed(bundle))
        put_in_place(draft, path)
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
    if not path.exists() and not path.is_symlink():
        return
    if not force:
        raise InputError(f"{path}: exists already; --force replaces an earlier bundle, or choose another --out")
    if path.is_symlink():
        raise InputError(f"{path}: is a link, which --force does not replace; remove it or choose another --out")
    try:
        files = unpack(path).files
        provenance = read_provenance(files[PROVENANCE], PROVENANCE)
    except (InputError, KeyError) as error:
        reason = f"no {PROVENANCE}" if isinstance(error, KeyError) else str(error)
        raise InputError(
            f"{path}: is no bundle of this program ({reason}), and --force replaces nothing else; choose another --out"
        ) from error
    changed = differences(provenance.files, files)
    if changed:
        raise InputError(
            f"{path}: was changed since it was packaged ({changed[0]}), which --force would lose; move it away or choose "
            "another --out"
        )

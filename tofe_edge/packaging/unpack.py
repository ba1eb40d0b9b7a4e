"""From a bundle on disk back to its files, in memory: nothing unchecked is ever extracted.

Archives are read strictly. What this program would not have written byte for byte is refused, which covers hidden
entries, overlaps, links, absolute names, bytes between entries and behind the end.
"""

from __future__ import annotations

import io
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tofe_edge.errors import InputError, shown
from tofe_edge.io.files import left_by_macos
from tofe_edge.packaging.archive import EXECUTABLE_MODE, GZIP_HEAD, tar_bytes, zip_bytes
from tofe_edge.packaging.bundle import MAX_BYTES, MAX_FILES, BundleFile, Form, check_files, check_member_name
from tofe_edge.packaging.wording import named

_ZIP, _GZIP = b"PK\x03\x04", b"\x1f\x8b"
_APPLE_DOUBLE = b"\0\5\x16\7"
"""How a file begins in which macOS keeps what other file systems cannot hold of another."""
_END = "<4s4H2LH"
_ENTRY_HEAD, _ENTRY_LENGTHS = 46, 28
_FOREIGN = "it is damaged, or was not written by this program: package the model again"


@dataclass(frozen=True)
class Unpacked:
    """The files of a bundle, their names checked, and what they lay in."""

    form: Form
    files: dict[str, BundleFile]


def unpack(path: Path) -> Unpacked:
    """Read a bundle: a folder, a zip (``.aar``) or a ``.tar.gz``.

    Raises:
        InputError: missing, unreadable, no bundle, truncated, with unsafe names, or larger than a bundle may be.
    """
    try:
        if path.is_dir():
            return Unpacked("folder", _read_folder(path))
    except OSError as error:
        raise InputError(f"{named(path)}: cannot be read ({error.strerror or error})") from error
    content = _read(path)
    if content.startswith(_ZIP):
        return Unpacked("zip", read_zip(content, named(path)))
    if content.startswith(_GZIP):
        return Unpacked("tar.gz", read_tar_gz(content, named(path)))
    raise InputError(f"{named(path)}: is no folder, zip or tar.gz; give what `tofe-edge package` wrote")


def read_zip(content: bytes, where: str) -> dict[str, BundleFile]:
    """The files of a zip as :func:`tofe_edge.packaging.archive.zip_bytes` writes it.

    Raises:
        InputError: anything else, beginning with ``where``.
    """
    try:
        _check_directory(content, where)
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            for entry in entries:
                _check_name(entry.filename, where)
                # Stored entries that do not overlap cannot grow: no bomb passes both of these.
                _require(
                    entry.compress_type == zipfile.ZIP_STORED, f"{where}: {entry.filename} is compressed; {_FOREIGN}"
                )
            _require(sum(one.file_size for one in entries) <= len(content), f"{where}: entries overlap; {_FOREIGN}")
            files = {
                entry.filename: BundleFile(archive.read(entry), _is_executable(entry.external_attr >> 16))
                for entry in entries
            }
    except InputError:
        raise
    except Exception as error:  # damaged archives make zipfile raise BadZipFile, struct.error, ValueError, EOFError, …
        raise InputError(f"{where}: cannot be read as zip ({error}); {_FOREIGN}") from error
    _check_all(files, where)
    _require(zip_bytes(files) == content, f"{where}: is not as this program writes a zip; {_FOREIGN}")
    return files


def _check_directory(content: bytes, where: str) -> None:
    """Count the entries of a zip before anything is made of each of them: small archives can name millions."""
    end = len(content) - struct.calcsize(_END)
    mark, *_, size, _, comment = struct.unpack_from(_END, content, max(end, 0))
    _require(
        mark == b"PK\5\6" and comment == 0 and size <= end, f"{where}: is not as this program writes a zip; {_FOREIGN}"
    )
    position, count = end - size, 0
    while position < end:
        position += _ENTRY_HEAD + sum(struct.unpack_from("<3H", content, position + _ENTRY_LENGTHS))
        count += 1
        _require(count <= MAX_FILES, f"{where}: has more than {MAX_FILES} entries")


def read_tar_gz(content: bytes, where: str) -> dict[str, BundleFile]:
    """The files of a tar.gz as :func:`tofe_edge.packaging.archive.tar_gz_bytes` writes it, without their common folder.

    Raises:
        InputError: anything else, beginning with ``where``.
    """
    _require(content.startswith(GZIP_HEAD), f"{where}: its gzip header is not this program's; {_FOREIGN}")
    tar = _inflate(content, where)
    files: dict[str, BundleFile] = {}
    folder, position = None, 0
    while tar[position : position + tarfile.BLOCKSIZE].strip(b"\0"):
        try:
            entry = tarfile.TarInfo.frombuf(tar[position : position + tarfile.BLOCKSIZE], "ascii", "strict")
        except (tarfile.TarError, ValueError) as error:
            raise InputError(f"{where}: cannot be read as tar ({error}); {_FOREIGN}") from error
        _require(entry.type == tarfile.REGTYPE, f"{where}: {shown(entry.name)} is no plain file; {_FOREIGN}")
        _require(0 <= entry.size <= len(tar) - position, f"{where}: is cut short; {_FOREIGN}")
        _check_name(entry.name, where)
        parent, _, name = entry.name.partition("/")
        folder = folder or parent
        _require(bool(name) and parent == folder, f"{where}: {entry.name} is not below {folder}/; {_FOREIGN}")
        begin = position + tarfile.BLOCKSIZE
        files[name] = BundleFile(tar[begin : begin + entry.size], _is_executable(entry.mode))
        _require(len(files) <= MAX_FILES, f"{where}: has more than {MAX_FILES} entries")
        position = begin + -(-entry.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    _check_all(files, where)
    _require(tar_bytes(files, folder or "") == tar, f"{where}: is not as this program writes a tar; {_FOREIGN}")
    return files


def _inflate(content: bytes, where: str) -> bytes:
    inflater = zlib.decompressobj(wbits=31)
    try:
        tar = inflater.decompress(content, MAX_BYTES)
    except zlib.error as error:
        raise InputError(f"{where}: cannot be read as gzip ({error}); {_FOREIGN}") from error
    _require(not inflater.unconsumed_tail, f"{where}: unpacks to more than {MAX_BYTES >> 20} MiB")
    _require(inflater.eof, f"{where}: is cut short; {_FOREIGN}")
    _require(not inflater.unused_data, f"{where}: something follows its end; {_FOREIGN}")
    return tar


def _read_folder(folder: Path) -> dict[str, BundleFile]:
    files: dict[str, BundleFile] = {}
    total = 0
    for parent, folders, names in os.walk(folder, onerror=_refuse_folder):
        inside = Path(parent).relative_to(folder)
        # Names are checked on the way down, which bounds how deep that goes.
        for name in (*folders, *names):
            path = Path(parent) / name
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                raise InputError(f"{named(path)}: is no plain file; a bundle holds nothing else")
            _check_name((inside / name).as_posix(), named(folder))
        for name in names:
            path = Path(parent) / name
            if name == ".DS_Store" or _is_apple_double(path, names):
                continue
            total += path.stat().st_size
            _require(total <= MAX_BYTES, f"{named(folder)}: holds more than {MAX_BYTES >> 20} MiB")
            _require(len(files) < MAX_FILES, f"{named(folder)}: holds more than {MAX_FILES} files")
            files[(inside / name).as_posix()] = BundleFile(_read(path), _is_executable(path.stat().st_mode))
    _check_all(files, named(folder))
    return files


def _is_apple_double(path: Path, beside: Sequence[str]) -> bool:
    """Whether macOS keeps attributes of a file beside it here; a file of such a name alone may be anybody's, or code."""
    if not left_by_macos(path.name) or path.name.removeprefix("._") not in beside:
        return False
    with path.open("rb") as file:
        return file.read(len(_APPLE_DOUBLE)) == _APPLE_DOUBLE


def _read(path: Path) -> bytes:
    try:
        found = path.stat()
        _require(stat.S_ISREG(found.st_mode), f"{named(path)}: is neither a folder nor a plain file")
        _require(found.st_size <= MAX_BYTES, f"{named(path)}: has more than {MAX_BYTES >> 20} MiB")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{named(path)}: cannot be read ({error.strerror or error})") from error


def _refuse_folder(error: OSError) -> None:
    raise InputError(f"{named(Path(error.filename))}: cannot be read ({error.strerror or error})") from error


def _is_executable(mode: int) -> bool:
    return mode & EXECUTABLE_MODE & 0o111 != 0


def _check_name(name: str, where: str) -> None:
    try:
        check_member_name(name)
    except InputError as error:
        raise InputError(f"{where}: member {error}") from error


def _check_all(files: dict[str, BundleFile], where: str) -> None:
    try:
        check_files(files)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InputError(message)

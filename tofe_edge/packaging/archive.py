"""Archives of a bundle: written so that their bytes follow from their content alone, and read back strictly.

What this program would not have written byte for byte is refused. That covers hidden entries, overlaps, links, absolute
names, bytes between entries and behind the end. Nothing unchecked is ever extracted to the disk.
"""

from __future__ import annotations

import gzip
import io
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tofe_edge.errors import InputError, require
from tofe_edge.io.files import left_by_macos
from tofe_edge.packaging.bundle import MAX_BYTES, MAX_FILES, Bundle, BundleFile, Form, check_files
from tofe_edge.packaging.texts import path_text

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The oldest time that zip can store."""
_LOCAL_HEADER = 30
_PADDING_FIELD = 0xD935
"""The extra field that Android's own tools pad with: its id, its length, the alignment, zeros."""
_PADDING_HEAD = 6
_WORD = 4
_PAGE = 16384
"""Android 15 has pages of 16 KiB on some phones; a multiple of 4 KiB is right everywhere."""
_MAPPED_SUFFIXES = (".so", ".pte")
"""Files that are mapped into memory straight from the archive."""

_MOST_GROWTH, _SMALL_BYTES = 20, 32 << 20
"""Weights hardly shrink, programs to a third; headers of tar, the rest, are small."""

GZIP_HEAD = b"\x1f\x8b\x08\0\0\0\0\0\x02\xff"
"""Deflate at its best, no flags, time 0, unknown system."""
_ZIP, _GZIP, _ZIP_ENTRY = b"PK\x03\x04", b"\x1f\x8b", b"PK\x01\x02"
_APPLE_DOUBLE = b"\0\5\x16\7"
"""Beginning of the files in which macOS keeps the attributes of other files."""
_PLAIN_MODE, EXECUTABLE_MODE = 0o644, 0o755
_FOREIGN = "it is damaged, or was not written by this program: package the model again"


def pack(bundle: Bundle) -> bytes:
    """Return the bytes of a bundle that is an archive."""
    if bundle.form == "zip":
        return zip_bytes(bundle.files)
    return tar_gz_bytes(bundle.files, bundle.name.removesuffix(".tar.gz"))


def alignment_of(name: str) -> int:
    """Return the number of bytes to a multiple of which the content of this entry is aligned in a zip."""
    return _PAGE if name.endswith(_MAPPED_SUFFIXES) else _WORD


def zip_bytes(files: Mapping[str, BundleFile]) -> bytes:
    """Return a zip of these files in the order of their names, each stored as it is and aligned.

    Nothing is compressed: a model hardly would be, ``assets`` must not be, and so no zlib decides the bytes.
    """
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.create_system = 3
            entry.external_attr = (stat.S_IFREG | _mode(files[name])) << 16
            entry.extra = _padding(stream.tell() + _LOCAL_HEADER + len(name), alignment_of(name))
            archive.writestr(entry, files[name].data)
    return stream.getvalue()


def _padding(offset: int, alignment: int) -> bytes:
    """Return an extra field that moves what comes at ``offset`` to the next multiple of ``alignment``."""
    missing = -offset % alignment
    if missing == 0:
        return b""
    while missing < _PADDING_HEAD:
        missing += alignment
    return struct.pack("<HHH", _PADDING_FIELD, missing - 4, alignment) + bytes(missing - _PADDING_HEAD)


def tar_bytes(files: Mapping[str, BundleFile], folder: str) -> bytes:
    """Return a ustar archive of these files in the order of their names, all below ``folder``.

    Raises:
        InputError: a path is longer than ustar can store.
    """
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in sorted(files):
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size, entry.mode = len(files[name].data), _mode(files[name])
            try:
                archive.addfile(entry, io.BytesIO(files[name].data))
            except ValueError as error:
                raise InputError(
                    f"{folder}/{name}: {error} for a tar archive; give a shorter name with --name"
                ) from error
    return stream.getvalue()


def tar_gz_bytes(files: Mapping[str, BundleFile], folder: str) -> bytes:
    """Return :func:`tar_bytes`, compressed without a time or a name; only zlib's version can change the bytes."""
    compressed = gzip.compress(tar_bytes(files, folder), compresslevel=9, mtime=0)
    # Different versions of Python fill in differently which system wrote it.
    return GZIP_HEAD + compressed[len(GZIP_HEAD) :]


@dataclass(frozen=True)
class Unpacked:
    """The files of a bundle, their names checked, and the form they were in."""

    form: Form
    files: dict[str, BundleFile]


def unpack(path: Path) -> Unpacked:
    """Read a bundle into memory: a folder, a zip (``.aar``) or a ``.tar.gz``.

    Raises:
        InputError: missing, unreadable, not a bundle, truncated, with unsafe names, or larger than a bundle may be.
    """
    where = path_text(path)
    try:
        if path.is_dir():
            return Unpacked("folder", _read_folder(path))
        content = _read(path)
    except OSError as error:
        at = path_text(Path(error.filename)) if error.filename else where
        raise InputError(f"{at}: cannot be read ({error.strerror or error})") from error
    if content.startswith(_ZIP):
        return Unpacked("zip", read_zip(content, where))
    if content.startswith(_GZIP):
        return Unpacked("tar.gz", read_tar_gz(content, where))
    raise InputError(f"{where}: is not a folder, zip or tar.gz; give what `tofe-edge package` wrote")


def read_zip(content: bytes, where: str) -> dict[str, BundleFile]:
    """Return the files of a zip as :func:`zip_bytes` writes it.

    Raises:
        InputError: it is anything else; the message begins with ``where``.
    """
    # Counted before zipfile makes an object of each entry: a small archive can name millions.
    require(content.count(_ZIP_ENTRY) <= MAX_FILES, f"{where}: has more than {MAX_FILES} entries")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            # Stored entries that do not overlap cannot grow: no zip bomb passes both of these.
            for entry in entries:
                _check_member(entry.filename, where)
                stored = entry.compress_type == zipfile.ZIP_STORED
                require(stored, f"{where}: {entry.filename} is compressed; {_FOREIGN}")
            require(sum(one.file_size for one in entries) <= len(content), f"{where}: entries overlap; {_FOREIGN}")
            files = {
                entry.filename: BundleFile(archive.read(entry), _is_executable(entry.external_attr >> 16))
                for entry in entries
            }
    except InputError:
        raise
    except Exception as error:  # damaged archives make zipfile raise BadZipFile, struct.error, ValueError, EOFError, …
        raise InputError(f"{where}: cannot be read as zip ({error}); {_FOREIGN}") from error
    _check_all(files, where)
    require(zip_bytes(files) == content, f"{where}: is not as this program writes a zip; {_FOREIGN}")
    return files


def read_tar_gz(content: bytes, where: str) -> dict[str, BundleFile]:
    """Return the files of a tar.gz as :func:`tar_gz_bytes` writes it, without their common folder.

    Raises:
        InputError: it is anything else; the message begins with ``where``.
    """
    tar = _inflate(content, where)
    files: dict[str, BundleFile] = {}
    folder = None
    try:
        with tarfile.open(fileobj=io.BytesIO(tar), mode="r:", encoding="ascii", errors="strict") as archive:
            for entry in archive:
                _check_member(entry.name, where)
                parent, _, name = entry.name.partition("/")
                folder = folder or parent
                # A sparse file of a few bytes can say that it is of any size.
                plain = entry.isreg() and not entry.issparse()
                require(plain, f"{where}: {entry.name} is not a plain file; {_FOREIGN}")
                require(bool(name) and parent == folder, f"{where}: {entry.name} is not below {folder}/; {_FOREIGN}")
                require(len(files) < MAX_FILES, f"{where}: has more than {MAX_FILES} entries")
                reader = archive.extractfile(entry)
                files[name] = BundleFile(reader.read() if reader else b"", _is_executable(entry.mode))
    except InputError:
        raise
    except Exception as error:  # tarfile.TarError, ValueError, UnicodeDecodeError, EOFError, …
        raise InputError(f"{where}: cannot be read as tar ({error}); {_FOREIGN}".replace("\n", " ")) from error
    _check_all(files, where)
    require(tar_bytes(files, folder or "") == tar, f"{where}: is not as this program writes a tar; {_FOREIGN}")
    return files


def _inflate(content: bytes, where: str) -> bytes:
    require(content.startswith(GZIP_HEAD), f"{where}: its gzip header is not this program's; {_FOREIGN}")
    most = min(MAX_BYTES, max(_SMALL_BYTES, _MOST_GROWTH * len(content)))
    inflater = zlib.decompressobj(wbits=31)
    try:
        tar = inflater.decompress(content, most)
    except zlib.error as error:
        raise InputError(f"{where}: cannot be read as gzip ({error}); {_FOREIGN}") from error
    require(
        not inflater.unconsumed_tail,
        f"{where}: unpacks to more than {most >> 20} MiB, which no bundle of its size does; {_FOREIGN}",
    )
    require(inflater.eof, f"{where}: is cut short; {_FOREIGN}")
    require(not inflater.unused_data, f"{where}: something follows its end; {_FOREIGN}")
    return tar


def _read_folder(folder: Path) -> dict[str, BundleFile]:
    where = path_text(folder)
    files: dict[str, BundleFile] = {}
    total = 0
    for parent, folders, names in os.walk(folder, onerror=_raise):
        for name in (*folders, *names):
            path = Path(parent) / name
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                raise InputError(f"{path_text(path)}: is not a plain file; a bundle holds nothing else")
            # Names are checked on the way down, which bounds how deep that goes.
            _check_member(path.relative_to(folder).as_posix(), where)
        for name in names:
            path = Path(parent) / name
            if name == ".DS_Store" or _is_apple_double(path, names):
                continue
            total += path.stat().st_size
            require(total <= MAX_BYTES, f"{where}: holds more than {MAX_BYTES >> 20} MiB")
            require(len(files) < MAX_FILES, f"{where}: holds more than {MAX_FILES} files")
            executable = _is_executable(path.stat().st_mode)
            files[path.relative_to(folder).as_posix()] = BundleFile(_read(path), executable)
    _check_all(files, where)
    return files


def _raise(error: OSError) -> None:
    raise error


def _is_apple_double(path: Path, beside: Sequence[str]) -> bool:
    """Return whether macOS keeps attributes of a file beside it here; a name alone proves nothing, it may be code."""
    if not left_by_macos(path.name) or path.name.removeprefix("._") not in beside:
        return False
    with path.open("rb") as file:
        return file.read(len(_APPLE_DOUBLE)) == _APPLE_DOUBLE


def _read(path: Path) -> bytes:
    status = path.stat()
    require(stat.S_ISREG(status.st_mode), f"{path_text(path)}: is neither a folder nor a plain file")
    require(status.st_size <= MAX_BYTES, f"{path_text(path)}: has more than {MAX_BYTES >> 20} MiB")
    return path.read_bytes()


def _mode(file: BundleFile) -> int:
    return EXECUTABLE_MODE if file.executable else _PLAIN_MODE


def _is_executable(mode: int) -> bool:
    return mode & 0o111 != 0


def _check_member(name: str, where: str) -> None:
    _check_all({name: BundleFile(b"")}, where)


def _check_all(files: Mapping[str, BundleFile], where: str) -> None:
    try:
        check_files(files)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error

"""Files: atomic writes and checksums. Every file this project writes goes through here."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tofe_edge.errors import InputError
from tofe_edge.io.locks import exchange, is_abandoned, locked, sync_folder

Content = bytes | Mapping[str, bytes]
"""What a model is stored as: one file, or a folder of files by their path in it, with ``/``."""

_PIECE = 1 << 20
_STAGING = ".tofe-edge-"
_JUST_MADE_S = 5
_OCCUPIED = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)
_NO_SECOND_NAMES = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)
_FULL_OR_IN_THE_WAY = (errno.ENOSPC, errno.EDQUOT, errno.EISDIR, errno.ENOTDIR, errno.ENOTEMPTY)


def left_by_macos(name: str) -> bool:
    """Whether a file of this name is what macOS leaves in folders that it shows (``.DS_Store``) or copies (``._NAME``)."""
    return name == ".DS_Store" or name.startswith("._")


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


@dataclass(frozen=True)
class Fingerprint:
    """How many bytes, and their SHA-256; of a folder, over path, size and content of its files in the order of their paths."""

    size_bytes: int
    sha256: str


def fingerprint(content: Content) -> Fingerprint:
    """The fingerprint of what is about to be written."""
    if isinstance(content, bytes):
        return Fingerprint(len(content), hashlib.sha256(content).hexdigest())
    sums = {name: hashlib.sha256(part).hexdigest() for name, part in content.items()}
    return _of_folder({name: Fingerprint(len(part), sums[name]) for name, part in content.items()})


def fingerprint_of(path: Path) -> Fingerprint:
    """The fingerprint of a file or folder.

    Raises:
        InputError: it cannot be read, or holds what is neither a file nor a folder.
    """
    if not path.is_dir():
        return Fingerprint(size_of(path), sha256_of(path))
    files = _files_in(path)
    return _of_folder({name: Fingerprint(size_of(file), sha256_of(file)) for name, file in files.items()})


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files of a folder. Raises :class:`InputError` if it cannot be read."""
    if path.is_dir():
        return sum(size_of(file) for file in _files_in(path).values())
    try:
        return path.stat().st_size
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def _refuse_folder(error: OSError) -> None:
    raise InputError(f"{error.filename}: cannot be read ({error.strerror or error})") from error


def _files_in(folder: Path) -> dict[str, Path]:
    paths: dict[str, Path] = {}
    for parent, folders, files in os.walk(folder, onerror=_refuse_folder):
        for name in (*folders, *files):
            path = Path(parent) / name
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                raise InputError(f"{path}: is not a plain file; a model's folder holds nothing else")
        paths.update(
            {
                (Path(parent) / name).relative_to(folder).as_posix(): Path(parent) / name
                for name in files
                if not left_by_macos(name)
            }
        )
    return paths


def _of_folder(files: Mapping[str, Fingerprint]) -> Fingerprint:
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0{files[name].size_bytes}\0{files[name].sha256}\n".encode("utf-8", "surrogateescape"))
    return Fingerprint(sum(file.size_bytes for file in files.values()), digest.hexdigest())


def write_atomically(path: Path, produce: Callable[[Path], None]) -> None:
    """Let ``produce`` write a temporary file beside ``path``, then rename it into place.

    An interruption at any point leaves the old file or none, never a part of the new one. What a killed process left of
    the same file is removed.

    Raises:
        InputError: the folder cannot be written, or the disk is full.
    """
    temporary: Path | None = None
    start = f".{path.name[:80]}."
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path.parent, start, ".part")
        descriptor, name = tempfile.mkstemp(prefix=start, suffix=".part", dir=path.parent)
        temporary = Path(name)
        os.close(descriptor)
        with locked(temporary):
            produce(temporary)
            with temporary.open("rb") as handle:
                os.fsync(handle.fileno())
            # mkstemp makes private files; what a user asked for follows the umask like any other file.
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}); choose another output folder or free some space"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def staging_dir(folder: Path, elsewhere: str = "choose another folder with --out") -> Iterator[Path]:
    """A hidden folder inside ``folder`` to build in; gone afterwards, and so is ``folder`` if made here and left empty.

    Made before any long work, so that a folder that cannot be written to is found at once. A full disk
    inside the block is reported like everywhere else, and so is a folder where a file should go. What killed processes
    left there is removed.

    Args:
        elsewhere: what to do about a folder that cannot be written to.

    Raises:
        InputError: ``folder`` cannot be made or written to.
    """
    existed = os.path.exists(folder)  # unlike that of Path, False for a name that is too long
    # It has its name before it is there: whenever an interrupt comes, it is removed. Of TemporaryDirectory that does not hold.
    draft = folder / f"{_STAGING}{secrets.token_hex(8)}"
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(folder, _STAGING)
            draft.mkdir(0o700)
        except OSError as error:
            raise InputError(f"{folder}: cannot be written to ({error.strerror or error}); {elsewhere}") from error
        with locked(draft):
            yield draft
    except OSError as error:
        if error.errno not in _FULL_OR_IN_THE_WAY:
            raise
        raise InputError(
            f"{folder}: cannot be written to ({error}); free some space or choose another folder"
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        if not existed:
            # Whatever else is in it by now stays, and so does the folder.
            with suppress(OSError):
                folder.rmdir()


def _remove_abandoned(folder: Path, start: str, end: str = "") -> None:
    """Remove what processes that are no more were writing: a staging folder, or a file beside its place."""
    with os.scandir(folder) as entries:
        names = [one.name for one in entries if one.name.startswith(start) and one.name.endswith(end)]
    for path in (folder / name for name in names):
        # A folder that was made a moment ago is not held yet.
        with suppress(OSError):
            if time.time() - path.lstat().st_mtime > _JUST_MADE_S and is_abandoned(path):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` atomically. Raises :class:`InputError` as :func:`write_atomically`."""
    write_atomically(path, lambda temporary: _write_bytes(temporary, content))


def write_content(path: Path, content: Content) -> None:
    """Write a file, or a folder that is not there yet, for :func:`put_in_place`. Raises as :func:`write_bytes`."""
    if isinstance(content, bytes):
        write_bytes(path, content)
        return
    for name, part in content.items():
        write_bytes(path / name, part)


def put_in_place(draft: Path, path: Path) -> None:
    """Rename a finished file or folder to ``path``, in the same file system, in place of what is there.

    A folder that is there is exchanged in one step. A system that cannot do that moves the old one beside the draft first, and
    back should the second step fail.

    Raises:
        InputError: a file is where a folder should go, or the other way round.
    """
    check_place(path, draft.is_dir())
    if not path.is_dir():
        draft.replace(path)
    elif exchange(draft, path):
        shutil.rmtree(draft, ignore_errors=True)
    else:
        retired = draft.with_name(f"{draft.name}.replaced")
        path.replace(retired)
        try:
            draft.replace(path)
        except BaseException:
            retired.replace(path)
            raise
        shutil.rmtree(retired, ignore_errors=True)
    sync_folder(path.parent)


def replace_together(drafts: Sequence[Path], path: Path) -> None:
    """Put a finished model and what belongs to it beside ``path``, in place of earlier ones: all of it or nothing.

    One rename decides: that of a folder with everything in it to ``.NAME.new``. What comes then is finished by whoever opens the
    model next, should this process be killed (:func:`finish_replacement`).

    Args:
        drafts: files and folders with the stem of ``path``, in one folder of the same file system.

    Raises:
        InputError: a file is where a folder should go, or the other way round.
    """
    pending = _pending(path)
    gathered = drafts[0].with_name(pending.name)
    gathered.mkdir()
    for draft in drafts:
        draft.replace(gathered / draft.name)
    sync_folder(gathered)
    with locked(path.parent):
        _finish(path)
        gathered.replace(pending)
        sync_folder(path.parent)
        _finish(path)


def finish_replacement(path: Path) -> None:
    """Finish what a killed process had begun with :func:`replace_together`; nearly always there is nothing to do.

    Raises:
        InputError: the folder cannot be written to.
    """
    if not os.path.lexists(_pending(path)):
        return
    try:
        with locked(path.parent):
            _finish(path)
    except OSError as error:
        raise InputError(
            f"{path}: its replacement was cut short and cannot be finished ({error.strerror or error}); make {path.parent} "
            "writable, or convert the model again"
        ) from error


def _pending(path: Path) -> Path:
    return path.with_name(f".{path.name}.new")


def _finish(path: Path) -> None:
    pending = _pending(path)
    if pending.is_symlink() or not pending.is_dir():
        return
    # Whoever made the folder: nothing else than a part of this model is put into place.
    for draft in sorted(one for one in pending.iterdir() if one.stem == path.stem and one.suffix):
        place = path.with_name(draft.name)
        check_place(place, draft.is_dir())
        if place.is_dir():
            place.replace(pending / f".replaced-{secrets.token_hex(4)}")
        draft.replace(place)
    sync_folder(path.parent)
    shutil.rmtree(pending)


def put_where_nothing_is(draft: Path, path: Path) -> None:
    """Rename a file, link or folder to ``path``, in the same file system, without ever replacing a file or a filled folder.

    Raises:
        FileExistsError: there is something by now.
        OSError: it cannot be renamed.
    """
    try:
        if draft.is_dir() and not draft.is_symlink():
            # The system refuses a file and a folder with something in it.
            draft.rename(path)
            return
        # A rename would replace a file in silence; a second name for the same file does not.
        os.link(draft, path, follow_symlinks=not draft.is_symlink())
    except OSError as error:
        if error.errno in _OCCUPIED:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
        if error.errno not in _NO_SECOND_NAMES or draft.is_dir():
            raise
        _copy_where_nothing_is(draft, path)
    draft.unlink()


def _copy_where_nothing_is(draft: Path, path: Path) -> None:
    """For file systems without hard links, such as exFAT."""
    if draft.is_symlink():
        path.symlink_to(draft.readlink())
        return
    with draft.open("rb") as source, path.open("xb") as target:
        try:
            shutil.copyfileobj(source, target)
            target.flush()
            os.fsync(target.fileno())
            shutil.copymode(draft, path)
        except BaseException:
            path.unlink()
            raise


def check_place(path: Path, folder: bool) -> None:
    """Refuse to put a file where a folder is, or a folder where a file is: what is there may be somebody's work.

    Raises:
        InputError: there is something of the other kind.
    """
    if path.is_dir() and not folder:
        raise InputError(f"{path}: is a folder where a file should go; move it away or choose another --out")
    if folder and path.exists() and not path.is_dir():
        raise InputError(f"{path}: is a file where a folder should go; move it away or choose another --out")


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as indented JSON, atomically and with a stable key order."""
    write_bytes(
        path,
        (json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"),
    )


def _write_bytes(path: Path, content: bytes) -> None:
    path.write_bytes(content)

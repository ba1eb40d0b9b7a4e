"""The bundle: files by safe relative names, before they become a folder or an archive."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from tofe_edge.errors import InputError, quoted

Form = Literal["folder", "zip", "tar.gz"]

MAX_FILES = 4096
MAX_BYTES = 1 << 30
"""Limit of all files together, unpacked: far above any model here, far below what fills a disk."""

_MAX_NAME = 200
"""Fits ustar's name and prefix fields and leaves room below the 260 characters of Windows."""
_MAX_PART = 95
_PART = re.compile(r"[A-Za-z0-9._+@$-]+", re.ASCII)
"""``$`` is in the names of Java's inner classes."""
_MODEL_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*", re.ASCII)
_MAX_MODEL_NAME = 64
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
"""Names that Windows takes for devices, with any suffix."""


@dataclass(frozen=True)
class BundleFile:
    """One file of a bundle."""

    data: bytes
    executable: bool = False


@dataclass(frozen=True)
class Bundle:
    """Files by relative name, and what they are packed into.

    Attributes:
        name: of the folder or archive, with its suffix; one part of a path.
        files: their names have been checked, see :func:`check_member_name`.

    Raises:
        InputError: a name is unsafe or stands twice, or there is too much of it.
    """

    name: str
    form: Form
    files: Mapping[str, BundleFile]

    def __post_init__(self) -> None:
        check_member_name(self.name)
        if "/" in self.name:
            raise InputError(f"bundle name {quoted(self.name)} has a slash; a bundle is one file or folder")
        check_files(self.files)


def check_files(files: Mapping[str, BundleFile]) -> None:
    """Refuse file names that could leave the folder or overwrite each other, and too many or too large files.

    Raises:
        InputError: naming the first culprit.
    """
    if not 1 <= len(files) <= MAX_FILES:
        raise InputError(f"a bundle holds 1 to {MAX_FILES} files, not {len(files)}")
    if sum(len(file.data) for file in files.values()) > MAX_BYTES:
        raise InputError(f"a bundle's files are more than {MAX_BYTES >> 20} MiB together")
    seen: dict[str, str] = {}
    for name in files:
        check_member_name(name)
        # macOS and Windows take names that differ in case alone for the same file.
        twin = seen.setdefault(name.lower(), name)
        if twin != name:
            raise InputError(f"bundle files {twin} and {name} differ in case alone")
    for name in files:
        for parent in map(str, PurePosixPath(name.lower()).parents):
            if parent in seen:
                raise InputError(f"bundle file {seen[parent]} is a folder too, for {name}")


def check_member_name(name: str) -> None:
    """Refuse what is not a plain relative path of ASCII letters, digits and ``. _ + @ $ -``, on any system.

    Raises:
        InputError: absolute, with ``..`` or an empty part, a backslash, a space, a control or non-ASCII character, a name
            that Windows reserves, or too long.
    """
    good = len(name) <= _MAX_NAME and all(
        _PART.fullmatch(part) and len(part) <= _MAX_PART and not part.endswith(".") and not _DEVICES.fullmatch(part)
        for part in name.split("/")
    )
    if not good:
        raise InputError(
            f"{quoted(name)} is not a safe file name: relative, of at most {_MAX_NAME} letters, digits and . _ + @ $ - (no ..)"
        )


def check_model_name(name: str, where: str) -> None:
    """Refuse a name that files, packages and classes cannot be called after.

    Args:
        where: the file that the name comes from, or the option.

    Raises:
        InputError: it does not begin with a letter, has a character other than ASCII letters, digits and ``_ - .``, a ``..``,
            or more than 64 characters.
    """
    if len(name) > _MAX_MODEL_NAME or not _MODEL_NAME.fullmatch(name) or _DEVICES.fullmatch(name):
        raise InputError(
            f"{where}: {quoted(name)} cannot name a package: a letter, then letters, digits and _ - . up to {_MAX_MODEL_NAME} "
            "characters; give another with --name"
        )


def identifier(name: str) -> str:
    """Return a checked model name as a lower-case identifier: for Java packages, resource names, C symbols."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")

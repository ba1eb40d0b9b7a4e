"""Finding and reading profiles: shipped ones by name, a user's own by path."""

from __future__ import annotations

from pathlib import Path

from tofe_edge.profiles.document import MAX_FILE_BYTES, parse_document
from tofe_edge.profiles.errors import ProfileError, did_you_mean, shown
from tofe_edge.profiles.schema import DeviceProfile, build_profile

_SHIPPED_FOLDER = Path(__file__).resolve().parent
_YAML_SUFFIXES = (".yaml", ".yml")
_LIST_HINT = "`tofe-edge profiles` lists the shipped ones"


def profile_names() -> list[str]:
    """Names of the shipped profiles, sorted."""
    return sorted(path.stem for path in _SHIPPED_FOLDER.glob("*.yaml"))


def load_profile(name_or_path: str) -> DeviceProfile:
    """The shipped profile of that name, or the profile in a file.

    What ends in ``.yaml`` or ``.yml``, or holds a path separator, is a path. Raises ProfileError when there is no such
    profile or file, or when the file is not a valid profile.
    """
    content, shown_as = read_profile(name_or_path)
    return build_profile(parse_document(content, shown_as))


def read_profile(name_or_path: str) -> tuple[bytes, str]:
    """The text of a profile, unchecked, and how messages call it. Raises ProfileError when there is none."""
    if is_path(name_or_path):
        return _read(Path(name_or_path), name_or_path), name_or_path
    names = profile_names()
    if name_or_path not in names:
        hint = did_you_mean(name_or_path, names) or ";"
        raise ProfileError(f"unknown profile {shown(name_or_path)}{hint} {_LIST_HINT}, or give the path of a YAML file")
    path = _SHIPPED_FOLDER / f"{name_or_path}.yaml"
    return _read(path, str(path)), str(path)


def load_all() -> list[DeviceProfile]:
    """All shipped profiles, sorted by name. Raises ProfileError when one is damaged."""
    return [load_profile(name) for name in profile_names()]


def is_path(name_or_path: str) -> bool:
    """Whether a profile is meant by its path rather than by the name of a shipped one."""
    return name_or_path.lower().endswith(_YAML_SUFFIXES) or "/" in name_or_path or "\\" in name_or_path


def _read(path: Path, shown_as: str) -> bytes:
    """At most one byte more than a profile may have. Raises ProfileError for what is not a readable regular file."""
    try:
        if path.is_dir():
            raise ProfileError(f"{shown_as}: is a directory; give the path of a YAML file in it")
        if not path.exists():
            raise ProfileError(f"{shown_as}: no such file; check the path ({_LIST_HINT})")
        if not path.is_file():
            # Opening a pipe or a device could block for ever.
            raise ProfileError(f"{shown_as}: is not a regular file; give the path of a YAML file")
        with path.open("rb") as stream:
            return stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ProfileError(f"{shown_as}: cannot be read ({error.strerror}); check the path and permissions") from error

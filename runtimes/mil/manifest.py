"""The table of contents of a ``.mlpackage`` folder."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from tofe_edge.errors import InputError, quoted
from tofe_edge.io.documents import parse_json

_LARGEST_MANIFEST = 1 << 20
_AGAIN = "copy or convert the package again"


def find_model(package: Path) -> Path:
    """Return the model file that ``Manifest.json`` names as the root of the package.

    Every item that the manifest lists has to be there, inside the package.

    Raises:
        InputError: the folder, its manifest, or an item is missing or wrong.
    """
    if not _exists(package, package):
        raise InputError(f"{package}: does not exist; give the folder of a Core ML package (.mlpackage)")
    if not package.is_dir():
        raise InputError(f"{package}: is not a folder; a Core ML package (.mlpackage) is one")
    content = _read(package)
    entries = content.get("itemInfoEntries")
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise InputError(f"{package}: Manifest.json has no table itemInfoEntries; {_AGAIN}")
    identifier = content.get("rootModelIdentifier")
    if not isinstance(identifier, str) or not _is_uuid(identifier):
        raise InputError(f"{package}: Manifest.json's rootModelIdentifier {quoted(identifier)} is not a UUID; {_AGAIN}")
    if identifier not in entries:
        raise InputError(
            f"{package}: Manifest.json lists no item for its rootModelIdentifier {quoted(identifier)}; {_AGAIN}"
        )
    items = {key: _item(package, entry.get("path")) for key, entry in entries.items()}
    model = items[identifier]
    if model.suffix != ".mlmodel" or not model.is_file():
        raise InputError(f"{package}: Manifest.json's root item {quoted(model.name)} is not a .mlmodel file; {_AGAIN}")
    return model


def inside(package: Path, path: Path, what: str) -> Path:
    """Return ``path`` with links followed if it exists inside the package.

    Raises:
        InputError: it is missing or leaves the package.
    """
    try:
        resolved = path.resolve()
        within = resolved.is_relative_to(package.resolve())
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{package}: {what} is not a usable path ({_AGAIN})") from error
    if not within:
        raise InputError(f"{package}: {what} leaves the package; packages must hold all their files")
    if not _exists(package, resolved):
        raise InputError(f"{package}: {what} is missing; {_AGAIN}")
    return resolved


def _read(package: Path) -> dict[str, Any]:
    manifest = inside(package, package / "Manifest.json", "Manifest.json")
    try:
        with manifest.open("rb") as handle:
            raw = handle.read(_LARGEST_MANIFEST + 1)
    except OSError as error:
        raise InputError(f"{package}: Manifest.json cannot be read ({error.strerror or error})") from error
    if len(raw) > _LARGEST_MANIFEST:
        raise InputError(f"{package}: Manifest.json has over {_LARGEST_MANIFEST} bytes; {_AGAIN}")
    try:
        content = parse_json(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{package}: Manifest.json is not JSON; {_AGAIN}") from error
    if not isinstance(content, dict):
        raise InputError(f"{package}: Manifest.json is not a JSON object; {_AGAIN}")
    version = content.get("fileFormatVersion")
    if not isinstance(version, str) or not version.startswith("1."):
        raise InputError(f"{package}: Manifest.json has fileFormatVersion {quoted(version)}; only 1.* is known")
    return content


def _item(package: Path, path: object) -> Path:
    if not isinstance(path, str) or not path:
        raise InputError(f"{package}: Manifest.json has an item without a path; {_AGAIN}")
    if path.startswith(("/", "\\")) or ".." in path.replace("\\", "/").split("/"):
        raise InputError(f"{package}: Manifest.json's item {quoted(path)} leaves the package; {_AGAIN}")
    return inside(package, package / "Data" / path, f"the item {quoted(path)} of Manifest.json")


def _exists(package: Path, path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError) as error:
        raise InputError(f"{package}: {quoted(path.name)} is not a usable path") from error


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False

"""``provenance.json``: what a bundle is, what it was made from, and a checksum of every other file in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tofe_edge import __version__
from tofe_edge.errors import InputError, shown
from tofe_edge.io.artifact import Manifest
from tofe_edge.packaging.bundle import BundleFile, check_member_name, check_model_name
from tofe_edge.packaging.contents import PackagedModel
from tofe_edge.packaging.licences import Licence

PROVENANCE = "provenance.json"
SCHEMA = 1
KIND = "tofe-edge bundle"

_NOT_COPIED = ("artifact", "class_names", "class_ids", "quantization", "fp32_layers")
"""Of the manifest: long, and in the bundle's own copy of it."""


@dataclass(frozen=True)
class FileSum:
    """What a file of a bundle must be."""

    sha256: str
    size_bytes: int
    executable: bool

    @classmethod
    def of(cls, file: BundleFile) -> FileSum:
        """The sum of a file."""
        return cls(hashlib.sha256(file.data).hexdigest(), len(file.data), file.executable)

    def to_json(self) -> dict[str, Any]:
        """Its entry under ``files``."""
        return {"sha256": self.sha256, "size_bytes": self.size_bytes, "executable": self.executable}


@dataclass(frozen=True)
class Provenance:
    """What ``provenance.json`` says, as far as programs read it."""

    platform: str
    variant: str
    name: str
    """Of the model in the bundle: ``NAME.pte``, ``NAME.json``, ``NAME.golden``."""
    manifest: dict[str, Any]
    """What it copied of the manifest, see :func:`manifest_copy`."""
    licences: tuple[Licence, ...]
    files: dict[str, FileSum]

    @property
    def model_sha256(self) -> str:
        """The checksum of the model, as the manifest has it."""
        return str(self.manifest.get("sha256"))


def manifest_copy(manifest: Manifest) -> dict[str, Any]:
    """What ``provenance.json`` says of a manifest: all that is not long."""
    return {key: value for key, value in manifest.to_json().items() if key not in _NOT_COPIED}


def provenance_file(
    platform: str,
    variant: str,
    model: PackagedModel,
    licences: Sequence[Licence],
    files: Mapping[str, BundleFile],
    build: Mapping[str, str] | None = None,
) -> BundleFile:
    """``provenance.json`` for these files.

    Args:
        variant: the kind of bundle among the platform's, such as ``source``.
        build: tools that made parts of it, with their versions.
    """
    document = {
        "schema": SCHEMA,
        "kind": KIND,
        "platform": platform,
        "variant": variant,
        "name": model.name,
        "tofe_edge": __version__,
        "build": dict(build or {}),
        "manifest": manifest_copy(model.manifest),
        "weights": {"training": model.weights.training, "accuracy": model.weights.accuracy},
        "licences": [one.to_json() for one in licences],
        "files": {name: FileSum.of(files[name]).to_json() for name in sorted(files)},
    }
    text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False)
    return BundleFile(f"{text}\n".encode("utf-8", "backslashreplace"))


def read_provenance(file: BundleFile, where: str) -> Provenance:
    """Read and check ``provenance.json``.

    Args:
        where: begins the message of an error.

    Raises:
        InputError: it is none, of another version, or malformed.
    """
    try:
        document = json.loads(file.data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: cannot be read as JSON ({error})") from error
    if not isinstance(document, dict) or document.get("kind") != KIND or document.get("schema") != SCHEMA:
        raise InputError(f"{where}: is not the provenance of a bundle that this version knows")
    texts = [document.get(key) for key in ("platform", "variant", "name")]
    manifest, files = document.get("manifest"), document.get("files")
    if (
        not all(isinstance(text, str) for text in texts)
        or not isinstance(manifest, dict)
        or not isinstance(files, dict)
    ):
        raise InputError(f"{where}: platform, variant, name, manifest or files is missing or has the wrong type")
    platform, variant, name = map(str, texts)
    check_model_name(name, where)
    sums = {key: _sum(key, files[key], where) for key in files}
    return Provenance(platform, variant, name, manifest, _licences(document.get("licences"), where), sums)


def _licences(entries: Any, where: str) -> tuple[Licence, ...]:
    keys = set(Licence.__dataclass_fields__)
    for entry in entries if isinstance(entries, list) else [None]:
        if (
            not isinstance(entry, dict)
            or set(entry) != keys
            or not all(isinstance(text, str) for text in entry.values())
        ):
            raise InputError(f"{where}: its licences are missing or malformed")
    return tuple(Licence(**entry) for entry in entries)


def _sum(name: str, entry: Any, where: str) -> FileSum:
    check_member_name(name)
    match entry:
        case {"sha256": str(sha256), "size_bytes": int(size), "executable": bool(executable)} if (
            type(size) is int and size >= 0
        ):
            return FileSum(sha256, size, executable)
    raise InputError(f"{where}: the sums of {shown(name)} are malformed")


def differences(wanted: Mapping[str, FileSum], files: Mapping[str, BundleFile]) -> list[str]:
    """What is missing, added or changed, a line each; ``provenance.json`` itself is left out."""
    found = {name: file for name, file in files.items() if name != PROVENANCE}
    lines = [f"{name} is missing" for name in sorted(wanted.keys() - found.keys())]
    lines += [f"{name} was added" for name in sorted(found.keys() - wanted.keys())]
    for name in sorted(wanted.keys() & found.keys()):
        actual = FileSum.of(found[name])
        if actual.sha256 != wanted[name].sha256 or actual.size_bytes != wanted[name].size_bytes:
            lines.append(f"{name} is not what was packaged: its checksum differs")
        elif actual.executable != wanted[name].executable:
            lines.append(f"{name} is {'' if actual.executable else 'not '}executable, unlike when it was packaged")
    return lines

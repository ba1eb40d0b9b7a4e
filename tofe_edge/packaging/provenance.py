"""``provenance.json``: what a bundle is, what it was made from, and a checksum of every other file in it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tofe_edge import __version__
from tofe_edge.errors import InputError
from tofe_edge.io.documents import (
    FORBID,
    Count,
    Flag,
    Text,
    parse_json,
    signed,
    validate,
    verified,
    warn_without_digest,
)
from tofe_edge.packaging.bundle import BundleFile, check_member_name, check_model_name
from tofe_edge.packaging.contents import PackagedModel, json_file
from tofe_edge.packaging.licences import Licence

PROVENANCE = "provenance.json"
_SCHEMA, _KIND = 2, "tofe-edge bundle"

_ADVICE = "package the model again"

_NOT_COPIED = ("artifact", "class_names", "class_ids", "quantization", "fp32_layers")
"""Entries of the manifest that are long; they are in the bundle's own copy of it."""


@dataclass(frozen=True)
class FileSum:
    """What a file of a bundle must be: its entry under ``files``."""

    __pydantic_config__ = FORBID

    sha256: Text
    size_bytes: Count
    executable: Flag

    @classmethod
    def of(cls, file: BundleFile) -> FileSum:
        """Return the sum of a file."""
        return cls(hashlib.sha256(file.data).hexdigest(), len(file.data), file.executable)


@dataclass(frozen=True)
class Provenance:
    """What ``provenance.json`` says, as far as programs read it."""

    platform: Text
    variant: Text
    """The kind of bundle among the platform's, such as ``source``."""
    name: Text
    """Name of the model in the bundle: ``NAME.pte``, ``NAME.json``, ``NAME.golden``."""
    manifest: dict[str, Any]
    """Copy of the manifest's short entries."""
    files: dict[str, FileSum]

    @property
    def model_sha256(self) -> str:
        """The checksum of the model, as the manifest has it."""
        return str(self.manifest.get("sha256"))


def provenance_file(
    platform: str,
    variant: str,
    model: PackagedModel,
    licences: Sequence[Licence],
    files: Mapping[str, BundleFile],
    build: Mapping[str, str] | None = None,
) -> BundleFile:
    """Return ``provenance.json`` for these files.

    Args:
        variant: the kind of bundle among the platform's, such as ``source``.
        build: tools that made parts of it, with their versions.
    """
    document = {
        "kind": _KIND,
        "platform": platform,
        "variant": variant,
        "name": model.name,
        "tofe_edge": __version__,
        "build": dict(build or {}),
        "manifest": {key: value for key, value in model.manifest.to_json().items() if key not in _NOT_COPIED},
        "weights": {"training": model.weights.training, "accuracy": model.weights.accuracy},
        "licences": [asdict(one) for one in licences],
        "files": {name: asdict(FileSum.of(files[name])) for name in files},
    }
    return json_file(signed(_SCHEMA, document))


def read_provenance(file: BundleFile, where: str) -> Provenance:
    """Read and check ``provenance.json``.

    Args:
        where: beginning of the message of an error.

    Raises:
        InputError: not a provenance, of another version, or malformed.
    """
    try:
        document = parse_json(file.data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: cannot be read as JSON ({error})") from error
    if not isinstance(document, dict) or document.get("kind") != _KIND:
        raise InputError(f"{where}: is not the provenance of a bundle of this program")
    provenance = validate(Provenance, verified(document, _SCHEMA, f"{where}:", _ADVICE), f"{where}:", _ADVICE)
    check_model_name(provenance.name, where)
    for name in provenance.files:
        check_member_name(name)
    warn_without_digest(document, where, _ADVICE)
    return provenance


def differences(expected: Mapping[str, FileSum], files: Mapping[str, BundleFile]) -> list[str]:
    """Return what is missing, added or changed, a line each; ``provenance.json`` itself is left out."""
    present = {name: file for name, file in files.items() if name != PROVENANCE}
    lines = [f"{name} is missing" for name in sorted(expected.keys() - present.keys())]
    lines += [f"{name} was added" for name in sorted(present.keys() - expected.keys())]
    for name in sorted(expected.keys() & present.keys()):
        actual = FileSum.of(present[name])
        if actual.sha256 != expected[name].sha256 or actual.size_bytes != expected[name].size_bytes:
            lines.append(f"{name} is not what was packaged: its checksum differs")
        elif actual.executable != expected[name].executable:
            lines.append(f"{name} is {'' if actual.executable else 'not '}executable, unlike when it was packaged")
    return lines

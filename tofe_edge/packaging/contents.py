"""The files of a model that every bundle holds, whatever the platform: model, manifest, labels, preprocessing, golden vectors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tofe_edge.errors import InputError, quoted
from tofe_edge.evaluation.golden import GoldenSet, golden_path_of, read_golden
from tofe_edge.io.artifact import Artifact, Manifest
from tofe_edge.io.files import Content, fingerprint, left_by_macos
from tofe_edge.packaging.bundle import BundleFile, check_model_name
from tofe_edge.packaging.licences import Weights
from tofe_edge.packaging.texts import LABELS

PREPROCESSING = "preprocessing.json"


@dataclass(frozen=True)
class PackagedModel:
    """A checked model and what belongs to it, in memory, under the name that it has in the bundle."""

    name: str
    manifest: Manifest
    """Its ``artifact`` is :attr:`file_name`."""
    content: Content
    """The bytes of a ``.pte``, or the files of an ``.mlpackage``."""
    golden: GoldenSet
    weights: Weights

    @property
    def file_name(self) -> str:
        """``NAME.pte`` or ``NAME.mlpackage``."""
        return self.name + (".pte" if isinstance(self.content, bytes) else ".mlpackage")

    def model_files(self) -> dict[str, BundleFile]:
        """Return the model alone, by path: one file, or those of the package's folder."""
        if isinstance(self.content, bytes):
            return {self.file_name: BundleFile(self.content)}
        return {f"{self.file_name}/{name}": BundleFile(part) for name, part in self.content.items()}

    def files(self) -> dict[str, BundleFile]:
        """Return the model, its manifest and golden vectors as ``tofe-edge run --self-test`` takes them, a classifier's labels, and
        the preprocessing."""
        golden = {f"{self.name}.golden/{name}": BundleFile(data) for name, data in self.golden.content().items()}
        labels = "".join(f"{name}\n" for name in self.manifest.class_names)
        return {
            **self.model_files(),
            **golden,
            f"{self.name}.json": json_file(self.manifest.to_json()),
            **({LABELS: BundleFile(labels.encode())} if labels else {}),
            PREPROCESSING: json_file(self.manifest.preprocessing.to_json()),
        }


def json_file(document: Mapping[str, Any]) -> BundleFile:
    """Return a JSON file whose bytes follow from its content."""
    text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False)
    return BundleFile(f"{text}\n".encode("utf-8", "backslashreplace"))


def load_packaged_model(artifact: Artifact, weights: Weights, name: str | None = None) -> PackagedModel:
    """Read a checked artifact and its golden vectors into memory.

    Args:
        name: what it is called in the bundle; ``None``: the file's own name without suffix.

    Raises:
        InputError: the name cannot name a package, there are no golden vectors, a class name has a line break, or the file
            changed since it was checked.
    """
    chosen = artifact.path.stem if name is None else name
    check_model_name(chosen, str(artifact.path) if name is None else "--name")
    for label in artifact.manifest.class_names:
        if label.splitlines() != [label] or not label.isprintable():
            raise InputError(
                f"{artifact.path}: class name {quoted(label)} does not fit on a line of {LABELS}; rename it"
            )
    golden = read_golden(golden_path_of(artifact.path), artifact)
    content = _content_of(artifact.path)
    if fingerprint(content).sha256 != artifact.manifest.sha256:
        raise InputError(f"{artifact.path}: changed while it was read; run the command again")
    model = PackagedModel(chosen, artifact.manifest, content, golden, weights)
    return replace(model, manifest=replace(artifact.manifest, artifact=model.file_name))


def _content_of(path: Path) -> Content:
    try:
        if not path.is_dir():
            return path.read_bytes()
        files = sorted(one for one in path.rglob("*") if one.is_file() and not left_by_macos(one.name))
        return {one.relative_to(path).as_posix(): one.read_bytes() for one in files}
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error

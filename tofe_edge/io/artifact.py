"""The artifact: an exported model and its manifest, ``NAME.pte`` or ``NAME.mlpackage`` (a folder) and ``NAME.json``."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tofe_edge.errors import InputError
from tofe_edge.io.files import fingerprint_of, size_of, write_json
from tofe_edge.io.preprocessing import Preprocessing
from tofe_edge.io.targets import find_target

SCHEMA = 3
PRECISIONS = ("fp32", "fp16", "int8", "pal6", "pal4")
"""``pal6`` and ``pal4``: weights as 6- or 4-bit numbers of the entries of a palette, one a layer, computed in fp16."""

IOS = ("tensor", "image")
PACKAGE_SUFFIX = ".mlpackage"

DEFAULT_METHOD = "forward"
"""The method that a program runs unless it is asked for another one."""

_MAX_GMACS = 1e9
"""Far above any net, and far below what code and READMEs could not say."""


@dataclass(frozen=True)
class Method:
    """One budget of a program: the same weights with other token counts."""

    name: str
    token_counts: list[int] | None
    """Kept patch tokens per stage; ``None`` for a dense model."""
    gmacs: float
    delegates: int
    fallback_ops: dict[str, int]
    """Operators that no delegate took, with their numbers."""
    planned_memory_bytes: int | None
    """``None`` where the device plans it when it loads the model."""

    @classmethod
    def from_json(cls, document: Any) -> Method:
        """Read one entry of a manifest's ``further_methods``. Raises :class:`InputError`."""
        fields = document if isinstance(document, dict) else {}
        wrong = set(fields) != set(cls.__dataclass_fields__) or not (
            isinstance(fields["name"], str)
            and isinstance(fields["token_counts"], list)
            and type(fields["gmacs"]) in (int, float)
            and 0 <= fields["gmacs"] < _MAX_GMACS
            and isinstance(fields["fallback_ops"], dict)
            and type(fields["delegates"]) is int
            and (fields["planned_memory_bytes"] is None or type(fields["planned_memory_bytes"]) is int)
            and all((fields[key] or 0) >= 0 for key in ("delegates", "planned_memory_bytes"))
            and all(type(item) is int and item >= 0 for item in _items(fields["token_counts"]))
            and all(type(item) is int and item >= 0 for item in _items(fields["fallback_ops"]))
        )
        if wrong:
            raise InputError("manifest key 'further_methods' is malformed; convert the model again")
        return cls(**fields)


@dataclass(frozen=True)
class Manifest:
    """What a program needs to know to feed, trust and explain a model file."""

    artifact: str
    """File name of the model, beside the manifest."""
    sha256: str
    size_bytes: int
    target: str
    backend: str
    precision: str
    int8_mode: str | None
    """Where precision is int8: ``dynamic`` or ``static`` ranges of activations, or int8 for ``weights`` alone."""
    checkpoint: str
    checkpoint_sha256: str
    backbone: str
    profile: str | None
    token_counts: list[int] | None
    """Kept patch tokens per stage; ``None`` for a dense model."""
    stage_blocks: list[int]
    """Transformer blocks per stage, those before the first selection first."""
    patch_tokens: int
    gmacs: float
    delegates: int
    fallback_ops: dict[str, int]
    """Operators that no delegate took, with their numbers."""
    fp32_layers: list[str]
    """Layers with weights that int8 left in fp32."""
    planned_memory_bytes: int | None
    """``None`` where the device plans it when it loads the model."""
    further_methods: list[Method]
    """Other budgets in the same program, from the largest to the smallest."""
    batch: int
    """Images of one run."""
    selection: str | None
    """How tokens are put in order: ``topk`` or ``rank``."""
    layout: str
    """``tokens_first`` or ``channels_first``: the order of axes that the graph computes in."""
    io: str
    """``tensor``: normalised pixels in, logits out. ``image``: an image in, a class with probabilities out."""
    deployment_target: str | None
    """The oldest system that loads a Core ML model, by its name for iOS."""
    quantization: dict[str, Any] | None
    """What int8 cost on the calibration images, and why layers are in fp32."""
    preprocessing: Preprocessing
    class_names: list[str]
    class_ids: list[str]
    parity: dict[str, Any] | None
    versions: dict[str, str]
    reproducible: bool = False
    """Whether 64-bit CPUs of any make compute the same bytes (docs/native.md); the document has this key where it is true."""
    latency: dict[str, Any] | None = None
    """What one image takes, milliseconds: predicted by the profile's table, measured where it was; where either is known."""

    @property
    def methods(self) -> dict[str, Method]:
        """Every budget by the name of its method, the default first."""
        default = Method(
            DEFAULT_METHOD,
            self.token_counts,
            self.gmacs,
            self.delegates,
            self.fallback_ops,
            self.planned_memory_bytes,
        )
        return {method.name: method for method in (default, *self.further_methods)}

    def method(self, name: str) -> Method:
        """One budget. Raises :class:`InputError`, listing the names there are, where there is none of this name."""
        found = self.methods.get(name)
        if found is None:
            raise InputError(f"{self.artifact}: has no method {name!r}; it has {', '.join(self.methods)}")
        return found

    def to_json(self) -> dict[str, Any]:
        """The document stored beside the artifact."""
        document = asdict(self)
        document["preprocessing"] = self.preprocessing.to_json()
        if not self.reproducible:
            del document["reproducible"]
        if self.latency is None:
            del document["latency"]
        return {"schema": SCHEMA, **document}

    @classmethod
    def from_json(cls, document: Any) -> Manifest:
        """Read a manifest document.

        Raises:
            InputError: naming the key that is missing, unknown or of the wrong type.
        """
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            found = document.get("schema") if isinstance(document, dict) else None
            raise InputError(f"manifest schema {found!r} is not {SCHEMA}; convert the model again")
        fields = {key: value for key, value in document.items() if key != "schema"}
        names = set(cls.__dataclass_fields__)
        for key in sorted(names - fields.keys() - {"reproducible", "latency"}):
            raise InputError(f"manifest key {key!r} is missing; convert the model again")
        for key in sorted(fields.keys() - names):
            raise InputError(f"manifest key {key!r} is unknown; convert the model again")
        for key, kinds in _KINDS.items():
            value = fields[key]
            if not isinstance(value, kinds) or isinstance(value, bool):
                raise InputError(f"manifest key {key!r} has the wrong type ({type(value).__name__})")
        if not isinstance(fields.get("reproducible", False), bool):
            raise InputError("manifest key 'reproducible' is not true or false")
        _check_latency(fields.get("latency"))
        for key in ("token_counts", "stage_blocks", "fallback_ops"):
            if not all(type(item) is int and item >= 0 for item in _items(fields[key])):
                raise InputError(f"manifest key {key!r} must list whole numbers")
        for key in ("fp32_layers", "class_names", "class_ids", "versions"):
            if not all(isinstance(item, str) for item in _items(fields[key])):
                raise InputError(f"manifest key {key!r} must list texts")
        if fields["precision"] not in PRECISIONS:
            raise InputError(f"manifest key 'precision' is not one of {', '.join(PRECISIONS)}")
        if not fields["class_names"] or len(fields["class_names"]) != len(fields["class_ids"]):
            raise InputError("manifest keys 'class_names' and 'class_ids' must be of equal length and not empty")
        if not 0 <= fields["gmacs"] < _MAX_GMACS:
            raise InputError("manifest key 'gmacs' is no number of a net's size; convert the model again")
        if fields["io"] not in IOS:
            raise InputError(f"manifest key 'io' is not one of {', '.join(IOS)}")
        if fields["batch"] < 1:
            raise InputError("manifest key 'batch' must be at least 1")
        fields["further_methods"] = [Method.from_json(entry) for entry in fields["further_methods"]]
        method_names = [DEFAULT_METHOD, *(method.name for method in fields["further_methods"])]
        if len(set(method_names)) < len(method_names):
            raise InputError("manifest key 'further_methods' names a method twice; convert the model again")
        fields["preprocessing"] = Preprocessing.from_json(fields["preprocessing"])
        return cls(**fields)


_LATENCIES = ("predicted_ms", "measured_ms", "measured_p50_ms", "limit_ms")


def _check_latency(found: Any) -> None:
    if found is None:
        return
    wrong = not isinstance(found, dict) or set(found) != {*_LATENCIES, "device", "threads", "source"}
    wrong = wrong or any(
        found[key] is not None and (type(found[key]) not in (int, float) or not 0 < found[key] < math.inf)
        for key in _LATENCIES
    )
    wrong = wrong or any(not isinstance(found[key], (str, _NONE)) for key in ("device", "source"))
    if wrong or type(found["threads"]) is not int:
        raise InputError("manifest key 'latency' is malformed; convert the model again")


def _items(value: list[Any] | dict[str, Any] | None) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value or []


_NONE = type(None)
_KINDS: dict[str, tuple[type, ...]] = {
    "artifact": (str,), "sha256": (str,), "size_bytes": (int,), "target": (str,), "backend": (str,), "precision": (str,),
    "int8_mode": (str, _NONE), "checkpoint": (str,), "checkpoint_sha256": (str,), "backbone": (str,), "profile": (str, _NONE),
    "token_counts": (list, _NONE), "stage_blocks": (list,), "patch_tokens": (int,), "gmacs": (int, float), "delegates": (int,),
    "fallback_ops": (dict,), "fp32_layers": (list,), "planned_memory_bytes": (int, _NONE), "preprocessing": (dict,),
    "further_methods": (list,), "batch": (int,), "selection": (str, _NONE), "layout": (str,), "io": (str,),
    "deployment_target": (str, _NONE), "quantization": (dict, _NONE),
    "class_names": (list,), "class_ids": (list,), "parity": (dict, _NONE), "versions": (dict,),
}  # fmt: skip


@dataclass(frozen=True)
class Artifact:
    """A model whose manifest has been read and whose size and checksum agree with it."""

    path: Path
    manifest: Manifest

    @property
    def manifest_path(self) -> Path:
        """Where the manifest stands: ``NAME.json`` beside ``NAME.pte``."""
        return manifest_path_of(self.path)


def manifest_path_of(path: Path) -> Path:
    """``NAME.json`` for ``NAME.pte``."""
    return path.with_suffix(".json")


def open_artifact(path: Path) -> Artifact:
    """Read the manifest of a model file and check the file against it.

    Corrupt model files are not caught by the runtimes: a flipped bit in the weights silently changes
    results, one in the program can end the process. So nothing is loaded whose checksum is not the
    manifest's.

    Raises:
        InputError: the file or its manifest is missing, damaged, or they do not belong together.
    """
    if not path.exists():
        raise InputError(f"{path}: no such model file; `tofe-edge convert` makes one")
    if path.is_dir() != (path.suffix == PACKAGE_SUFFIX):
        raise InputError(f"{path}: only a {PACKAGE_SUFFIX} model is a folder; convert the model again")
    manifest_path = manifest_path_of(path)
    if not manifest_path.is_file():
        raise InputError(
            f"{path}: its manifest {manifest_path.name} is missing; copy it along or convert the model again"
        )
    try:
        document = json.loads(manifest_path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{manifest_path}: cannot be read as JSON ({error}); convert the model again") from error
    try:
        manifest = Manifest.from_json(document)
    except InputError as error:
        raise InputError(f"{manifest_path}: {error}") from error
    if find_target(manifest.target).is_folder != path.is_dir():
        raise InputError(f"{path}: its manifest is of a model for {manifest.target}; convert the model again")
    size = size_of(path)
    if size != manifest.size_bytes:
        raise InputError(
            f"{path}: has {size} bytes where its manifest says {manifest.size_bytes}; it is cut short or the manifest is stale: "
            "convert the model again"
        )
    if fingerprint_of(path).sha256 != manifest.sha256:
        raise InputError(
            f"{path}: its checksum is not the manifest's; it is damaged or the manifest is stale: convert the model again"
        )
    return Artifact(path, manifest)


def write_manifest(path: Path, manifest: Manifest) -> Artifact:
    """Write the manifest of the model file at ``path``. Raises :class:`InputError` where it cannot be written."""
    write_json(manifest_path_of(path), manifest.to_json())
    return Artifact(path, manifest)


def with_parity(manifest: Manifest, parity: dict[str, Any]) -> Manifest:
    """The manifest with a parity result filled in."""
    return replace(manifest, parity=parity)

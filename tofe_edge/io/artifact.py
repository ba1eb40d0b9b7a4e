"""The artifact: an exported model and its manifest, ``NAME.pte`` or ``NAME.mlpackage`` (a folder) and ``NAME.json``."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, Strict

from tofe_edge.errors import InputError, naming
from tofe_edge.io.documents import (
    FORBID,
    Count,
    Flag,
    Int,
    Number,
    Text,
    one_of,
    read_json,
    signed,
    validate,
    verified,
    warn_without_digest,
)
from tofe_edge.io.files import fingerprint_of, finish_replacement, size_of, write_json
from tofe_edge.io.preprocessing import Preprocessing
from tofe_edge.io.targets import find_target

SCHEMA = 4
PRECISIONS = ("fp32", "fp16", "int8", "pal6", "pal4")
"""``pal6`` and ``pal4``: weights as 6- or 4-bit numbers of the entries of a palette, one per layer, computed in fp16."""

IOS = ("tensor", "image")
OUTPUTS = ("logits", "embedding", "features")
"""What a model gives: a number per class; the vector that its head reads; or a vector per patch, in raster order."""

MOST_IMAGES = 4096
"""Of one run."""

PACKAGE_SUFFIX = ".mlpackage"

DEFAULT_METHOD = "forward"
"""The method that a program runs unless it is asked for another one."""

ADVICE = "convert the model again"
Gmacs = Annotated[Number, Field(ge=0, lt=1e6)]
"""The limit is far above any net, and far below what code and READMEs could not say."""
Bytes = Annotated[int, Strict(), Field(ge=0, le=2**53)]
"""More than any memory, and a number that JSON of other languages holds exactly."""
Milliseconds = Annotated[Number, Field(gt=0)]


def words_for(output: str) -> str:
    """An output in a sentence: ``logits``, ``an embedding``, ``features``."""
    return "an embedding" if output == "embedding" else output


@dataclass(frozen=True)
class Method:
    """One budget of a program: the same weights with other token counts."""

    __pydantic_config__ = FORBID

    name: Text
    token_counts: list[Count] | None
    """Kept patch tokens per stage; ``None`` for a dense model."""
    gmacs: Gmacs
    delegates: Count
    fallback_ops: dict[Text, Count]
    """Operators that no delegate took, with their numbers."""
    planned_memory_bytes: Bytes | None
    """``None`` if the device plans it when it loads the model."""


@dataclass(frozen=True)
class Manifest:
    """What a program needs to know to feed, trust and explain a model file."""

    __pydantic_config__ = FORBID

    artifact: Text
    """File name of the model, beside the manifest."""
    sha256: Text
    size_bytes: Bytes
    target: Text
    backend: Text
    precision: Annotated[Text, one_of(PRECISIONS)]
    int8_mode: Text | None
    """If precision is int8: ``dynamic`` or ``static`` ranges of activations, or int8 for ``weights`` alone."""
    checkpoint: Text
    checkpoint_sha256: Text
    backbone: Text
    profile: Text | None
    token_counts: list[Count] | None
    """Kept patch tokens per stage; ``None`` for a dense model."""
    stage_blocks: list[Count]
    """Transformer blocks per stage, those before the first selection first."""
    patch_tokens: Count
    gmacs: Gmacs
    delegates: Count
    fallback_ops: dict[Text, Count]
    """Operators that no delegate took, with their numbers."""
    fp32_layers: list[Text]
    """Layers with weights that int8 left in fp32."""
    planned_memory_bytes: Bytes | None
    """``None`` if the device plans it when it loads the model."""
    further_methods: list[Method]
    """Other budgets in the same program, from the largest to the smallest."""
    batch: Annotated[Int, Field(ge=1, le=MOST_IMAGES)]
    """Images of one run."""
    selection: Text | None
    """How tokens are put in order: ``topk`` or ``rank``."""
    layout: Text
    """``tokens_first``: the order of axes that the graph computes in. Earlier versions had another one."""
    io: Annotated[Text, one_of(IOS)]
    """``tensor``: normalised pixels in. ``image``: an image in, and of a classifier a class with probabilities out."""
    deployment_target: Text | None
    """The oldest system that loads a Core ML model, by its name for iOS."""
    quantization: dict[Text, Any] | None
    """What int8 cost on the calibration images, and why layers are in fp32."""
    preprocessing: Annotated[Preprocessing, BeforeValidator(Preprocessing.from_json)]
    class_names: list[Text]
    class_ids: list[Text]
    parity: dict[Text, Any] | None
    versions: dict[Text, Text]
    reproducible: Flag = False
    """Whether 64-bit CPUs of any make compute the same bytes (docs/native.md); the document has this key if it is true."""
    latency: dict[Text, Any] | None = None
    """What one image takes, milliseconds: predicted by the profile's table, measured if it was; there if either is known."""
    output: Annotated[Text, one_of(OUTPUTS)] = "logits"
    """One of :data:`OUTPUTS`; the document has this key, and the next ones, if it is not ``logits``."""
    normalized: Flag = False
    """Whether an embedding has the length 1."""
    output_shape: list[Annotated[Int, Field(ge=1)]] | None = None
    """Of one image: ``[D]`` of an embedding, ``[N, D]`` of features; ``None`` of logits, of which there is one per class."""

    @property
    def classifies(self) -> bool:
        """Whether it gives logits."""
        return self.output == "logits"

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of what it gives for one image."""
        return (len(self.class_names),) if self.output_shape is None else tuple(self.output_shape)

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
        """One budget. Raises :class:`InputError`, listing the names there are, if there is none of this name."""
        method = self.methods.get(name)
        if method is None:
            raise InputError(f"{self.artifact}: has no method {name!r}; it has {', '.join(self.methods)}")
        return method

    def to_json(self) -> dict[str, Any]:
        """The document stored beside the artifact."""
        document = asdict(self)
        document["preprocessing"] = self.preprocessing.to_json()
        if not self.reproducible:
            del document["reproducible"]
        if self.latency is None:
            del document["latency"]
        if self.classifies:
            for key in ("output", "normalized", "output_shape"):
                del document[key]
        return signed(SCHEMA, document)

    @classmethod
    def from_json(cls, document: Any) -> Manifest:
        """Read a manifest document.

        Raises:
            InputError: naming the key that is missing, unknown or has a value that it cannot have; or the digest is wrong.
        """
        manifest = validate(cls, verified(document, SCHEMA, "manifest", ADVICE), "manifest", ADVICE)
        if manifest.latency is not None:
            validate(_Latency, manifest.latency, "manifest key 'latency':", ADVICE)
        _check_output(manifest)
        _check_counts(manifest)
        if any(method.token_counts is None for method in manifest.further_methods):
            raise InputError(f"manifest key 'further_methods' has one without token counts; {ADVICE}")
        if len(manifest.methods) <= len(manifest.further_methods):
            raise InputError(f"manifest key 'further_methods' names a method twice; {ADVICE}")
        return manifest


def _check_counts(manifest: Manifest) -> None:
    """Raise :class:`InputError` if token counts contradict the stages or the patches."""
    for method in manifest.methods.values():
        counts = method.token_counts
        if counts is None:
            continue
        if len(counts) != len(manifest.stage_blocks) - 1 or max(counts, default=0) > manifest.patch_tokens:
            stages, patches = len(manifest.stage_blocks) - 1, manifest.patch_tokens
            raise InputError(
                f"manifest key 'token_counts' {counts} of method {method.name} is not that of {stages} selections of {patches} "
                f"patches; {ADVICE}"
            )


def _check_output(manifest: Manifest) -> None:
    """Raise :class:`InputError` if classes, output and shape contradict each other."""
    if len(manifest.class_names) != len(manifest.class_ids) or (manifest.classifies and not manifest.class_names):
        raise InputError("manifest keys 'class_names' and 'class_ids' must be of equal length and not empty")
    sizes = {"logits": 0, "embedding": 1, "features": 2}
    shape = manifest.output_shape or []
    if len(shape) != sizes[manifest.output] or (len(shape) == 2 and shape[0] != manifest.patch_tokens):
        raise InputError(f"manifest key 'output_shape' is not that of {manifest.output}; {ADVICE}")
    if manifest.normalized and manifest.output != "embedding":
        raise InputError(f"manifest key 'normalized' is for an embedding, not for {manifest.output}; {ADVICE}")


@dataclass(frozen=True)
class _Latency:
    """The keys of a manifest's ``latency``."""

    __pydantic_config__ = FORBID

    predicted_ms: Milliseconds | None
    measured_ms: Milliseconds | None
    measured_p50_ms: Milliseconds | None
    limit_ms: Milliseconds | None
    device: Text | None
    threads: Int
    source: Text | None


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
    finish_replacement(path)
    if not path.exists():
        raise InputError(f"{path}: no such model file; `tofe-edge convert` makes one")
    if path.is_dir() != (path.suffix == PACKAGE_SUFFIX):
        raise InputError(f"{path}: only a {PACKAGE_SUFFIX} model is a folder; convert the model again")
    manifest_path = manifest_path_of(path)
    if not manifest_path.is_file():
        raise InputError(
            f"{path}: its manifest {manifest_path.name} is missing; copy it along or convert the model again"
        )
    document = read_json(manifest_path, ADVICE)
    with naming(manifest_path):
        manifest = Manifest.from_json(document)
        target = find_target(manifest.target)
    if target.is_folder != path.is_dir():
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
    warn_without_digest(document, manifest_path, ADVICE)
    return Artifact(path, manifest)


def write_manifest(path: Path, manifest: Manifest) -> Artifact:
    """Write the manifest of the model file at ``path``. Raises :class:`InputError` if it cannot be written."""
    write_json(manifest_path_of(path), manifest.to_json())
    return Artifact(path, manifest)


def with_parity(manifest: Manifest, parity: dict[str, Any]) -> Manifest:
    """The manifest with a parity result filled in."""
    return replace(manifest, parity=parity)

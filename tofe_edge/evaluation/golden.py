"""Golden vectors, ``NAME.golden/`` beside an artifact: inputs as PNG, and what the artifact made of them where it was made.

Whoever copies an artifact to another machine, or runs it by other code (an app, the native runner), proves with them that
it still computes the same: see :func:`replay`. The format is described in docs/formats.md.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import Field

from tofe_edge.errors import GateError, InputError, require
from tofe_edge.evaluation.parity import NEAR_TIE, Parity
from tofe_edge.evaluation.prediction import Prediction, Predictor, RankedClass, top_classes
from tofe_edge.evaluation.vectors import compare_outputs
from tofe_edge.io.artifact import ADVICE, DEFAULT_METHOD, Artifact, Manifest, Method
from tofe_edge.io.documents import (
    FORBID,
    Flag,
    Int,
    Number,
    Text,
    read_json,
    signed,
    validate,
    verified,
    warn_without_digest,
)
from tofe_edge.io.images import read_image
from tofe_edge.io.inputs import load_photographs
from tofe_edge.io.preprocessing import Preprocessing, denormalize, normalize
from tofe_edge.io.targets import Gates, gates_of

if TYPE_CHECKING:
    from tofe_edge.model.checkpoint import Checkpoint

SCHEMA = 2
SUFFIX = ".golden"
DOCUMENT = "golden.json"

IMAGES = 4
TOKENS = 16
"""Of features so many are stored, evenly over the image: all of 1369 tokens of 384 channels would be 6 MB of text per image."""

_SEED = 2
"""Crops of their own, neither those of the calibration nor those of the check."""

_NUMBERS = re.compile(r"\[\n\s+([-+.0-9e,\s]+?)\s+\]")
"""A list of numbers as ``json.dumps`` indents it. No text matches: line breaks in texts are escaped."""

_MAX_FLOAT32 = float(np.finfo(np.float32).max)
_PROBABILITY_TOLERANCE = 1e-6


@dataclass(frozen=True)
class GoldenVector:
    """One input and what one method made of it."""

    method: str
    file: str
    """Name of the PNG in the folder."""
    png: bytes
    """Its content: RGB, ``image_size`` x ``image_size``."""
    pixels: npt.NDArray[np.uint8]
    """The same decoded: ``(image_size, image_size, 3)``."""
    expected: Prediction
    """The artifact's own. Its margin is 0 where the reference holds a near tie, else not known. Of features the ``tokens``."""
    top5: tuple[RankedClass, ...]
    """Empty if the artifact gives no logits."""
    output: str = "logits"
    """What ``expected`` is, by its name in :data:`tofe_edge.io.artifact.OUTPUTS`."""
    tokens: tuple[int, ...] = ()
    """Of features: the patches whose vectors are stored."""

    @property
    def sha256(self) -> str:
        """Checksum of the PNG."""
        return hashlib.sha256(self.png).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Its entry in ``golden.json``. Nine digits are enough to get every float32 back, read as float or as double."""
        document = {
            "method": self.method,
            "file": self.file,
            "sha256": self.sha256,
            self.output: [float(f"{value:.9g}") for value in self.expected.output.ravel()],
            "kept": [positions.tolist() for positions in self.expected.kept],
            "near_tie": self.expected.margin < NEAR_TIE,
        }
        if self.output == "logits":
            document["top5"] = [{**asdict(one), "probability": float(f"{one.probability:.9g}")} for one in self.top5]
        if self.tokens:
            document["tokens"] = list(self.tokens)
        return document

    def read(self, predicted: Prediction) -> Prediction:
        """Of a prediction what is stored here: of features the ``tokens``."""
        return replace(predicted, output=predicted.output[list(self.tokens)]) if self.tokens else predicted


@dataclass(frozen=True)
class GoldenSet:
    """All vectors of an artifact, every input for every method."""

    artifact_sha256: str
    gates: Gates
    preprocessing: Preprocessing
    vectors: tuple[GoldenVector, ...]

    def of(self, method: str) -> tuple[GoldenVector, ...]:
        """The vectors of one method. Raises :class:`InputError` if there are none."""
        vectors = tuple(vector for vector in self.vectors if vector.method == method)
        if not vectors:
            raise InputError(f"there are no golden vectors of the method {method!r}; convert the model again")
        return vectors

    def content(self) -> dict[str, bytes]:
        """The files of the folder, by name; the same bytes for the same vectors."""
        document = signed(
            SCHEMA,
            {"artifact_sha256": self.artifact_sha256, "vectors": [vector.to_json() for vector in self.vectors]},
        )
        text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
        # A line for each of 1000 logits would make a file that nobody scrolls through.
        text = _NUMBERS.sub(lambda match: f"[{' '.join(match[1].split())}]", text)
        files = {vector.file: vector.png for vector in self.vectors}
        return {**files, DOCUMENT: f"{text}\n".encode("utf-8", "backslashreplace")}


def golden_path_of(path: Path) -> Path:
    """``NAME.golden`` for ``NAME.pte``."""
    return path.with_suffix(SUFFIX)


def make_golden(artifact: Artifact, load: Callable[[str], Predictor], checkpoint: Checkpoint) -> GoldenSet:
    """Run every method of an artifact on ``IMAGES`` seeded crops of the sample photographs.

    Args:
        load: a method of the artifact by its name, ready to run.
        checkpoint: what it was made from; tells which inputs hold a near tie, where that matters (fp32).

    Raises:
        InputError: there are no sample photographs.
        GateError: what it gives is not finite.
        DeviceError: the runtime fails.
    """
    manifest = artifact.manifest
    crops = load_photographs(manifest.preprocessing, _SEED).pixels
    inputs = crops[:: len(crops) // IMAGES][:IMAGES]
    pixels = [denormalize(view, manifest.preprocessing)[0].transpose(1, 2, 0).astype(np.uint8) for view in inputs]
    pngs = [_to_png(one) for one in pixels]
    vectors, tokens = [], tokens_stored(manifest)
    for name, method in manifest.methods.items():
        predictor, ties = load(name), _near_ties(artifact, checkpoint, method, inputs)
        for number, view in enumerate(inputs):
            actual = predictor(view)
            if not np.isfinite(actual.output).all():
                what = "embedding is" if manifest.output == "embedding" else f"{manifest.output} are"
                raise GateError(f"{artifact.path.name}, method {name}: not written, its {what} not finite")
            stored = actual.output[list(tokens)] if tokens else actual.output
            image = (f"{number}.png", pngs[number], pixels[number])
            vectors.append(_vector(manifest, name, image, stored, actual.kept, ties[number]))
    return GoldenSet(manifest.sha256, gates_of(manifest), manifest.preprocessing, tuple(vectors))


def tokens_stored(manifest: Manifest) -> tuple[int, ...]:
    """The patches whose features golden vectors store; none if the artifact gives no features."""
    if manifest.output != "features":
        return ()
    return tuple(range(0, manifest.patch_tokens, math.ceil(manifest.patch_tokens / TOKENS)))


def _best(expected: Prediction, manifest: Manifest) -> tuple[RankedClass, ...]:
    return tuple(top_classes(expected.logits, manifest.class_names)) if manifest.classifies else ()


def replay(golden: GoldenSet, predictor: Predictor, method: str = DEFAULT_METHOD) -> Parity:
    """Run ``predictor`` on the inputs of one method and compare with what is expected, by the precision's gates.

    The gates of :mod:`tofe_edge.evaluation.parity` leave room for another CPU's rounding, which turns close selections in int8. Of the
    shipped net a Cortex-A76 gives 117 dB in fp32 and 22 dB in int8 with 97 % of the last stage's tokens; swapped colours, a
    missing or another normalisation give at most 9 dB, with 74 %.

    Args:
        predictor: runs ``method`` of the artifact, wherever and by whatever code.

    Raises:
        InputError: the set has no such method, or the predictor other numbers of classes or stages.
        DeviceError: the predictor fails.
    """
    vectors = golden.of(method)
    actual = [vector.read(predictor(normalize(vector.pixels, golden.preprocessing)[None])) for vector in vectors]
    return compare_outputs(vectors[0].output, [vector.expected for vector in vectors], actual, None, golden.gates)


def read_golden(path: Path, artifact: Artifact) -> GoldenSet:
    """Read a folder of golden vectors and check all of it against the artifact.

    Raises:
        InputError: it is missing, damaged, of another version, or of another artifact; one line that names the file.
    """
    document, manifest = path / DOCUMENT, artifact.manifest
    if not document.is_file():
        raise InputError(
            f"{path}: there are no golden vectors of {artifact.path.name} (no {DOCUMENT}); copy the folder along, or convert "
            "the model again"
        )
    content = read_json(document, ADVICE)
    try:
        entries = _entries(content, manifest)
    except InputError as error:
        raise InputError(f"{document}: {error}; copy the model's own folder or convert it again") from error
    sums = {entry.file: entry.sha256 for entry in entries}
    size = manifest.preprocessing.image_size
    images = {name: _read_png(path / name, checksum, size) for name, checksum in sums.items()}
    warn_without_digest(content, document, ADVICE)
    vectors = []
    for entry in entries:
        stored = np.array(entry.numbers(manifest.output), np.float32).reshape(_stored_shape(manifest))
        image = (entry.file, *images[entry.file])
        vectors.append(_vector(manifest, entry.method, image, stored, entry.kept, entry.near_tie))
    return GoldenSet(manifest.sha256, gates_of(manifest), manifest.preprocessing, tuple(vectors))


@dataclass(frozen=True)
class _TopClass:
    __pydantic_config__ = FORBID

    index: Int
    name: Text
    probability: Number


_Numbers = list[Annotated[Number, Field(ge=-_MAX_FLOAT32, le=_MAX_FLOAT32)]]

_KEYS = {"logits": {"logits", "top5"}, "embedding": {"embedding"}, "features": {"features", "tokens"}}
"""Of an entry, by output."""


@dataclass(frozen=True)
class _Entry:
    """One of ``vectors`` in the document."""

    __pydantic_config__ = FORBID

    method: Text
    file: Annotated[Text, Field(pattern=r"^[0-9]{1,4}\.png$")]
    sha256: Text
    kept: list[list[Int]]
    near_tie: Flag
    logits: _Numbers | None = None
    top5: list[_TopClass] | None = None
    embedding: _Numbers | None = None
    features: _Numbers | None = None
    tokens: list[Int] | None = None

    def numbers(self, output: str) -> list[float]:
        """What is stored of an output."""
        return getattr(self, output) or []


@dataclass(frozen=True)
class _Document:
    __pydantic_config__ = FORBID

    artifact_sha256: Text
    vectors: Annotated[list[_Entry], Field(min_length=1)]


def _entries(content: Any, manifest: Manifest) -> list[_Entry]:
    """The checked entries of ``golden.json``. Raises :class:`InputError` without the name of the file."""
    document = validate(_Document, verified(content, SCHEMA, "its"), "its")
    require(document.artifact_sha256 == manifest.sha256, f"it is of another model file than {manifest.artifact}")
    entries = document.vectors
    for number, entry in enumerate(entries):
        try:
            _check_entry(entry, manifest)
        except InputError as error:
            raise InputError(f"vector {number}: {error}") from error
    sums = {entry.file: entry.sha256 for entry in entries}
    require(all(sums[one.file] == one.sha256 for one in entries), "vectors give one file different checksums")
    pairs = sorted((entry.method, entry.file) for entry in entries)
    expected = sorted((method, file) for method in manifest.methods for file in sums)
    require(pairs == expected, "it lacks or repeats a method's input")
    return entries


def _check_entry(entry: _Entry, manifest: Manifest) -> None:
    """Check an entry against the model."""
    require(entry.method in manifest.methods, "its method is not one of the model's")
    keys = {key for every in _KEYS.values() for key in every if getattr(entry, key) is not None}
    wanted = _KEYS[manifest.output]
    for key in sorted(wanted ^ keys):
        raise InputError(f"key {key!r} is missing" if key in wanted else f"unknown key {key!r}")
    numbers, size = entry.numbers(manifest.output), math.prod(_stored_shape(manifest))
    require(len(numbers) == size, f"its {manifest.output} are not {size} numbers")
    tokens = list(tokens_stored(manifest))
    require((entry.tokens or []) == tokens, "its tokens are not those that are stored of these patches")
    # It follows from the logits; an app may show it without computing it, so it must be right.
    best = _best(Prediction(np.array(numbers, np.float32), ()), manifest)
    require(len(entry.top5 or []) == len(best), f"top5 must list {len(best)} classes")
    for one, right in zip(entry.top5 or [], best):
        near = abs(one.probability - right.probability) <= _PROBABILITY_TOLERANCE
        require(near and (one.index, one.name) == (right.index, right.name), "top5 is not what its logits say")
    counts = manifest.methods[entry.method].token_counts or []
    require(len(entry.kept) == len(counts), f"kept has not {len(counts)} stages")
    for stage, (positions, count) in enumerate(zip(entry.kept, counts), start=1):
        inside = all(0 <= one < manifest.patch_tokens for one in positions)
        require(
            inside and len(positions) == len(set(positions)) == count,
            f"kept of stage {stage} is not {count} different positions under {manifest.patch_tokens}",
        )


def _stored_shape(manifest: Manifest) -> tuple[int, ...]:
    """Of what is stored of one image."""
    tokens = tokens_stored(manifest)
    return (len(tokens), *manifest.shape[1:]) if tokens else manifest.shape


def _read_png(path: Path, sha256: str, size: int) -> tuple[bytes, npt.NDArray[np.uint8]]:
    if not path.is_file():
        raise InputError(f"{path}: is missing or no file; copy the folder again")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); copy the folder again") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise InputError(f"{path}: its checksum is not that in {DOCUMENT}; it is damaged or swapped: copy it again")
    pixels = np.asarray(read_image(path))
    if pixels.shape != (size, size, 3):
        raise InputError(f"{path}: is not {size} x {size} pixels, which the model takes; convert the model again")
    return content, pixels


def _vector(
    manifest: Manifest,
    method: str,
    image: tuple[str, bytes, npt.NDArray[np.uint8]],
    stored: npt.NDArray[np.float32],
    kept: Sequence[npt.ArrayLike],
    near_tie: bool,
) -> GoldenVector:
    positions = tuple(np.asarray(stage, np.int64) for stage in kept)
    expected = Prediction(stored, positions, (0.0,) if near_tie else ())
    best, tokens = _best(expected, manifest), tokens_stored(manifest)
    return GoldenVector(method, *image, expected, best, manifest.output, tokens)


def _near_ties(
    artifact: Artifact, checkpoint: Checkpoint, method: Method, inputs: Sequence[npt.NDArray[np.float32]]
) -> list[bool]:
    """Whether another CPU may rightly keep another token, per input. Always false if the gates allow for that anyway."""
    if not gates_of(artifact.manifest).skips_near_ties or method.token_counts is None:
        return [False] * len(inputs)
    from tofe_edge.evaluation.reference import load_reference
    from tofe_edge.model.backbones import TokenCounts

    counts, size = TokenCounts(tuple(method.token_counts)), artifact.manifest.preprocessing.image_size
    # On the CPU: the answer must be the same on every machine that converts, with a GPU or without.
    reference = load_reference(checkpoint, "batch", "cpu", counts=counts, image_size=size)
    return [one.margin < NEAR_TIE for one in reference.predict_all(inputs)]


def _to_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    stored = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stored, "PNG", compress_level=9)
    return stored.getvalue()

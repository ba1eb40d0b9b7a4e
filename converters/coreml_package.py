"""The files of a Core ML package, the same bytes for the same model, and what Xcode shows of it."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tofe_edge.errors import InputError
from tofe_edge.runtimes.coreml_checks import IMAGE, LABEL, LOGITS, PROBABILITIES, token_order

NAMESPACE = uuid.UUID("5c0d3a54-8f0e-5f5e-9d8a-2f3f6f0b7b11")
"""Of this project: identifiers follow from the content and are not drawn."""

_MODEL = "com.apple.CoreML/model.mlmodel"
_WEIGHTS = "com.apple.CoreML/weights"

_UNSTABLE = ("com.github.apple.coremltools.conversion_date",)
"""What coremltools notes and differs from day to day."""

PREVIEW = {"com.apple.coreml.model.preview.type": "imageClassifier"}
"""Lets Xcode try a classifier on a photograph."""


@dataclass(frozen=True)
class About:
    """What a package says of itself."""

    title: str
    author: str
    license: str
    version: str
    stages: int
    patch_tokens: int
    """Patches of the image."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """User-defined metadata."""


def describe(spec: Any, about: About, image_size: int) -> None:
    """Fill in author, licence, version and a sentence for every input and output of a specification."""
    metadata = spec.description.metadata
    metadata.shortDescription, metadata.author = about.title, about.author
    metadata.license, metadata.versionString = about.license, about.version
    for key in _UNSTABLE:
        metadata.userDefined.pop(key, None)
    texts = _texts(about, image_size)
    for features in (spec.description, *spec.description.functions):
        if features.predictedFeatureName:
            metadata.userDefined.update(PREVIEW)
        for feature in (*features.input, *features.output):
            feature.shortDescription = texts[feature.name]
    # A feature of a package with several functions is described there.
    metadata.userDefined.update(about.metadata)


def _texts(about: About, image_size: int) -> dict[str, str]:
    return {
        IMAGE: f"The image to classify, RGB, {image_size} x {image_size} pixels",
        LABEL: "The likeliest class",
        PROBABILITIES: "Probability of each class",
        LOGITS: "Scores of the classes before softmax",
        **{
            token_order(stage): (
                f"Selection {stage}: the patches it chose from, best first, by their place in the order of selection {stage - 1}"
                if stage > 1
                else f"Selection 1: the {about.patch_tokens} patches of the image, counted row by row, best first"
            )
            for stage in range(1, about.stages + 1)
        },
    }


def unique_labels(names: Sequence[str], identifiers: Sequence[str]) -> tuple[str, ...]:
    """Class names; those that several classes share (ImageNet has two cranes) with the class identifier behind them.

    Raises:
        InputError: two classes share name and identifier, or the result of another, or a name is empty or not text.
    """
    counts = Counter(names)
    labels = tuple(name if counts[name] == 1 else f"{name} ({key})" for name, key in zip(names, identifiers))
    for label, number in Counter(labels).items():
        check_text(label, "a class name")
        if number > 1 or not label.strip():
            raise InputError(
                f"class {label!r} of the checkpoint is empty or occurs twice; Core ML needs one name per class"
            )
    return labels


def check_text(text: str, what: str) -> None:
    """Raises :class:`InputError` for text that UTF-8 cannot store."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{what}, {text!r}, cannot be stored as UTF-8; use other characters") from error


def package_files(spec: Any, weights: bytes) -> dict[str, bytes]:
    """The files of a ``.mlpackage`` by their path in it."""
    model: bytes = spec.SerializeToString(deterministic=True)
    entries = {
        _identifier(_MODEL, model): {
            "author": "com.apple.CoreML",
            "description": "CoreML Model Specification",
            "name": "model.mlmodel",
            "path": _MODEL,
        },
        _identifier(_WEIGHTS, weights): {
            "author": "com.apple.CoreML",
            "description": "CoreML Model Weights",
            "name": "weights",
            "path": _WEIGHTS,
        },
    }
    manifest = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": entries,
        "rootModelIdentifier": _identifier(_MODEL, model),
    }
    return {
        "Manifest.json": (json.dumps(manifest, indent=4, sort_keys=True) + "\n").encode(),
        f"Data/{_MODEL}": model,
        f"Data/{_WEIGHTS}/weight.bin": weights,
    }


def _identifier(path: str, content: bytes) -> str:
    return str(uuid.uuid5(NAMESPACE, f"{path} {hashlib.sha256(content).hexdigest()}")).upper()

"""Models for the tests of packages, and the tools that some of them need."""

import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from conftest import manifest_for

from tofe_edge.evaluation.golden import golden_path_of, make_golden
from tofe_edge.evaluation.prediction import Prediction, Predictor
from tofe_edge.io.artifact import Artifact, Method, open_artifact, write_manifest
from tofe_edge.io.files import write_content
from tofe_edge.model.checkpoint import Checkpoint
from tofe_edge.packaging.contents import PackagedModel, load_packaged_model
from tofe_edge.packaging.licences import Weights

COUNTS = {"forward": [9, 5, 3], "forward_5_3_2": [5, 3, 2]}
"""Kept tokens of the pretended models' methods."""

KOTLINC_INSTALL = (
    "npm install --prefix build/kotlin kotlin-compiler && "
    "export TOFE_EDGE_KOTLINC=$PWD/build/kotlin/node_modules/kotlin-compiler/bin/kotlinc"
)


def pretend(method: str) -> Predictor:
    """Logits and positions that depend on the image and the method alone."""

    def predict(pixels: npt.NDArray[np.float32]) -> Prediction:
        seed = int.from_bytes(hashlib.sha256(pixels.tobytes() + method.encode()).digest()[:4], "big")
        generator = np.random.default_rng(seed)
        logits = generator.standard_normal(10).astype(np.float32)
        return Prediction(logits, tuple(generator.permutation(16)[:count] for count in COUNTS[method]))

    return predict


def pretend_model(checkpoint: Checkpoint, folder: Path, name: str = "model.pte", **changes: Any) -> Artifact:
    """A model file that is no program, with manifest and golden vectors: all that packaging looks at."""
    path = folder / name
    folder.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"no program")
    manifest = manifest_for(checkpoint, path.name, path.read_bytes())
    other = Method("forward_5_3_2", COUNTS["forward_5_3_2"], 0.001, 4, {}, 0)
    manifest = replace(manifest, precision="int8", further_methods=[other], versions={"executorch": "1.5.1+cpu"})
    write_manifest(path, manifest)
    golden = make_golden(open_artifact(path), pretend, checkpoint)
    write_content(golden_path_of(path), golden.content())
    write_manifest(path, replace(manifest, **changes))
    return open_artifact(path)


def packaged(artifact: Artifact, name: str | None = None, weights: Weights | None = None) -> PackagedModel:
    """The artifact as platforms get it."""
    return load_packaged_model(artifact, weights or Weights(), name)


def need(program: str, install: str) -> str:
    """The path of a program; the test is skipped without it."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"needs {program}: {install}")
    return found


def need_file(path: str, install: str) -> Path:
    """A file that a system package brings; the test is skipped without it."""
    if not Path(path).is_file():
        pytest.skip(f"needs {path}: {install}")
    return Path(path)


def need_kotlinc() -> Path:
    """The Kotlin compiler, from TOFE_EDGE_KOTLINC or PATH; the test is skipped without it, or without Java."""
    need("java", "apt-get install openjdk-17-jdk-headless")
    found = os.environ.get("TOFE_EDGE_KOTLINC") or shutil.which("kotlinc")
    if found is None:
        pytest.skip(f"needs the Kotlin compiler: {KOTLINC_INSTALL}")
    return Path(found)

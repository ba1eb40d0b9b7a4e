"""Models for the tests of packages, and the tools that some of them need."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import need
from golden_files import pretend, pretended_artifact

from tofe_edge.evaluation.golden import golden_path_of, make_golden
from tofe_edge.io.artifact import Artifact, write_manifest
from tofe_edge.io.files import write_content
from tofe_edge.model.checkpoint import Checkpoint
from tofe_edge.packaging.archive import read_zip
from tofe_edge.packaging.contents import PackagedModel, load_packaged_model
from tofe_edge.packaging.licences import Weights

KOTLINC_INSTALL = (
    "npm install --prefix build/kotlin kotlin-compiler && "
    "export TOFE_EDGE_KOTLINC=$PWD/build/kotlin/node_modules/kotlin-compiler/bin/kotlinc"
)


def pretend_model(checkpoint: Checkpoint, folder: Path, name: str = "model.pte", **changes: Any) -> Artifact:
    """A model file that is no program, with manifest and golden vectors: all that packaging looks at."""
    folder.mkdir(parents=True, exist_ok=True)
    artifact = pretended_artifact(checkpoint, folder / name, versions={"executorch": "1.5.1+cpu"})
    write_content(golden_path_of(artifact.path), make_golden(artifact, pretend, checkpoint).content())
    return write_manifest(artifact.path, replace(artifact.manifest, **changes))


def packaged(artifact: Artifact, name: str | None = None, weights: Weights | None = None) -> PackagedModel:
    """The artifact as platforms get it."""
    return load_packaged_model(artifact, weights or Weights(), name)


def unpack_zip(archive: Path, folder: Path) -> Path:
    """The files of an AAR below ``folder``."""
    for name, file in read_zip(archive.read_bytes(), archive.name).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(file.data)
    return folder


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

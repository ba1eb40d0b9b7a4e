"""The native runner on golden vectors: built here, given what Python prepared, compared with what Python computed."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from native_builds import runner

from tofe_edge.errors import DeviceError, InputError
from tofe_edge.evaluation.golden import GoldenSet, make_golden
from tofe_edge.io.artifact import Artifact, open_artifact, write_manifest
from tofe_edge.model.checkpoint import Checkpoint
from tofe_edge.runtimes.loading import load_model
from tofe_edge.runtimes.native_self_test import NativeModel, self_test


@pytest.fixture(scope="module")
def host() -> Path:
    return runner("host").binary


@pytest.fixture(scope="module")
def golden(elastic_artifact: Artifact, tiny_checkpoint: Checkpoint) -> GoldenSet:
    return make_golden(elastic_artifact, lambda name: load_model(elastic_artifact, 1, name), tiny_checkpoint)


def test_every_method_gives_the_same_to_the_bit(host: Path, elastic_artifact: Artifact, golden: GoldenSet) -> None:
    """The artifact takes three images at once."""
    parities = self_test(host, elastic_artifact, golden)
    assert list(parities) == list(elastic_artifact.manifest.methods) and len(parities) == 3
    for parity in parities.values():
        assert parity.passed and parity.images == 4
        assert parity.snr_db == np.inf and parity.kept_overlap == (1.0, 1.0, 1.0)


@pytest.mark.toolchain
def test_an_emulated_arm_passes_by_its_gates(elastic_artifact: Artifact, golden: GoldenSet) -> None:
    arm = runner("aarch64")
    parities = self_test(arm.binary, elastic_artifact, golden, emulator=arm.emulator)
    assert all(parity.passed for parity in parities.values())


def test_swapped_pictures_fail(host: Path, elastic_artifact: Artifact, golden: GoldenSet) -> None:
    # By method, then by picture: each takes that of its neighbour.
    neighbours = [golden.vectors[number ^ 1].pixels for number in range(len(golden.vectors))]
    swapped = tuple(replace(vector, pixels=pixels) for vector, pixels in zip(golden.vectors, neighbours))
    parities = self_test(host, elastic_artifact, replace(golden, vectors=swapped))
    assert not any(parity.passed for parity in parities.values())


def test_another_method_than_stated_is_no_prediction(host: Path, elastic_artifact: Artifact) -> None:
    dense = replace(elastic_artifact.manifest.method("forward"), token_counts=None)
    with pytest.raises(DeviceError, match="gives other outputs than its manifest says"):
        NativeModel(host, elastic_artifact, dense)(np.zeros((1, 3, 64, 64), np.float32))


def test_a_package_of_core_ml_is_refused(elastic_artifact: Artifact, golden: GoldenSet, tmp_path: Path) -> None:
    package = replace(elastic_artifact, manifest=replace(elastic_artifact.manifest, target="coreml"))
    with pytest.raises(InputError, match="is a model for coreml, which the native runner does not run"):
        self_test(tmp_path / "none", package, golden)


def test_a_damaged_program_is_an_error_and_no_verdict(
    host: Path, elastic_artifact: Artifact, golden: GoldenSet, tmp_path: Path
) -> None:
    path, content = tmp_path / "model.pte", b"no program"
    path.write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    write_manifest(path, replace(elastic_artifact.manifest, artifact=path.name, sha256=sha256, size_bytes=len(content)))
    with pytest.raises(InputError, match=r"model\.pte"):
        self_test(host, open_artifact(path), golden)

"""The latency that a manifest keeps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import manifest_for

from tofe_edge.errors import InputError
from tofe_edge.io.artifact import Artifact, open_artifact, write_manifest
from tofe_edge.model.checkpoint import Checkpoint

LATENCY = {
    "predicted_ms": 5.1, "measured_ms": None, "measured_p50_ms": None, "limit_ms": 6, "device": None, "threads": 4,
    "source": "a table",
}  # fmt: skip


@pytest.fixture
def artifact(tmp_path: Path, tiny_checkpoint: Checkpoint) -> Artifact:
    """A model file of arbitrary bytes with its manifest."""
    path = tmp_path / "tiny.pte"
    path.write_bytes(b"a model")
    return write_manifest(path, manifest_for(tiny_checkpoint, path.name, b"a model"))


def change(artifact: Artifact, edit: Callable[[dict[str, Any]], object]) -> None:
    """Edit the manifest beside a model."""
    document = json.loads(artifact.manifest_path.read_text(encoding="utf-8"))
    edit(document)
    artifact.manifest_path.write_text(json.dumps(document), encoding="utf-8")


def test_a_latency_is_kept_where_it_is_known(artifact: Artifact) -> None:
    assert "latency" not in artifact.manifest.to_json()
    change(artifact, lambda document: document.update(latency=LATENCY))
    manifest = open_artifact(artifact.path).manifest
    assert manifest.latency == manifest.to_json()["latency"] == LATENCY


@pytest.mark.parametrize(
    "wrong",
    [
        3,
        {},
        {**LATENCY, "extra": 1},
        {**LATENCY, "predicted_ms": 0},
        {**LATENCY, "measured_ms": "5"},
        {**LATENCY, "limit_ms": float("inf")},
        {**LATENCY, "threads": None},
        {**LATENCY, "device": 3},
    ],
)
def test_a_malformed_latency_is_refused(artifact: Artifact, wrong: object) -> None:
    change(artifact, lambda document: document.update(latency=wrong))
    with pytest.raises(InputError, match=r"tiny\.json: manifest key 'latency' is malformed; convert the model again"):
        open_artifact(artifact.path)

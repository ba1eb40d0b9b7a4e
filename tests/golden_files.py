"""Golden vectors of models that nobody runs, and vectors and programs that were tampered with."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from conftest import manifest_for

from tofe_edge.evaluation.golden import GoldenSet, replay
from tofe_edge.evaluation.parity import Parity
from tofe_edge.evaluation.prediction import Prediction, Predictor
from tofe_edge.io.artifact import Artifact, Method, write_manifest
from tofe_edge.model.checkpoint import Checkpoint

COUNTS = {"forward": [9, 5, 3], "forward_5_3_2": [5, 3, 2]}
"""Kept tokens of the pretended methods."""


def pretend(method: str, gain: float = 1.0) -> Predictor:
    """Logits and positions that depend on the image and the method alone."""

    def predict(pixels: npt.NDArray[np.float32]) -> Prediction:
        seed = int.from_bytes(hashlib.sha256(pixels.tobytes() + method.encode()).digest()[:4], "big")
        generator = np.random.default_rng(seed)
        logits = (gain * generator.standard_normal(10)).astype(np.float32)
        return Prediction(logits, tuple(generator.permutation(16)[:count] for count in COUNTS[method]))

    return predict


def pretended_artifact(checkpoint: Checkpoint, path: Path, **changes: Any) -> Artifact:
    """Two methods in int8 (no reference is asked for gates), and bytes that are no program."""
    path.write_bytes(b"no program")
    other = Method("forward_5_3_2", COUNTS["forward_5_3_2"], 0.001, 4, {}, 0)
    manifest = manifest_for(checkpoint, path.name, b"no program", precision="int8", further_methods=[other])
    return write_manifest(path, replace(manifest, **changes))


def runs(artifact: Artifact, golden: GoldenSet) -> Mapping[str, Parity]:
    """A runtime that computes what the golden vectors of a pretended artifact say."""
    return {name: replay(golden, pretend(name), name) for name in artifact.manifest.methods}


def spoilt_weight(program: bytes) -> bytes:
    """The program with one bit of one weight's highest byte flipped: it is 2^128 times larger. The weight stands among
    64 floats that look like weights, in the file's second half."""
    start = len(program) // 8 * 4
    values = np.frombuffer(program, "<f4", (len(program) - start) // 4, start)
    plausible = (np.abs(values) > 1e-4) & (np.abs(values) < 1)
    together = np.convolve(plausible, np.ones(64), "valid")
    assert together.max() == 64
    position = start + 4 * (int(together.argmax()) + 32)
    spoilt = bytearray(program)
    spoilt[position + 3] ^= 0x40
    return bytes(spoilt)

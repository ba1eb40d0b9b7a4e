"""The self-test of the native runner: the golden vectors of an artifact, prepared in Python, computed without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from runtimes.native_runner import ONE_RUN, run
from tofe_edge.artifact import Artifact, Method
from tofe_edge.errors import DeviceError, InputError
from tofe_edge.golden import GoldenSet, replay
from tofe_edge.parity import Parity
from tofe_edge.prediction import Prediction
from tofe_edge.selections import compose_selections


@dataclass(frozen=True)
class NativeModel:
    """One method of an artifact, every call a process of the runner: a predictor like any other, for checks."""

    binary: Path
    artifact: Artifact
    method: Method
    threads: int = 1
    emulator: tuple[str, ...] = ()
    """Command prefix, as from :func:`runtimes.native_toolchain.aarch64_emulator`."""

    def __call__(self, pixels: npt.NDArray[np.float32]) -> Prediction:
        """Classify a normalised input ``(1, 3, H, W)``; a larger batch is filled with it.

        Raises:
            InputError: the runner refuses the model or the input.
            DeviceError: the runner fails, or gives other outputs than the method has.
        """
        batch = self.artifact.manifest.batch
        filled = np.ascontiguousarray(np.concatenate([pixels] * batch), dtype=np.float32)
        result = run(
            self.binary,
            self.artifact.path,
            filled.tobytes(),
            replace(ONE_RUN, method=self.method.name, threads=self.threads),
            self.emulator,
        )
        logits, *selections = result.outputs
        kept = self.method.token_counts or []
        if logits.shape != (batch, len(self.artifact.manifest.class_names)) or len(selections) != len(kept):
            raise DeviceError(f"{self.artifact.path}: the native runner gives other outputs than its manifest says")
        # Of one image a selection is (K,), of more (B, K).
        orders = [(order if order.ndim == 1 else order[0]).astype(np.int64) for order in selections]
        return Prediction(logits[0].astype(np.float32), tuple(compose_selections(orders, kept)))


def self_test(
    binary: Path, artifact: Artifact, golden: GoldenSet, threads: int = 1, emulator: Sequence[str] = ()
) -> dict[str, Parity]:
    """Replay the golden vectors of every method on the native runner.

    Args:
        binary: what :func:`runtimes.native_build.build` built.

    Returns:
        By method; the runner computes what it should where all have ``passed``.

    Raises:
        InputError: the artifact is no ExecuTorch program, or the runner refuses it.
        DeviceError: the runner cannot be started or fails.
    """
    if artifact.manifest.target != "executorch":
        raise InputError(
            f"{artifact.path}: is a model for {artifact.manifest.target}, which the native runner does not run"
        )
    return {
        name: replay(golden, NativeModel(binary, artifact, method, threads, tuple(emulator)), name)
        for name, method in artifact.manifest.methods.items()
    }

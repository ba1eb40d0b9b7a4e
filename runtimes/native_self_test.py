"""The self-test of the native runner: the golden vectors of an artifact, prepared in Python, computed without it.

The runner also replays them alone (``--self-test``), as it does on a device; :func:`self_test_alone` asks it to.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tofe_edge.errors import DeviceError, InputError
from tofe_edge.evaluation.golden import GoldenSet, replay
from tofe_edge.evaluation.parity import Parity
from tofe_edge.evaluation.prediction import Prediction, compose_selections
from tofe_edge.io.artifact import Artifact, Method
from tofe_edge.io.targets import target_of
from tofe_edge.runtimes.native_runner import ONE_RUN, SELF_TEST_FAILED, as_argument, failure, run


@dataclass(frozen=True)
class NativeModel:
    """One method of an artifact, every call a process of the runner: a predictor like any other, for checks."""

    binary: Path
    artifact: Artifact
    method: Method
    threads: int = 1
    emulator: tuple[str, ...] = ()
    """Command prefix, as from :func:`tofe_edge.runtimes.native_toolchain.aarch64_emulator`."""

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
        binary: what :func:`tofe_edge.runtimes.native_build.build` built.

    Returns:
        By method; the runner computes what it should where all have ``passed``.

    Raises:
        InputError: the artifact is no ExecuTorch program, or the runner refuses it.
        DeviceError: the runner cannot be started or fails.
    """
    if not target_of(artifact.manifest).native_runner:
        raise InputError(
            f"{artifact.path}: is a model for {artifact.manifest.target}, which the native runner does not run"
        )
    return {
        name: replay(golden, NativeModel(binary, artifact, method, threads, tuple(emulator)), name)
        for name, method in artifact.manifest.methods.items()
    }


@dataclass(frozen=True)
class MethodVerdict:
    """What the runner found of one method; figures as in :class:`tofe_edge.evaluation.parity.Parity`."""

    method: str
    passed: bool
    images: int
    snr_db: float | None
    """``None``: the logits are those of the vectors to the bit, or not finite; ``passed`` tells which."""
    kept_overlap: tuple[float, ...]
    failures: tuple[str, ...]


def self_test_alone(
    binary: Path, model: Path, golden: Path, emulator: Sequence[str] = (), *, threads: int = 1, timeout_s: float = 600.0
) -> tuple[MethodVerdict, ...]:
    """Let the runner read manifest, images and golden vectors itself and replay them, as it does where there is no Python.

    Args:
        model: with its manifest beside it.
        golden: folder of its golden vectors.

    Returns:
        One verdict a method; the runner computes what it should where all have ``passed``.

    Raises:
        InputError: the model, its manifest or the vectors are missing or damaged, or the runner was built without the
            headers for them; the runner's own line.
        DeviceError: the runner cannot be started, fails or takes too long.
    """
    words = [as_argument(str(model)), "--self-test", str(golden), "--threads", str(threads)]
    try:
        done = subprocess.run(
            [*emulator, str(binary), *words], capture_output=True, text=True, errors="replace", timeout=timeout_s
        )
    except (OSError, ValueError) as error:
        raise DeviceError(f"{binary}: cannot be started ({error}); build it again") from error
    except subprocess.TimeoutExpired as error:
        raise DeviceError(f"{model}: its self-test took more than {timeout_s:g} s; give it more threads") from error
    if done.returncode not in (0, SELF_TEST_FAILED):
        raise failure(str(binary), str(model), done.returncode, done.stderr)
    try:
        return tuple(
            MethodVerdict(
                method=str(one["method"]),
                passed=bool(one["passed"]),
                images=int(one["images"]),
                snr_db=None if one["snr_db"] is None else float(one["snr_db"]),
                kept_overlap=tuple(float(share) for share in one["kept_overlap"]),
                failures=tuple(str(text) for text in one["failures"]),
            )
            for one in json.loads(done.stdout)["methods"]
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DeviceError(f"{binary}: its verdict cannot be read ({error}); build it again") from error

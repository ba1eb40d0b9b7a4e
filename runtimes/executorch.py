"""Running an ExecuTorch artifact on this machine."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from runtimes.native_output import swallow_native_stderr
from tofe_edge.artifact import Artifact
from tofe_edge.errors import DeviceError, InputError
from tofe_edge.prediction import Prediction
from tofe_edge.selections import compose_selections

_MAGIC = slice(4, 8)
_MAGIC_BYTES = b"ET12"


@dataclass(frozen=True)
class ExecuTorchModel:
    """A loaded artifact. Calling it with an input ``(1, 3, H, W)`` float32 gives a :class:`Prediction`."""

    artifact: Artifact
    threads: int
    load_ms: float
    _method: Any

    def __call__(self, pixels: npt.NDArray[np.float32]) -> Prediction:
        outputs = self.execute(torch.from_numpy(_checked(pixels, self.artifact)))
        kept = self.artifact.manifest.token_counts or []
        selections = [output.numpy() for output in outputs[1:]]
        return Prediction(outputs[0].numpy()[0].copy(), tuple(compose_selections(selections, kept)))

    def execute(self, pixels: torch.Tensor) -> Any:
        """Run once and return the raw output tensors.

        Raises:
            DeviceError: ExecuTorch reports an error.
        """
        try:
            return self._method.execute([pixels])
        except RuntimeError as error:
            raise DeviceError(f"{self.artifact.path}: ExecuTorch failed to run it ({first_line(error)})") from error


def load(artifact: Artifact, threads: int) -> ExecuTorchModel:
    """Load a checked artifact with ``threads`` threads.

    Raises:
        InputError: the file is no ExecuTorch program, or ``threads`` is not positive.
        DeviceError: ExecuTorch cannot load it.
    """
    check_program(artifact)
    set_threads(threads)
    begun = time.perf_counter()
    try:
        with swallow_native_stderr():
            from executorch.runtime import Runtime, Verification

            begun = time.perf_counter()
            program = Runtime.get().load_program(artifact.path, verification=Verification.InternalConsistency)
            method = program.load_method("forward")
    except RuntimeError as error:
        raise DeviceError(f"{artifact.path}: ExecuTorch cannot load it ({first_line(error)})") from error
    if method is None:
        raise DeviceError(f"{artifact.path}: has no method named forward")
    return ExecuTorchModel(artifact, threads, (time.perf_counter() - begun) * 1e3, method)


def check_program(artifact: Artifact) -> None:
    """Refuse a file that is no ExecuTorch program before the runtime sees it.

    Raises:
        InputError: the target in the manifest or the magic bytes are not ExecuTorch's.
    """
    if artifact.manifest.target != "executorch":
        raise InputError(f"{artifact.path}: is a model for {artifact.manifest.target}, which this runtime does not run")
    with artifact.path.open("rb") as handle:
        head = handle.read(8)
    if head[_MAGIC] != _MAGIC_BYTES:
        raise InputError(f"{artifact.path}: is no ExecuTorch program of a known version; convert the model again")


def set_threads(threads: int) -> None:
    """Set the size of ExecuTorch's thread pool; it counts for programs loaded afterwards.

    Raises:
        InputError: not a positive number.
    """
    if threads < 1:
        raise InputError(f"threads must be at least 1, not {threads}")
    with swallow_native_stderr():
        from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool

        _unsafe_reset_threadpool(threads)


def _checked(pixels: npt.NDArray[np.float32], artifact: Artifact) -> npt.NDArray[np.float32]:
    size = artifact.manifest.preprocessing.image_size
    if pixels.shape != (1, 3, size, size) or pixels.dtype != np.float32:
        raise InputError(f"{artifact.path}: takes float32 (1, 3, {size}, {size}), not {pixels.dtype} {pixels.shape}")
    # Strided inputs are read as if they were dense: silently wrong results (pytorch/executorch#18562).
    return np.ascontiguousarray(pixels)


def first_line(error: Exception) -> str:
    """What a library's error says first, cut to a readable length; its type where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]

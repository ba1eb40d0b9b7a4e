"""Running an ExecuTorch artifact on this machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tofe_edge.errors import DeviceError, InputError, first_line, require
from tofe_edge.evaluation.prediction import Prediction
from tofe_edge.io.artifact import DEFAULT_METHOD, Artifact, Method
from tofe_edge.io.quiet import swallow_native_stderr
from tofe_edge.io.targets import target_of
from tofe_edge.runtimes import interface
from tofe_edge.runtimes.timing import MOST_THREADS

_MAGIC = slice(4, 8)
_MAGIC_BYTES = b"ET12"
_FLOAT32 = 6
"""ExecuTorch's number of the type."""


@dataclass(frozen=True)
class ExecuTorchModel:
    """A loaded method of an artifact. Calling it with an input ``(1, 3, H, W)`` float32 gives a :class:`Prediction`."""

    artifact: Artifact
    threads: int
    load_ms: float
    method: Method
    _method: Any

    def __call__(self, pixels: npt.NDArray[np.float32]) -> Prediction:
        return self.predict([pixels])[0]

    def predict(self, images: Sequence[npt.NDArray[np.float32]]) -> list[Prediction]:
        """Classify at most a batch of inputs, each ``(1, 3, H, W)``; a short batch is filled with its last image.

        Raises:
            InputError: there are none, or more than a batch, or an input has the wrong shape.
            DeviceError: ExecuTorch reports an error.
        """
        filled = interface.batch_of(self.artifact, images)
        output, *selections = [one.numpy() for one in self.execute(torch.from_numpy(filled))]
        return interface.predictions_of(self.method, output, selections, len(images))

    def execute(self, pixels: torch.Tensor) -> Any:
        """Run once on a whole batch ``(B, 3, H, W)`` and return the raw output tensors.

        Raises:
            DeviceError: ExecuTorch reports an error.
        """
        try:
            return self._method.execute([pixels])
        except RuntimeError as error:
            raise DeviceError(f"{self.artifact.path}: ExecuTorch failed to run it ({first_line(error)})") from error


def load(artifact: Artifact, threads: int, method: str = DEFAULT_METHOD) -> ExecuTorchModel:
    """Load one method of a checked artifact with ``threads`` threads.

    Raises:
        InputError: the file is not an ExecuTorch program, it has no such method or contradicts its manifest, or ``threads`` is
            not positive.
        DeviceError: ExecuTorch cannot load it.
    """
    return load_methods(artifact, threads, [method])[method]


def load_methods(artifact: Artifact, threads: int, names: Sequence[str]) -> dict[str, ExecuTorchModel]:
    """Load several methods of one artifact; the program, and what they share of it, is in memory once.

    Raises:
        As :func:`load`.
    """
    methods = {name: artifact.manifest.method(name) for name in names}
    check_program(artifact)
    set_threads(threads)
    try:
        with swallow_native_stderr():
            from executorch.runtime import Runtime, Verification

            begun = time.perf_counter()
            program = Runtime.get().load_program(artifact.path, verification=Verification.InternalConsistency)
            loaded = {}
            for name, method in methods.items():
                if name not in program.method_names:
                    raise DeviceError(f"{artifact.path}: lacks the method {name} of its manifest; convert it again")
                native = program.load_method(name)
                loaded[name] = ExecuTorchModel(artifact, threads, (time.perf_counter() - begun) * 1e3, method, native)
                check_interface(artifact, method, native.metadata)
                begun = time.perf_counter()
    except RuntimeError as error:
        raise DeviceError(f"{artifact.path}: ExecuTorch cannot load it ({first_line(error)})") from error
    return loaded


def check_program(artifact: Artifact) -> None:
    """Refuse a file that is not an ExecuTorch program before the runtime sees it.

    Raises:
        InputError: the target in the manifest or the magic bytes are not ExecuTorch's.
    """
    if not target_of(artifact.manifest).native_runner:
        raise InputError(f"{artifact.path}: is a model for {artifact.manifest.target}, which this runtime does not run")
    with artifact.path.open("rb") as handle:
        head = handle.read(8)
    if head[_MAGIC] != _MAGIC_BYTES:
        raise InputError(f"{artifact.path}: is not an ExecuTorch program of a known version; convert the model again")


def check_interface(artifact: Artifact, method: Method, metadata: Any) -> None:
    """As :func:`tofe_edge.runtimes.interface.check_interface`, from ExecuTorch's description of a method."""
    inputs = [_meta(metadata.input_tensor_meta(number)) for number in range(metadata.num_inputs())]
    outputs = [_meta(metadata.output_tensor_meta(number)) for number in range(metadata.num_outputs())]
    interface.check_interface(artifact, method, inputs, outputs)


def _meta(tensor: Any) -> interface.TensorMeta:
    return interface.TensorMeta(tensor.dtype() == _FLOAT32, tuple(tensor.sizes()))


def set_threads(threads: int) -> None:
    """Set the size of ExecuTorch's thread pool; it counts for programs loaded afterwards.

    Raises:
        InputError: there are none, or more than any machine has.
    """
    require(1 <= threads <= MOST_THREADS, f"threads must be 1 to {MOST_THREADS}, not {threads}")
    with swallow_native_stderr():
        from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool

        _unsafe_reset_threadpool(threads)

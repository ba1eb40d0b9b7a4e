"""Running an ONNX file by ONNX Runtime on this machine, by any execution provider that is installed."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tofe_edge.errors import DeviceError, InputError, did_you_mean, first_line, require
from tofe_edge.evaluation.prediction import Prediction
from tofe_edge.io.artifact import DEFAULT_METHOD, Artifact, Method
from tofe_edge.runtimes.bench import constant_noise
from tofe_edge.runtimes.interface import TensorMeta, batch_of, check_interface, predictions_of

CPU = "cpu"

INPUT = "image"
"""The name of the input in our files. Their operators are ``stageN/LAYER/OPERATOR_NUMBER``."""


@dataclass(frozen=True)
class OnnxModel:
    """A loaded file. Calling it with an input ``(1, 3, H, W)`` float32 gives a :class:`Prediction`."""

    artifact: Artifact
    threads: int
    load_ms: float
    method: Method
    provider: str
    _session: Any

    def __call__(self, pixels: npt.NDArray[np.float32]) -> Prediction:
        return self.predict([pixels])[0]

    def predict(self, images: Sequence[npt.NDArray[np.float32]]) -> list[Prediction]:
        """Classify at most a batch of inputs, each ``(1, 3, H, W)``; a short batch is filled with its last image.

        Raises:
            InputError: there are none, or more than a batch, or an input has the wrong shape.
            DeviceError: ONNX Runtime reports an error.
        """
        output, *selections = self.execute(batch_of(self.artifact, images))
        return predictions_of(self.method, output, selections, len(images))

    def execute(self, pixels: npt.NDArray[np.float32]) -> list[npt.NDArray[Any]]:
        """Run once on a whole batch ``(B, 3, H, W)`` and return the raw outputs.

        Raises:
            DeviceError: ONNX Runtime reports an error.
        """
        try:
            outputs: list[npt.NDArray[Any]] = self._session.run(None, {self._session.get_inputs()[0].name: pixels})
        except Exception as error:
            # Its errors have no common type.
            raise DeviceError(f"{self.artifact.path}: ONNX Runtime failed to run it ({first_line(error)})") from error
        return outputs

    def end_profiling(self) -> str:
        """The path of the trace that a session with a trace prefix wrote."""
        path: str = self._session.end_profiling()
        return path


def output_names(output: str, selections: int) -> list[str]:
    """Names of the outputs in our files: what the net gives, then the selection of each stage."""
    return [output, *(f"selection_{stage}" for stage in range(1, selections + 1))]


def need(*modules: str) -> None:
    """Raise :class:`InputError` if one of the packages of the extra ``onnx`` is missing."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    require(not missing, f"ONNX needs {', '.join(missing)}, not installed here; pip install 'tofe-edge[onnx]'")


def providers() -> dict[str, str]:
    """ONNX Runtime's names of the installed execution providers by ours: ``cpu``, ``cuda``, ``tensorrt``."""
    import onnxruntime

    return {provider_name(name): name for name in onnxruntime.get_available_providers()}


def provider_name(theirs: str) -> str:
    """Our name of an execution provider by ONNX Runtime's."""
    return theirs.removesuffix("ExecutionProvider").lower()


def noise_for(artifact: Artifact) -> npt.NDArray[np.float32]:
    """A random input ``(B, 3, H, W)``, always the same."""
    size = artifact.manifest.preprocessing.image_size
    noise: npt.NDArray[np.float32] = constant_noise((artifact.manifest.batch, 3, size, size)).numpy()
    return noise


def load(
    artifact: Artifact,
    threads: int,
    method: str = DEFAULT_METHOD,
    provider: str | None = None,
    trace_prefix: str | None = None,
) -> OnnxModel:
    """Load a checked artifact with ``threads`` threads.

    Args:
        provider: of :func:`providers`; operators that it does not take run on the CPU.
        trace_prefix: path that the name of a trace begins with, if one is to be written.

    Raises:
        InputError: the file contradicts its manifest, ``threads`` is not positive, or the provider is not installed.
        DeviceError: ONNX Runtime cannot load it, or not with the provider.
    """
    chosen = artifact.manifest.method(method)
    require(threads >= 1, f"threads must be at least 1, not {threads}")
    need("onnxruntime")
    import onnxruntime

    known, name = providers(), (provider or CPU).lower()
    if name not in known:
        raise InputError(
            f"--provider {name}: is not in this build of ONNX Runtime, which has {', '.join(known)}{did_you_mean(name, known)}"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # errors
    if trace_prefix is not None:
        options.enable_profiling, options.profile_file_prefix = True, trace_prefix
    begun = time.perf_counter()
    try:
        session = onnxruntime.InferenceSession(
            str(artifact.path), options, providers=list(dict.fromkeys([known[name], known[CPU]]))
        )
    except Exception as error:
        raise DeviceError(f"{artifact.path}: ONNX Runtime cannot load it ({first_line(error)})") from error
    load_ms = (time.perf_counter() - begun) * 1e3
    # A provider whose libraries are missing is left out without an error.
    if known[name] not in session.get_providers():
        raise DeviceError(f"{artifact.path}: the provider {name} does not start here; check its libraries and driver")
    check_interface(
        artifact, chosen, *([_meta(one) for one in side] for side in (session.get_inputs(), session.get_outputs()))
    )
    return OnnxModel(artifact, threads, load_ms, chosen, name, session)


def _meta(tensor: Any) -> TensorMeta:
    return TensorMeta(tensor.type == "tensor(float)", tuple(tensor.shape))

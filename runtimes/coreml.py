"""Running a Core ML package: by Core ML on macOS, elsewhere by the project's own executor of ML Programs."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tofe_edge.errors import DeviceError, InputError
from tofe_edge.evaluation.prediction import Prediction, compose_selections
from tofe_edge.io.artifact import DEFAULT_METHOD, Artifact, Method
from tofe_edge.io.preprocessing import denormalize
from tofe_edge.io.quiet import quiet
from tofe_edge.runtimes.coreml_checks import (
    IMAGE,
    Engine,
    Loaded,
    check_classification,
    check_interface,
    class_labels,
    function_name,
    read_orders,
    read_values,
)

ComputeUnits = Literal["all", "cpu_only", "cpu_and_gpu", "cpu_and_ne"]
COMPUTE_UNITS: tuple[ComputeUnits, ...] = ("all", "cpu_only", "cpu_and_gpu", "cpu_and_ne")

EXECUTOR = "executor"
CORE_ML = "Core ML"


@dataclass(frozen=True)
class CoreMlModel:
    """A loaded method of a package. Calling it with a normalised input ``(1, 3, H, W)`` gives a :class:`Prediction`."""

    artifact: Artifact
    load_ms: float
    method: Method
    engine: str
    """``Core ML``, or ``executor`` for the project's own."""
    _loaded: Loaded

    def __call__(self, pixels: npt.NDArray[np.float32]) -> Prediction:
        return self.predict([pixels])[0]

    def predict(self, images: Sequence[npt.NDArray[np.float32]]) -> list[Prediction]:
        """Classify normalised inputs ``(1, 3, H, W)``, one after the other.

        Raises:
            InputError: an input has the wrong shape, or outputs contradict each other.
            DeviceError: Core ML reports an error.
        """
        return [self._predict(pixels) for pixels in images]

    def _predict(self, pixels: npt.NDArray[np.float32]) -> Prediction:
        manifest = self.artifact.manifest
        size = manifest.preprocessing.image_size
        if pixels.shape != (1, 3, size, size) or pixels.dtype != np.float32:
            raise InputError(
                f"{self.artifact.path}: takes float32 (1, 3, {size}, {size}), not {pixels.dtype} {pixels.shape}"
            )
        if manifest.io == "image":
            pixels = denormalize(pixels, manifest.preprocessing)
        outputs = self._loaded.engine(np.ascontiguousarray(pixels))
        orders = read_orders(self.artifact, self.method, outputs)
        values = read_values(self.artifact, outputs)
        if manifest.io == "image" and manifest.classifies:
            check_classification(self.artifact, self._loaded.labels or (), values, outputs)
        return Prediction(values, tuple(compose_selections(orders, self.method.token_counts or [])))


def load(
    artifact: Artifact, method: str = DEFAULT_METHOD, compute_units: ComputeUnits = "all", executor: bool | None = None
) -> CoreMlModel:
    """Load one method of a checked package.

    Args:
        compute_units: where Core ML may run it; without effect elsewhere.
        executor: run by the project's own executor; default: if there is no Core ML.

    Raises:
        InputError: the artifact is not a Core ML package, is damaged, has no such method, or is not what its manifest says.
        DeviceError: Core ML cannot load it.
    """
    if artifact.manifest.backend != "coreml":
        raise InputError(f"{artifact.path}: is a model for {artifact.manifest.backend}, not for Core ML")
    chosen = artifact.manifest.method(method)
    by_executor = not has_core_ml() if executor is None else executor
    begun = time.perf_counter()
    loaded = _executor(artifact, method) if by_executor else _core_ml(artifact, method, compute_units)
    load_ms = (time.perf_counter() - begun) * 1e3
    check_interface(artifact, chosen, loaded)
    return CoreMlModel(artifact, load_ms, chosen, EXECUTOR if by_executor else CORE_ML, loaded)


def has_core_ml() -> bool:
    """Whether this machine runs Core ML packages itself."""
    return sys.platform == "darwin"


def _executor(artifact: Artifact, method: str) -> Loaded:
    from tofe_edge.runtimes.mil import load_program, open_package

    program = load_program(open_package(artifact.path), function_name(method))
    labels = class_labels(program.package, program.function)
    return Loaded(lambda pixels: program.run({IMAGE: pixels}), program.function, labels)


def _core_ml(artifact: Artifact, method: str, compute_units: ComputeUnits) -> Loaded:
    from tofe_edge.runtimes.mil import open_package

    engine = _core_ml_engine(artifact, load_core_ml(artifact, method, compute_units))
    package = open_package(artifact.path)
    function = package.functions.get(function_name(method))
    if function is None:
        raise InputError(f"{artifact.path}: has no function {function_name(method)!r}; convert the model again")
    return Loaded(engine, function, class_labels(package, function))


def _core_ml_engine(artifact: Artifact, model: Any) -> Engine:
    as_image = artifact.manifest.io == "image"

    def run(pixels: npt.NDArray[np.float32]) -> Mapping[str, Any]:
        from PIL import Image

        image = Image.fromarray(pixels[0].transpose(1, 2, 0).astype(np.uint8)) if as_image else pixels
        try:
            outputs: Mapping[str, Any] = model.predict({IMAGE: image})
        except Exception as error:
            # What Core ML raises has no type of its own.
            raise DeviceError(f"{artifact.path}: Core ML failed to run it ({error})") from error
        return outputs

    return run


def load_core_ml(artifact: Artifact, method: str, compute_units: ComputeUnits) -> Any:
    """coremltools' model of one method, compiled for this Mac.

    Raises:
        DeviceError: this is not a Mac, or Core ML cannot load it.
    """
    if not has_core_ml():
        raise DeviceError(f"{artifact.path}: Core ML runs on macOS alone; `tofe-edge parity` checks the package here")
    with quiet():
        import coremltools as ct

        name = function_name(method) if artifact.manifest.further_methods else None
        units = getattr(ct.ComputeUnit, compute_units.upper())
        try:
            return ct.models.MLModel(str(artifact.path), compute_units=units, function_name=name)
        except Exception as error:
            raise DeviceError(f"{artifact.path}: Core ML cannot load it ({error})") from error

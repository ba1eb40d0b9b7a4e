"""Core ML on this Mac: how long a package takes, and where Core ML means to run each of its operators.

Calls coremltools' documented interface alone, because it is tested against a stub of it: none of the test machines is a Mac.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tofe_edge.errors import DeviceError, InputError
from tofe_edge.io.artifact import Artifact
from tofe_edge.io.quiet import quiet
from tofe_edge.runtimes.coreml import ComputeUnits, load_core_ml
from tofe_edge.runtimes.coreml_checks import IMAGE, function_name
from tofe_edge.runtimes.latency import Latency, measure

_CONSTANTS = "const"
"""``const`` and ``constexpr_*`` are not run."""

UNKNOWN = "unknown"
"""Core ML does not say where."""


@dataclass(frozen=True)
class Placement:
    """Operators of one type that Core ML means to run on one device.

    Attributes:
        operator: such as ``linear``.
        device: ``cpu``, ``gpu``, ``ne`` or ``unknown``.
        count: how many.
        share: of the work of a run, as Core ML estimates it, 0..1.
    """

    operator: str
    device: str
    count: int
    share: float


@dataclass(frozen=True)
class OnDevice:
    """One method of a package, loaded for one choice of compute units.

    Attributes:
        load_ms: compiling and loading; Core ML keeps what it compiled, so that a second time is faster.
        latency: of whole predictions by coremltools, which copies the input and makes a dictionary of the outputs.
    """

    compute_units: ComputeUnits
    load_ms: float
    latency: Latency
    _model: Any
    _function: str

    def placement(self) -> tuple[Placement, ...]:
        """Where Core ML means to run the operators, largest share of the work first. Needs macOS 14.4.

        Raises:
            DeviceError: Core ML makes no plan.
        """
        try:
            with quiet():
                return _placement(self._model.get_compiled_model_path(), self.compute_units, self._function)
        except DeviceError:
            raise
        except Exception as error:
            # What Core ML raises has no type of its own.
            raise DeviceError(f"Core ML gives no compute plan; it needs macOS 14.4 ({error})") from error


def time_on_device(artifact: Artifact, method: str, compute_units: ComputeUnits, runs: int) -> OnDevice:
    """Load one method of a checked package and time predictions, one image per run.

    Raises:
        InputError: the artifact is not a Core ML package, or has no such method.
        DeviceError: this is not a Mac, or Core ML cannot load or run it.
    """
    if artifact.manifest.target != "coreml":
        raise InputError(f"{artifact.path}: is a model for {artifact.manifest.target}, not a Core ML package")
    artifact.manifest.method(method)
    begun = time.perf_counter()
    model = load_core_ml(artifact, method, compute_units)
    load_ms = (time.perf_counter() - begun) * 1e3
    latency = measure(_prediction(artifact, model), runs)
    return OnDevice(compute_units, load_ms, latency, model, function_name(method))


def _prediction(artifact: Artifact, model: Any) -> Callable[[], None]:
    inputs = {IMAGE: _noise(artifact)}

    def run() -> None:
        try:
            model.predict(inputs)
        except Exception as error:
            raise DeviceError(f"{artifact.path}: Core ML failed to run it ({error})") from error

    return run


def _noise(artifact: Artifact) -> Any:
    """An input of seeded noise."""
    from PIL import Image

    size = artifact.manifest.preprocessing.image_size
    generator = np.random.default_rng(0)
    if artifact.manifest.io == "image":
        return Image.fromarray(generator.integers(0, 256, (size, size, 3), np.uint8))
    return generator.standard_normal((1, 3, size, size), np.float32)


def _placement(compiled: str, compute_units: ComputeUnits, function: str) -> tuple[Placement, ...]:
    import coremltools as ct
    from coremltools.models.compute_plan import MLComputePlan

    plan = MLComputePlan.load_from_path(path=compiled, compute_units=getattr(ct.ComputeUnit, compute_units.upper()))
    program = plan.model_structure.program
    if program is None or function not in program.functions:
        raise DeviceError(f"Core ML's compute plan has no function {function!r}; convert the model again")
    counts: dict[tuple[str, str], int] = defaultdict(int)
    shares: dict[tuple[str, str], float] = defaultdict(float)
    for operation in program.functions[function].block.operations:
        kind = str(operation.operator_name).rpartition(".")[2]  # ios17.linear
        if kind.startswith(_CONSTANTS):
            continue
        usage = plan.get_compute_device_usage_for_mlprogram_operation(operation)
        cost = plan.get_estimated_cost_for_mlprogram_operation(operation)
        key = kind, UNKNOWN if usage is None else _device_name(usage.preferred_compute_device)
        counts[key] += 1
        shares[key] += 0.0 if cost is None else float(cost.weight)
    if all(device == UNKNOWN for _, device in counts):
        raise DeviceError(
            f"Core ML's compute plan says nothing of function {function!r}; coremltools asks for the default one alone, "
            "docs/coreml.md shows how to ask for others"
        )
    placements = [Placement(kind, device, counts[kind, device], shares[kind, device]) for kind, device in counts]
    return tuple(sorted(placements, key=lambda part: (-part.share, part.operator, part.device)))


def _device_name(device: Any) -> str:
    from coremltools.models import compute_device

    names = {
        compute_device.MLCPUComputeDevice: "cpu",
        compute_device.MLGPUComputeDevice: "gpu",
        compute_device.MLNeuralEngineComputeDevice: "ne",
    }
    return next((name for kind, name in names.items() if isinstance(device, kind)), UNKNOWN)

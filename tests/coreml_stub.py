"""A stub of the part of coremltools that works on a Mac alone; ``test_coreml_device.py`` holds it to the real interface.

What it predicts the project's executor computes, of the picture or tensor that Core ML would be given.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tofe_edge.io.quiet import quiet
from tofe_edge.runtimes import coreml, mil

with quiet():
    import coremltools as ct
    from coremltools.models import compute_device, compute_plan

COMPILED = "/private/compiled.mlmodelc"


class Units(enum.Enum):
    ALL = 1
    CPU_AND_GPU = 2
    CPU_ONLY = 3
    CPU_AND_NE = 4


class Cpu:
    pass


class Gpu:
    pass


class Engine:
    pass


@dataclass(frozen=True)
class Usage:
    preferred_compute_device: Any
    supported_compute_devices: Any = ()


@dataclass(frozen=True)
class Cost:
    weight: float


@dataclass(frozen=True)
class Operation:
    inputs: Any
    operator_name: str
    outputs: Any
    blocks: Any
    answer: tuple[Any, float | None]


@dataclass(frozen=True)
class Block:
    inputs: Any
    operations: list[Operation]
    output_names: Any


@dataclass(frozen=True)
class Function:
    inputs: Any
    block: Block


@dataclass(frozen=True)
class Program:
    functions: Mapping[str, Function]


@dataclass(frozen=True)
class Structure:
    neuralnetwork: Any
    program: Program | None
    pipeline: Any


def function(*operations: tuple[str, Any, float | None]) -> Function:
    listed = [Operation({}, name, [], [], (device, weight)) for name, device, weight in operations]
    return Function([], Block([], listed, []))


FUNCTIONS = {
    "main": function(
        ("const", None, None),
        ("ios17.constexpr_affine_dequantize", None, None),
        ("ios17.linear", Engine(), 0.5),
        ("ios17.linear", Engine(), 0.25),
        ("ios17.linear", Gpu(), 0.125),
        ("ios16.topk", Cpu(), 0.0625),
        ("ios17.gather", Cpu(), None),
        ("classify", None, None),
    ),
    "forward_2_1_1": function(("ios18.linear", Engine(), 1.0)),
}


class Plan:
    structure = Structure(None, Program(FUNCTIONS), None)
    asked: tuple[str, Units] | None = None

    @classmethod
    def load_from_path(cls, path: str, compute_units: Units = Units.ALL) -> Plan:
        Plan.asked = (path, compute_units)
        return cls()

    @property
    def model_structure(self) -> Structure:
        return self.structure

    def get_compute_device_usage_for_mlprogram_operation(self, operation: Operation) -> Usage | None:
        device, _ = operation.answer
        return None if device is None else Usage(device)

    def get_estimated_cost_for_mlprogram_operation(self, operation: Operation) -> Cost | None:
        _, weight = operation.answer
        return None if weight is None else Cost(weight)


class Model:
    made: dict[str, Any]
    given: list[Any]

    def __init__(
        self,
        model: str,
        is_temp_package: bool = False,
        mil_program: Any = None,
        skip_model_load: bool = False,
        compute_units: Units = Units.ALL,
        weights_dir: str | None = None,
        function_name: str | None = None,
        optimization_hints: Any = None,
    ) -> None:
        Model.made = {"model": model, "compute_units": compute_units, "function_name": function_name}
        Model.given = []
        self.path, self.function_name = Path(model), function_name

    @functools.cached_property
    def program(self) -> mil.Program:
        return mil.load_program(mil.open_package(self.path), self.function_name)

    def predict(self, data: dict[str, Any], state: Any = None) -> dict[str, Any]:
        """What the package predicts; nothing where there is none, for those who only count."""
        (given,) = data.values()
        self.given.append(given)
        if not self.path.is_dir():
            return {}
        wanted = Image.Image if self.program.function.inputs[0].kind == "image" else np.ndarray
        assert isinstance(given, wanted), "what coremltools takes for this input"
        return dict(self.program.run({name: np.asarray(value) for name, value in data.items()}))

    def get_compiled_model_path(self) -> str:
        return COMPILED


def pretend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this a Mac, as far as the program can tell."""
    monkeypatch.setattr(coreml, "has_core_ml", lambda: True)
    monkeypatch.setattr(ct, "ComputeUnit", Units)
    monkeypatch.setattr(ct.models, "MLModel", Model)
    monkeypatch.setattr(compute_plan, "MLComputePlan", Plan)
    for name, device in (("CPU", Cpu), ("GPU", Gpu), ("NeuralEngine", Engine)):
        monkeypatch.setattr(compute_device, f"ML{name}ComputeDevice", device)

"""Running one function of a package."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from tofe_edge.errors import InputError, quoted
from tofe_edge.runtimes.mil.loading import Operation, Step, load_steps
from tofe_edge.runtimes.mil.package import Feature, Function, MlPackage, function_block
from tofe_edge.runtimes.mil.values import BY_NAME, hold

Output = np.ndarray | str | int | dict[str, float] | dict[int, float]
"""A tensor in its declared type, a class label, or label -> score; labels are numbers if the package has numbers."""


@dataclass(frozen=True)
class Program:
    """A loaded function.

    Attributes:
        package, function: where it comes from.
        compute: ``declared``, or ``fp32`` if declared half precision is ignored.
        operations: all its operations, constants included, in the order of the file.
    """

    package: MlPackage
    function: Function
    compute: Literal["declared", "fp32"]
    operations: tuple[Operation, ...] = field(repr=False)
    _steps: tuple[Step, ...] = field(repr=False)
    _constants: Mapping[str, Any] = field(repr=False)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, Output]:
        """Return the outputs for one set of inputs.

        Args:
            inputs: by name, in the declared shape and type. An image is ``(1, 3, H, W)`` with values 0..255,
                or uint8 ``(H, W, 3)``, in RGB.

        Raises:
            InputError: an input is not what the program takes, or the program is wrong: a result is not what it
                declares, or cannot be computed.
        """
        names = [feature.name for feature in self.function.outputs]
        values = self._execute(inputs, names)
        return {name: self._exported(name, values[name]) for name in names}

    def values(self, inputs: Mapping[str, np.ndarray], names: Collection[str]) -> dict[str, np.ndarray]:
        """Return tensors by name, constants and intermediate ones too, in their declared types.

        Raises:
            InputError: for the reasons of :meth:`run`, or there is no such tensor.
        """
        unknown = [name for name in names if self._declared.get(name, "dictionary") in ("dictionary", "string")]
        if unknown:
            raise InputError(f"{self._where}: has no tensor {quoted(unknown[0])}; Program.operations has the names")
        values = self._execute(inputs, names)
        return {name: np.asarray(self._exported(name, values[name])) for name in names}

    @property
    def _where(self) -> str:
        return f"{self.package.path}: function {quoted(self.function.name)}"

    def _execute(self, inputs: Mapping[str, np.ndarray], needed: Collection[str]) -> dict[str, Any]:
        """Run the steps until all ``needed`` values are there; all other values are freed as soon as possible."""
        where, kept = self._where, frozenset(needed)
        values = dict(self._constants)
        values.update(_read_inputs(self.function.inputs, inputs, self.compute == "declared", where))
        open_names = set(kept - values.keys())
        with torch.no_grad():
            for step in self._steps:
                if not open_names:
                    break
                for result, value in zip(step.operation.outputs, step.compute(values, where)):
                    values[result.name] = value
                    open_names.discard(result.name)
                for name in step.last:
                    if name not in kept:
                        del values[name]
        return values

    def _exported(self, name: str, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        kind = BY_NAME[self._declared[name]]
        if kind.name == "fp16" and self.compute == "fp32":
            return value.numpy().copy()
        return value.numpy().astype(kind.array)

    @functools.cached_property
    def _declared(self) -> dict[str, str]:
        declared = {feature.name: feature.dtype for feature in self.function.inputs}
        declared.update({each.name: each.dtype for operation in self.operations for each in operation.outputs})
        return declared


def load_program(
    package: MlPackage, function: str | None = None, *, compute: Literal["declared", "fp32"] = "declared"
) -> Program:
    """Prepare one function of a package; what can be computed without inputs is computed here.

    Every operator is computed in float32 (integers as integers) and its result rounded to the type that the program
    declares.

    Args:
        function: its name; the package's default if None.
        compute: ``fp32`` ignores declared half precision, of intermediate values as of inputs and outputs; constants
            stay the numbers that they are.

    Raises:
        InputError: there is no such function, an operator is unknown, or the program contradicts itself.
    """
    name = package.default_function if function is None else function
    signature = package.functions.get(name)
    if signature is None:
        raise InputError(f"{package.path}: has no function {quoted(name)}, only {quoted(sorted(package.functions))}")
    if compute not in ("declared", "fp32"):
        raise InputError(f"compute is 'declared' or 'fp32', not {quoted(compute)}")
    for feature in signature.inputs:
        if -1 in feature.shape or feature.kind not in ("tensor", "image"):
            raise InputError(
                f"{package.path}: input {quoted(feature.name)} has no fixed shape; convert the model for one shape"
            )
    block = function_block(package.spec.mlProgram.functions[name], name, package.path)
    operations, steps, constants = load_steps(package, signature, block, compute == "declared")
    return Program(package, signature, compute, operations, steps, constants)


def _read_inputs(
    features: tuple[Feature, ...], inputs: Mapping[str, np.ndarray], half: bool, where: str
) -> dict[str, torch.Tensor]:
    """Return the inputs as the executor holds them; ``half``: round what is declared fp16.

    Raises:
        InputError: a name, shape or type is not what the program takes.
    """
    by_name = {feature.name: feature for feature in features}
    if set(inputs) != set(by_name):
        raise InputError(
            f"{where}: takes the inputs {', '.join(map(_expected, features)) or 'none'}, not {quoted(sorted(map(str, inputs)))}"
        )
    return {name: _read(feature, inputs[name], half, where) for name, feature in by_name.items()}


def _read(feature: Feature, value: Any, half: bool, where: str) -> torch.Tensor:
    if not isinstance(value, np.ndarray):
        raise InputError(f"{where}: takes {_expected(feature)} as a numpy array, not {type(value).__name__}")
    array = _pixels(value) if feature.kind == "image" else value
    kind = BY_NAME[feature.dtype]
    # Core ML converts float32 for models with half precision inputs, too.
    fits = array.dtype == kind.array or (kind.name in ("fp16", "fp32") and array.dtype in (np.float16, np.float32))
    if array.shape != feature.shape or not fits:
        raise InputError(f"{where}: takes {_expected(feature)}, not {value.dtype} {value.shape}")
    if feature.kind == "image" and array.size and not (array.min() >= 0 and array.max() <= 255):
        raise InputError(f"{where}: takes {_expected(feature)} with values from 0 to 255; do not normalise it")
    if kind.name == "fp16" and half:
        array = array.astype(np.float16)
    return hold(array, kind)


def _pixels(image: np.ndarray) -> np.ndarray:
    """Return bytes ``(H, W, 3)`` as ``(1, 3, H, W)``, others unchanged."""
    if image.dtype != np.uint8:
        return image
    return (image.transpose(2, 0, 1)[None] if image.ndim == 3 else image).astype(np.float32)


def _expected(feature: Feature) -> str:
    if feature.kind != "image":
        return f"{quoted(feature.name)} {feature.dtype} {feature.shape}"
    height, width = feature.shape[-2:]
    return f"{quoted(feature.name)} image, uint8 ({height}, {width}, 3) RGB or float32 {feature.shape} RGB"

"""Packages for tests, written by coremltools: from MIL's own builder, or from PyTorch."""

import functools
import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tofe_edge.io.quiet import quiet, swallow_native_stderr

Arrays = np.ndarray | list[np.ndarray]


@functools.cache
def coremltools() -> Any:
    """The module; importing it takes seconds and prints warnings."""
    with quiet(), swallow_native_stderr():
        import coremltools
        import coremltools.optimize.coreml
    gc.freeze()  # It collects garbage in every conversion: most of the time, with itself and PyTorch to look through.
    return coremltools


def typed(array: np.ndarray, name: str) -> np.ndarray:
    """An array that coremltools takes for one of a sub-byte type."""
    coremltools()
    from coremltools.converters.mil.mil import types

    return array.astype(types.nptype_from_builtin(types.string_to_builtin(name)))


@dataclass(frozen=True)
class Case:
    """One use of an operator.

    Attributes:
        operator: its name.
        given: parameter -> what becomes an input of the program; a list becomes several.
        constants: parameter -> constant.
        expected: results that an independent implementation gives.
        since: first iOS whose operator set has it.
        until: the last one, if a later one has another form.
    """

    operator: str
    given: Mapping[str, Arrays]
    constants: Mapping[str, Any]
    expected: Sequence[Any]
    since: int = 15
    until: int = 99

    def fits(self, ios: int) -> bool:
        return self.since <= ios <= self.until


def case(
    operator: str, given: Mapping[str, Arrays], expected: Any, since: int = 15, until: int = 99, **constants: Any
) -> Case:
    """A :class:`Case`; a single expected result needs no list."""
    results = expected if isinstance(expected, list | tuple) else [expected]
    return Case(operator, given, constants, results, since, until)


@dataclass
class Draft:
    """A program in the making: its inputs and their values, and the names of its outputs."""

    inputs: dict[str, np.ndarray] = field(default_factory=dict)
    kinds: dict[str, np.dtype[Any]] = field(default_factory=dict)
    outputs: list[Any] = field(default_factory=list)

    def add(self, array: np.ndarray) -> str:
        name = f"input_{len(self.inputs)}"
        self.kinds[name] = array.dtype
        keeps = array.dtype in (np.float32, np.float16, np.int32)
        self.inputs[name] = array if keeps else array.astype(np.int32)
        return name


def save_cases(path: Path, cases: Sequence[Case], ios: int) -> tuple[dict[str, np.ndarray], list[list[str]]]:
    """Write one program with every case in it; returns its inputs and the output names of each case."""
    draft = Draft()
    draft.add(np.zeros(1, np.float32))  # a program needs an input
    bound = [_bound(draft, each) for each in cases]

    def build(mb: Any, given: Mapping[str, Any]) -> list[Any]:
        for each, names in zip(cases, bound):
            arguments = {
                key: [_cast(mb, given[name], draft.kinds[name]) for name in name_or_names]
                if isinstance(name_or_names, list)
                else _cast(mb, given[name_or_names], draft.kinds[name_or_names])
                for key, name_or_names in names.items()
            }
            produced = getattr(mb, each.operator)(**arguments, **each.constants)
            results = produced if isinstance(produced, list | tuple) else [produced]
            draft.outputs.append([_output(mb, result) for result in results])
        return [result for results in draft.outputs for result in results]

    save_program(path, draft.inputs, build, ios)
    return draft.inputs, [[result.name for result in results] for results in draft.outputs]


def _bound(draft: Draft, each: Case) -> dict[str, Any]:
    return {
        key: [draft.add(array) for array in arrays] if isinstance(arrays, list) else draft.add(arrays)
        for key, arrays in each.given.items()
    }


def _cast(mb: Any, value: Any, kind: np.dtype[Any]) -> Any:
    """Core ML's inputs are float or int32; all else is cast in the program."""
    return value if kind in (np.float32, np.float16, np.int32) else mb.cast(x=value, dtype=kind.name)


def _output(mb: Any, value: Any) -> Any:
    from coremltools.converters.mil.mil import types

    if value.dtype in (types.fp32, types.int32, types.fp16):
        return mb.identity(x=value)
    return mb.cast(x=value, dtype="int32")


def save_program(
    path: Path,
    inputs: Mapping[str, np.ndarray],
    build: Callable[[Any, Mapping[str, Any]], list[Any]],
    ios: int = 18,
    **options: Any,
) -> None:
    """Convert what ``build`` makes with MIL's builder, leaving every operator as it is, and save it at ``path``."""
    ct = coremltools()
    with quiet(), swallow_native_stderr():
        from coremltools.converters.mil import Builder as mb  # noqa: N813
        from coremltools.converters.mil.mil import Function, Program, types

        kinds = {np.dtype(np.float32): types.fp32, np.dtype(np.float16): types.fp16, np.dtype(np.int32): types.int32}
        target = getattr(ct.target, f"iOS{ios}")
        program = Program()
        placeholders = {key: mb.placeholder(array.shape, kinds[array.dtype]) for key, array in inputs.items()}
        with Function(placeholders, opset_version=target) as function:
            function.set_outputs(build(mb, function.inputs))
        program.add_function("main", function)
        model = ct.convert(
            program,
            convert_to="mlprogram",
            minimum_deployment_target=target,
            compute_precision=ct.precision.FLOAT32,
            skip_model_load=True,
            pass_pipeline=ct.PassPipeline.EMPTY,
            **options,
        )
        model.save(str(path))


def convert_module(
    module: torch.nn.Module, example: torch.Tensor, ios: int = 17, half: bool = False, **options: Any
) -> Any:
    """Export a module and convert it as users do; an ``MLModel`` that was not loaded."""
    ct = coremltools()
    with quiet(), swallow_native_stderr(), torch.no_grad():
        program = torch.export.export(module.eval(), (example,)).run_decompositions({})
        return ct.convert(
            program,
            convert_to="mlprogram",
            minimum_deployment_target=getattr(ct.target, f"iOS{ios}"),
            compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32,
            skip_model_load=True,
            **options,
        )

"""A vision transformer through torch.export and coremltools: what the file says against the net it was made from."""

import functools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_tofe
from mil_programs import convert_module

from tofe_edge.runtimes.mil import Program, load_program, open_package

IMAGE = np.random.default_rng(0).standard_normal((1, 3, 64, 64)).astype(np.float32)


@functools.cache
def _net() -> Any:
    """timm's DeiT-Tiny with 4 blocks, 16 patches and 10 classes."""
    return tiny_tofe().backbone.vit


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Program:
    path: Path = tmp_path_factory.mktemp("exported") / f"{request.param}.mlpackage"
    convert_module(_net(), torch.from_numpy(IMAGE), half=request.param == "fp16").save(str(path))
    return load_program(open_package(path))


def _logits(program: Program) -> np.ndarray:
    (output,) = program.run({program.function.inputs[0].name: IMAGE}).values()
    return np.asarray(output, np.float64)


def test_logits_are_those_of_the_net(program: Program) -> None:
    with torch.no_grad():
        expected = _net()(torch.from_numpy(IMAGE)).numpy()
    half = any(result.dtype == "fp16" for operation in program.operations for result in operation.outputs)
    error = np.abs(_logits(program) - expected).max() / np.abs(expected).max()
    assert error < (5e-3 if half else 1e-5)
    # Rounding to half precision has to show, or nothing was rounded.
    assert not half or error > 1e-5


def test_fp32_compute_of_a_half_precision_package_is_closer_to_the_net(program: Program) -> None:
    with torch.no_grad():
        expected = _net()(torch.from_numpy(IMAGE)).numpy()
    wide = load_program(program.package, compute="fp32")
    assert np.abs(_logits(wide) - expected).max() <= np.abs(_logits(program) - expected).max()


def test_weights_are_counted_once(program: Program) -> None:
    stored = sum(operation.weight_bytes for operation in program.operations if not operation.constant)
    size = 4 if program.function.outputs[0].dtype == "fp32" else 2
    parameters = sum(parameter.numel() for parameter in _net().parameters())
    assert abs(stored / (parameters * size) - 1) < 0.02


@pytest.mark.skipif(sys.platform != "darwin", reason="Core ML runs on macOS only")
def test_core_ml_itself_agrees(program: Program) -> None:
    import coremltools as ct

    model = ct.models.MLModel(str(program.package.path), compute_units=ct.ComputeUnit.CPU_ONLY)
    (expected,) = model.predict({program.function.inputs[0].name: IMAGE}).values()
    assert np.abs(_logits(program) - expected).max() < 2e-2 * np.abs(expected).max()

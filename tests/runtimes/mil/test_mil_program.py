"""Running: precision, intermediate values, operations, and calls that are wrong."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import refused
from hypothesis import given, settings
from hypothesis import strategies as st
from mil_programs import save_program

from tofe_edge.errors import InputError
from tofe_edge.runtimes.mil import Program, load_program, open_package
from tofe_edge.runtimes.mil.loading import needs_no_rounding

X = np.random.default_rng(0).uniform(-2, 2, (2, 5, 8)).astype(np.float32)
WEIGHT = np.random.default_rng(1).uniform(-1, 1, (6, 8)).astype(np.float16)


@pytest.fixture(scope="module")
def half_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """linear, gelu, transpose, topk in half precision."""
    path = tmp_path_factory.mktemp("half") / "half.mlpackage"

    def build(mb: Any, given: Any) -> list[Any]:
        x = mb.cast(x=given["x"], dtype="fp16", name="halved")
        x = mb.gelu(x=mb.linear(x=x, weight=WEIGHT, name="product"), name="active")
        values, indices = mb.topk(x=mb.transpose(x=x, perm=[0, 2, 1], name="turned"), k=2, axis=1, name="best")
        return [
            mb.add(x=values, y=np.float16(1), name="sum"),
            mb.identity(x=indices, name="places"),
            mb.identity(x=x, name="all"),
        ]

    save_program(path, {"x": X}, build)
    return path


@pytest.fixture(scope="module")
def half(half_path: Path) -> Program:
    return load_program(open_package(half_path))


def _rounded(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float16).astype(np.float64)


def test_every_result_is_rounded_once_to_half_precision(half: Program) -> None:
    given = half.values({"x": X}, ["halved", "product", "active", "best_0", "sum"])
    assert {array.dtype for array in given.values()} == {np.dtype(np.float16)}
    assert np.array_equal(given["halved"], X.astype(np.float16))
    product = _rounded(X) @ WEIGHT.astype(np.float64).T
    # Accumulated in float32: at most one step of half precision away from the rounded exact sum.
    assert np.abs(given["product"].astype(np.float64) - product).max() <= np.spacing(np.float16(np.abs(product).max()))
    active = torch.nn.functional.gelu(torch.from_numpy(given["product"]).float()).half().numpy()
    assert np.array_equal(given["active"], active)
    assert np.array_equal(given["sum"], (given["best_0"].astype(np.float32) + 1).astype(np.float16))


def test_fp32_ignores_declared_half_precision(half_path: Path) -> None:
    program = load_program(open_package(half_path), compute="fp32")
    outputs = program.run({"x": X})
    exact = torch.nn.functional.gelu(torch.from_numpy(X).double() @ torch.from_numpy(WEIGHT).double().T)
    every = outputs["all"]
    assert isinstance(every, np.ndarray) and every.dtype == np.float32
    np.testing.assert_allclose(every, exact, 1e-5, 1e-6)


@settings(max_examples=20, derandomize=True)
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=80, max_size=80))
def test_rounding_is_that_of_ieee_754(half: Program, numbers: list[float]) -> None:
    x = np.array(numbers, np.float32).reshape(X.shape)
    with np.errstate(over="ignore"):
        expected = x.astype(np.float16)
    assert np.array_equal(half.values({"x": x}, ["halved"])["halved"], expected)


@pytest.mark.parametrize(
    ("operator", "types", "exact"),
    [
        ("reshape", ["fp16", "int32"], True),
        ("reshape", ["fp32"], False),
        ("concat", ["fp16", "fp32"], False),
        ("add", ["fp16", "fp16"], False),
    ],
)
def test_what_only_moves_half_precision_needs_no_rounding(operator: str, types: list[str], exact: bool) -> None:
    assert needs_no_rounding(operator, types) == exact


def test_values_are_the_outputs_and_constants_too(half: Program) -> None:
    outputs = half.run({"x": X})
    (linear,) = [each for each in half.operations if each.type == "linear"]
    names = ["sum", "places", linear.inputs["weight"][0], "x"]
    given = half.values({"x": X}, names)
    assert np.array_equal(given["sum"], np.asarray(outputs["sum"]))
    assert np.array_equal(given[names[2]], WEIGHT)
    assert np.array_equal(given["x"], X)
    assert "no tensor 'nothing'" in refused(half.package.path, lambda: half.values({"x": X}, ["nothing"]))


def test_operations(half: Program) -> None:
    by_type = {operation.type: operation for operation in half.operations}
    linear, topk = by_type["linear"], by_type["topk"]
    assert linear.name == "product" and linear.inputs["x"] == ("halved",) and not linear.constant
    assert [(result.dtype, result.shape) for result in linear.outputs] == [("fp16", (2, 5, 6))]
    assert linear.weight_bytes == WEIGHT.nbytes
    assert topk.weight_bytes == 0 and topk.parameters["k"] == 2 and topk.parameters["axis"] == 1
    assert [result.dtype for result in topk.outputs] == ["fp16", "int32"]
    assert all(operation.constant == (operation.type == "const") for operation in half.operations)
    with pytest.raises(dataclasses.FrozenInstanceError):
        linear.name = "other"  # type: ignore[misc]


def test_intermediate_values_are_freed(half: Program) -> None:
    kept = half._execute({"x": X}, ["sum", "all"])
    assert {"sum", "all"} <= set(kept) and not {"halved", "product", "turned", "best_0", "best_1"} & set(kept)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({}, "takes the inputs 'x' fp32 (2, 5, 8), not"),
        ({"x": X, "y": X}, "takes the inputs 'x' fp32"),
        ({"x": X[0]}, "takes 'x' fp32 (2, 5, 8), not float32 (5, 8)"),
        ({"x": X.astype(np.int32)}, "not int32"),
        ({"x": X.astype(np.float64)}, "not float64"),
        ({"x": X.tolist()}, "as a numpy array, not list"),
    ],
)
def test_inputs_that_do_not_fit(half: Program, inputs: Any, said: str) -> None:
    assert said in refused(half.package.path, lambda: half.run(inputs))


def test_strided_and_half_inputs_are_read_right(half: Program) -> None:
    backwards = np.ascontiguousarray(X[:, ::-1])[:, ::-1]
    expected = half.values({"x": X}, ["all"])["all"]
    for same in (backwards, X.astype(np.float16)):
        assert np.array_equal(half.values({"x": same}, ["all"])["all"], expected)


def test_unknown_function_and_compute(half: Program) -> None:
    assert "no function 'other', only" in refused(half.package.path, lambda: load_program(half.package, "other"))
    with pytest.raises(InputError, match="'declared' or 'fp32'"):
        load_program(half.package, compute="fp64")  # type: ignore[arg-type]


def _missing(mb: Any, given: Any) -> list[Any]:
    return [
        mb.random_normal(shape=np.array([2, 2], np.int32), name="noise"),
        mb.space_to_batch(x=given["x"], block_shape=[2, 2], paddings=[[0, 0], [0, 0]], name="blocks"),
        mb.relu(x=given["x"]),
    ]


def _control_flow(mb: Any, given: Any) -> list[Any]:
    positive = mb.greater(x=mb.reduce_sum(x=given["x"]), y=np.float32(0))
    return [mb.cond(pred=positive, _true_fn=lambda: mb.exp(x=given["x"]), _false_fn=lambda: mb.relu(x=given["x"]))]


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (_missing, "'random_normal' (value 'noise'), 'space_to_batch' (value 'blocks')"),
        (_control_flow, "lacks: 'cond'"),
    ],
)
def test_all_missing_operators_are_named_at_once(tmp_path: Path, build: Any, said: str) -> None:
    path = tmp_path / "missing.mlpackage"
    save_program(path, {"x": np.zeros((1, 2, 4, 4), np.float32)}, build)
    assert said in refused(path, lambda: load_program(open_package(path)))


def test_importing_the_package_does_not_import_coremltools() -> None:
    script = "import sys, tofe_edge.runtimes.mil; print('coremltools' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

"""Packages as coremltools compresses them: the weights that come out, and what a net makes of them."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mil_programs import convert_module, coremltools, save_program
from torch import nn

from tofe_edge.io.quiet import quiet, swallow_native_stderr
from tofe_edge.runtimes.mil import Program, load_program, open_package


class Net(nn.Module):
    """A convolution and two Linears."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.hidden = nn.Linear(16 * 16, 32)
        self.last = nn.Linear(32, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.last(torch.relu(self.hidden(torch.relu(self.conv(x)).reshape(1, -1))))
        return y


X = np.random.default_rng(0).standard_normal((1, 3, 4, 4)).astype(np.float32)


def _net() -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Net().eval()


@functools.cache
def _original(ios: int) -> Any:
    return convert_module(_net(), torch.from_numpy(X), ios)


def _quantized(mode: str, **options: Any) -> Callable[[Any], Any]:
    def compress(model: Any) -> Any:
        cto = coremltools().optimize.coreml
        config = cto.OpLinearQuantizerConfig(mode=mode, weight_threshold=64, **options)
        return cto.linear_quantize_weights(model, cto.OptimizationConfig(global_config=config))

    return compress


def _palettized(bits: int, **options: Any) -> Callable[[Any], Any]:
    def compress(model: Any) -> Any:
        cto = coremltools().optimize.coreml
        config = cto.OpPalettizerConfig(mode="uniform", nbits=bits, weight_threshold=64, **options)
        return cto.palettize_weights(model, cto.OptimizationConfig(global_config=config))

    return compress


AFFINE, BLOCKWISE, PALETTE = (
    f"constexpr_{name}" for name in ("affine_dequantize", "blockwise_shift_scale", "lut_to_dense")
)
IN_BLOCKS = _quantized("linear_symmetric", dtype="int4", granularity="per_block", block_size=16)
IN_GROUPS = _palettized(4, granularity="per_grouped_channel", group_size=4)
COMPRESSIONS: dict[str, tuple[Callable[[Any], Any], int, str, float, float]] = {
    # how; iOS; operator; the largest share of the fp32 bytes; the largest error of a weight
    "W8 symmetric": (_quantized("linear_symmetric"), 16, AFFINE, 0.4, 0.004),
    "W8 asymmetric": (_quantized("linear"), 16, AFFINE, 0.4, 0.004),
    "W8, iOS 18": (_quantized("linear_symmetric"), 18, BLOCKWISE, 0.4, 0.004),
    "W4 in blocks": (IN_BLOCKS, 18, BLOCKWISE, 0.35, 0.03),
    "palettes of 4 bits": (_palettized(4), 16, PALETTE, 0.3, 0.03),
    "palettes of 6 bits": (_palettized(6), 16, PALETTE, 0.3, 0.01),
    "palettes of 8 bits": (_palettized(8), 18, PALETTE, 0.5, 0.004),
    "palettes of groups": (IN_GROUPS, 18, PALETTE, 0.5, 0.03),
}


@pytest.mark.parametrize("how", COMPRESSIONS)
def test_weights_are_those_that_coremltools_decompresses(how: str, tmp_path: Path) -> None:
    compress, ios, operator, share, error = COMPRESSIONS[how]
    net, original = _net(), _original(ios)
    with quiet(), swallow_native_stderr():
        model = compress(original)
        path = tmp_path / "compressed.mlpackage"
        model.save(str(path))
        dense_path = tmp_path / "dense.mlpackage"
        coremltools().optimize.coreml.decompress_weights(model).save(str(dense_path))
    program, dense = (load_program(open_package(each)) for each in (path, dense_path))
    assert operator in {each.type for each in program.operations}
    _same(program.run({_input(program): X}), dense.run({_input(dense): X}))
    stored = sum(each.weight_bytes for each in program.operations if not each.constant)
    assert stored < share * sum(parameter.numel() * 4 for parameter in net.parameters())
    (weight,) = [
        program.values({_input(program): X}, each.inputs["weight"])
        for each in program.operations
        if each.type == "conv"
    ]
    assert np.abs(next(iter(weight.values())) - net.conv.weight.detach().numpy()).max() <= error


def _input(program: Program) -> str:
    return program.function.inputs[0].name


def _same(actual: Any, expected: Any) -> None:
    for one, other in zip(actual.values(), expected.values(), strict=True):
        np.testing.assert_allclose(one, other, 1e-5, 1e-5)


def test_quantized_activations(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weight = rng.integers(-127, 128, (4, 8)).astype(np.int8)
    scales = rng.uniform(0.01, 0.02, 4).astype(np.float32)
    path = tmp_path / "w8a8.mlpackage"

    def build(mb: Any, given: Any) -> list[Any]:
        step = np.float32(0.03)
        codes = mb.quantize(input=given["x"], scale=step, zero_point=np.uint8(120), output_dtype="uint8")
        x = mb.dequantize(input=codes, scale=step, zero_point=np.uint8(120))
        filters = mb.constexpr_affine_dequantize(
            quantized_data=weight, scale=scales, zero_point=np.zeros(4, np.int8), axis=np.int32(0)
        )
        return [mb.linear(x=x, weight=filters), mb.cast(x=codes, dtype="int32")]

    x = rng.uniform(-5, 5, (3, 8)).astype(np.float32)
    save_program(path, {"x": x}, build, 17)
    program = load_program(open_package(path))
    product, codes = map(np.asarray, program.run({"x": x}).values())
    expected = np.clip(np.rint(x / np.float32(0.03)) + 120, 0, 255)
    assert np.array_equal(codes, expected)
    assert [each.weight_bytes for each in program.operations if each.type == "linear"] == [weight.nbytes]
    np.testing.assert_allclose(product, ((expected - 120) * 0.03) @ (weight * scales[:, None]).T, 1e-5, 1e-4)

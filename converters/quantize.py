"""Post-training quantization of a static graph: statistics, plan, replacement of layers, the layers themselves.

The quantized graph is made of modules in the operators that ExecuTorch's backends recognise, not of a rewritten trace: the
same object is run in PyTorch to measure what int8 costs, and exported. Weights are int8 per output channel. Inputs are
quantized either dynamically, each token by its own range (XNNPACK's only dynamic form), or statically, by a range found on
calibration images.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.ao.quantization.fx._decomposed
import torch.nn.functional as F
from torch import Tensor, nn

from tofe_edge.converters.rounding import LIMIT, round_to_nearest, round_with_gram, to_palette
from tofe_edge.converters.static_graph import StaticToFe
from tofe_edge.errors import InputError

Int8Mode = Literal["dynamic", "static", "weights"]
"""Ranges of a layer's inputs: each token's own, or fixed on calibration images; or inputs are not quantized at all."""

SELECTORS = "selectors."
"""Their layers stay in fp32: their scores decide which tokens are kept, and a rounding there moves whole tokens in
or out. Measured on the shipped net: int8 selectors are not even faster (0.3 % of the latency)."""

FEATURES = ".features"
"""The layer of a selector that only tells which tokens are alike: int8 is enough for that, and faster."""


@dataclass(frozen=True)
class Statistics:
    """What calibration images showed of every Linear and convolution, by module path."""

    grams: Mapping[str, Tensor]
    """Of Linears: the sum of x xT over input rows x, ``(in, in)`` in float64."""
    inputs: Mapping[str, tuple[float, float]]
    """Least and largest input."""
    outputs: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Int8Plan:
    """Which layers are quantized and how their inputs are."""

    mode: Int8Mode
    layers: frozenset[str]
    """Module paths."""
    quantizes_outputs: bool = True
    """Static mode: XNNPACK computes in int8 between two quantizers, Core ML behind one, and rounds once less."""
    symmetric: bool = False
    """Static mode: zero points are 0, as TensorRT wants them."""
    by_token: bool = True
    """Dynamic mode: each token has a range of its own; ONNX knows one of all of them alone."""
    palette_bits: int | None = None
    """Weights mode: palettes of this many bits in place of int8."""

    def without(self, layers: frozenset[str]) -> Int8Plan:
        """The plan with these layers left in fp32."""
        return replace(self, layers=self.layers - layers)


def layers_of(graph: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    """Every layer with weights, by module path."""
    return {name: layer for name, layer in graph.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d))}


def plan_int8(graph: nn.Module, mode: Int8Mode, quantizes_outputs: bool = True) -> Int8Plan:
    """Every Linear (and, but for dynamic mode, every convolution) but those of the selectors."""
    kinds = (nn.Linear,) if mode == "dynamic" else (nn.Linear, nn.Conv2d)
    names = (name for name, layer in layers_of(graph).items() if isinstance(layer, kinds))
    chosen = (name for name in names if not name.startswith(SELECTORS) or name.endswith(FEATURES))
    return Int8Plan(mode, frozenset(chosen), quantizes_outputs)


def gather_statistics(graph: StaticToFe, images: Sequence[Tensor]) -> Statistics:
    """Run the graph on calibration inputs ``(B, 3, H, W)`` and keep what quantization wants to know."""
    grams: dict[str, Tensor] = {}
    inputs: dict[str, tuple[float, float]] = {}
    outputs: dict[str, tuple[float, float]] = {}

    def watch(name: str, layer: nn.Module) -> Any:
        def hook(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            inputs[name] = _widen(inputs.get(name), args[0])
            outputs[name] = _widen(outputs.get(name), output)
            if isinstance(layer, nn.Linear):
                rows = args[0].reshape(-1, layer.in_features).double()
                grams[name] = grams.get(name, torch.zeros(())) + rows.T @ rows

        return layer.register_forward_hook(hook)

    hooks = [watch(name, layer) for name, layer in layers_of(graph).items()]
    try:
        with torch.no_grad():
            for image in images:
                graph(image)
    finally:
        for hook in hooks:
            hook.remove()
    return Statistics(grams, inputs, outputs)


def quantize(graph: StaticToFe, plan: Int8Plan, statistics: Statistics | None = None) -> StaticToFe:
    """A copy of the graph with the plan's layers in int8.

    Args:
        statistics: of calibration images; static mode takes its ranges from them, and weights are rounded with
            regard to them. Without them weights are rounded to nearest.

    Raises:
        InputError: static mode without statistics.
    """
    if plan.mode == "static" and statistics is None:
        raise InputError("static int8 needs calibration images; give a folder with --calibration")
    quantized = copy.deepcopy(graph)
    for name, layer in layers_of(graph).items():
        # A layer that no image reached has no range: an approximator, if every token is kept.
        if name in plan.layers and (plan.mode != "static" or statistics is None or name in statistics.inputs):
            quantized.set_submodule(name, int8_layer(name, layer, plan, statistics))
    return quantized


def int8_layer(
    name: str, layer: nn.Linear | nn.Conv2d, plan: Int8Plan, statistics: Statistics | None = None
) -> nn.Sequential:
    """One layer in int8, with the quantizers around it that the plan's mode needs."""
    gram = statistics.grams.get(name) if statistics else None
    if plan.palette_bits is not None:
        return nn.Sequential(_palette_layer(layer, plan.palette_bits, gram))
    codes, scale = round_to_nearest(layer.weight) if gram is None else round_with_gram(layer.weight, gram)
    bias = None if layer.bias is None else layer.bias.detach().clone()
    weights = Int8Weights(codes, scale, bias, layer if isinstance(layer, nn.Conv2d) else None)
    if plan.mode == "weights":
        return nn.Sequential(weights)
    if plan.mode == "dynamic":
        return nn.Sequential(DynamicInput(plan.by_token), weights)
    assert statistics is not None, "checked by quantize()"
    outputs = [StaticRange(*statistics.outputs[name], plan.symmetric)] if plan.quantizes_outputs else []
    return nn.Sequential(StaticRange(*statistics.inputs[name], plan.symmetric), weights, *outputs)


def _palette_layer(layer: nn.Linear | nn.Conv2d, bits: int, gram: Tensor | None) -> PaletteWeights:
    weight = to_palette(layer.weight, bits, gram)
    bias = None if layer.bias is None else layer.bias.detach().clone()
    return PaletteWeights(weight, bias, layer if isinstance(layer, nn.Conv2d) else None)


def _widen(seen: tuple[float, float] | None, values: Tensor) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    return (low, high) if seen is None else (min(seen[0], low), max(seen[1], high))


_OPS = torch.ops.quantized_decomposed


class DynamicInput(nn.Module):
    """Quantize and dequantize each token ``(..., D)`` by its own range, or all by one."""

    def __init__(self, by_token: bool = True) -> None:
        super().__init__()
        self.by_token = by_token

    def forward(self, x: Tensor) -> Tensor:
        if not self.by_token:
            return StaticRange(float(x.min()), float(x.max())).forward(x)
        scale, zero = _OPS.choose_qparams_per_token_asymmetric(x, torch.int8)
        quantized = _OPS.quantize_per_token(x, scale, zero, -128, 127, torch.int8)
        out: Tensor = _OPS.dequantize_per_token(quantized, scale, zero, -128, 127, torch.int8, torch.float32)
        return out


class StaticRange(nn.Module):
    """Quantize and dequantize by one fixed scale and zero point."""

    def __init__(self, low: float, high: float, symmetric: bool = False) -> None:
        super().__init__()
        if symmetric:
            self.scale, self.zero = max(-low, high, 1e-7) / 127, 0
            return
        low, high = min(low, 0.0), max(high, 0.0)
        self.scale = max((high - low) / 255, 1e-9)
        self.zero = max(-128, min(127, round(-128 - low / self.scale)))

    def forward(self, x: Tensor) -> Tensor:
        quantized = _OPS.quantize_per_tensor(x, self.scale, self.zero, -128, 127, torch.int8)
        out: Tensor = _OPS.dequantize_per_tensor(quantized, self.scale, self.zero, -128, 127, torch.int8)
        return out


class Int8Weights(nn.Module):
    """A Linear or convolution whose weights are stored in int8, one scale per output channel."""

    def __init__(
        self, weight: Tensor, scale: Tensor, bias: Tensor | None, convolution: nn.Conv2d | None = None
    ) -> None:
        """``weight`` int8 ``(out, ...)``, ``scale`` float32 ``(out,)``; stride and padding from ``convolution``."""
        super().__init__()
        self.weight: Tensor
        self.scale: Tensor
        self.zero: Tensor
        self.bias: Tensor | None
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        self.register_buffer("zero", torch.zeros(len(scale), dtype=torch.int64))
        self.register_buffer("bias", bias)
        self.convolution = None if convolution is None else (convolution.stride, convolution.padding)

    def forward(self, x: Tensor) -> Tensor:
        limit = LIMIT
        weight = _OPS.dequantize_per_channel(self.weight, self.scale, self.zero, 0, -limit, limit, torch.int8)
        if self.convolution is None:
            return F.linear(x, weight, self.bias)
        stride, padding = self.convolution
        return F.conv2d(x, weight, self.bias, stride, padding)


class PaletteWeights(nn.Module):
    """A Linear or convolution with few different weights."""

    def __init__(self, weight: Tensor, bias: Tensor | None, convolution: nn.Conv2d | None = None) -> None:
        """``weight`` float32 ``(out, ...)``; stride and padding from ``convolution``."""
        super().__init__()
        self.weight: Tensor
        self.bias: Tensor | None
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.convolution = None if convolution is None else (convolution.stride, convolution.padding)

    def forward(self, x: Tensor) -> Tensor:
        if self.convolution is None:
            return F.linear(x, self.weight, self.bias)
        stride, padding = self.convolution
        return F.conv2d(x, self.weight, self.bias, stride, padding)

"""Layers of a static graph in int8, written in the operators that ExecuTorch's backends recognise.

The quantized graph is made of modules, not of a rewritten trace: the same object is run in PyTorch to measure
what int8 costs, and exported. Weights are int8 per output channel. Inputs are quantized either dynamically, each
token by its own range (XNNPACK's only dynamic form), or statically, by a range found on calibration images.
"""

from __future__ import annotations

import torch
import torch.ao.quantization.fx._decomposed
import torch.nn.functional as F
from torch import Tensor, nn

from tofe_edge.converters.rounding import LIMIT

_OPS = torch.ops.quantized_decomposed


class DynamicInput(nn.Module):
    """Quantize and dequantize each token ``(..., D)`` by its own range."""

    def forward(self, x: Tensor) -> Tensor:
        scale, zero = _OPS.choose_qparams_per_token_asymmetric(x, torch.int8)
        quantized = _OPS.quantize_per_token(x, scale, zero, -128, 127, torch.int8)
        out: Tensor = _OPS.dequantize_per_token(quantized, scale, zero, -128, 127, torch.int8, torch.float32)
        return out


class StaticRange(nn.Module):
    """Quantize and dequantize by one fixed scale and zero point."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        low, high = min(low, 0.0), max(high, 0.0)
        self.scale = max((high - low) / 255, 1e-9)
        self.zero = max(-128, min(127, round(-128 - low / self.scale)))

    def forward(self, x: Tensor) -> Tensor:
        quantized = _OPS.quantize_per_tensor(x, self.scale, self.zero, -128, 127, torch.int8)
        out: Tensor = _OPS.dequantize_per_tensor(quantized, self.scale, self.zero, -128, 127, torch.int8)
        return out


class Int8Weights(nn.Module):
    """A Linear or convolution whose weights are stored in int8, one scale an output channel."""

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

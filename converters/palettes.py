"""Weights as numbers of a palette: 2^bits values a layer, and for each weight the number of its value.

The palette is the weighted k-means of a layer's weights (deep compression, arXiv 1510.00149), each weight counting as much
as its input is loud. Found here and not by the exporter, the graph with palettes can be run in PyTorch to see what they
cost, and the values follow from the weights alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_ITERATIONS = 40


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


def to_palette(weight: Tensor, bits: int, loudness: Tensor | None = None) -> Tensor:
    """The weights ``(out, ...)``, each replaced by the nearest of ``2 ** bits`` values that float16 holds.

    Args:
        loudness: power of each input ``(in,)`` of a Linear; without it all weights count alike.
    """
    flat = weight.detach().double().flatten()
    importance = torch.ones_like(flat)
    if loudness is not None:
        importance = loudness.double().clamp(min=1e-12).expand(weight.shape).flatten()
    order = torch.argsort(flat, stable=True)
    values, importance = flat[order], importance[order]
    mass, moment = torch.cumsum(importance, 0), torch.cumsum(importance * values, 0)
    # To start with, values that take equal shares of the weights' number.
    shares = (torch.arange(2**bits, dtype=torch.float64) + 0.5) / 2**bits
    palette = torch.quantile(values[:: max(1, len(values) // 100_000)], shares)
    for _ in range(_ITERATIONS):
        edges = torch.searchsorted(values, (palette[1:] + palette[:-1]) / 2)
        palette = _centres(mass, moment, edges, palette)
    palette = palette.half().double()
    nearest = torch.bucketize(flat, (palette[1:] + palette[:-1]) / 2)
    return palette[nearest].view(weight.shape).float()


def _centres(mass: Tensor, moment: Tensor, edges: Tensor, palette: Tensor) -> Tensor:
    """Weighted means of the values between edges; an entry that none is nearest to stays where it is."""
    zero = mass.new_zeros(1)
    below = [torch.cat((zero, total))[torch.cat((edges.new_zeros(1), edges, edges.new_tensor([len(total)])))]
             for total in (mass, moment)]  # fmt: skip
    weight, sums = below[0].diff(), below[1].diff()
    return torch.where(weight > 0, sums / weight.clamp(min=1e-300), palette)

"""Weights as numbers of a palette: 2^bits values a layer, and for each weight the number of its value.

The palette is the weighted k-means of a layer's weights (deep compression, arXiv 1510.00149), each weight counting as much
as its input is loud; errors are made up for as in GPTQ (:mod:`tofe_edge.converters.rounding`). As it is found here and not by the
exporter, the graph with palettes can be run in PyTorch to see what they cost.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tofe_edge.converters.rounding import round_compensated

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


def to_palette(weight: Tensor, bits: int, gram: Tensor | None = None) -> Tensor:
    """The weights ``(out, ...)``, each replaced by one of ``2 ** bits`` values that float16 holds.

    Args:
        gram: of a Linear, the sum ``(in, in)`` of x xT over inputs x: the palette is made for loud inputs, and each
            column's error is made up for by the columns behind it. Without it weights go to the nearest value.
    """
    flat = weight.detach().double().flatten()
    importance = torch.ones_like(flat)
    if gram is not None:
        importance = gram.diagonal().double().clamp(min=1e-12).expand(weight.shape).flatten()
    palette = _weighted_k_means(flat, importance, 2**bits).half().double()
    edges = (palette[1:] + palette[:-1]) / 2

    def nearest(values: Tensor) -> Tensor:
        return palette[torch.bucketize(values.contiguous(), edges)]

    rounded = nearest(flat).view(weight.shape) if gram is None else round_compensated(weight, gram, nearest)
    return rounded.float()


def _weighted_k_means(values: Tensor, importance: Tensor, count: int) -> Tensor:
    """``count`` centres of ``values``, ascending (Lloyd's algorithm on sorted values)."""
    order = torch.argsort(values, stable=True)
    values, importance = values[order], importance[order]
    mass, moment = torch.cumsum(importance, 0), torch.cumsum(importance * values, 0)
    # To start with, values that take equal shares of the weights' number.
    shares = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    centres = values[(shares * len(values)).long()]
    for _ in range(_ITERATIONS):
        centres = _centres(mass, moment, torch.searchsorted(values, (centres[1:] + centres[:-1]) / 2), centres)
    return centres


def _centres(mass: Tensor, moment: Tensor, edges: Tensor, before: Tensor) -> Tensor:
    """Weighted means of the values between edges; a centre that none is nearest to stays where it was."""
    zero = mass.new_zeros(1)
    below = [torch.cat((zero, total))[torch.cat((edges.new_zeros(1), edges, edges.new_tensor([len(total)])))]
             for total in (mass, moment)]  # fmt: skip
    weight, sums = below[0].diff(), below[1].diff()
    return torch.where(weight > 0, sums / weight.clamp(min=1e-300), before)

"""Rounding weights: to int8, one scale per output channel, or to the values of a palette per layer.

Without statistics each weight goes to the nearest step. With the Gram matrix of the layer's inputs each column's
rounding error is made up for by the columns that are still to be rounded (GPTQ, arXiv 2210.17323): what is kept
small is the error of the layer's output, not of its weights. On the shipped net this takes weight rounding from
18.0 to 19.9 dB of logits SNR, at no cost when the model runs.

A palette is the weighted k-means of a layer's weights (deep compression, arXiv 1510.00149), each weight counting as much
as its input is loud. As it is computed here and not by the exporter, the graph with palettes can be run in PyTorch to see
what they cost.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

LIMIT = 127
"""Weights lie in [-127, 127]: symmetric, as XNNPACK's kernels want them."""

_SHRINKS = tuple(1.0 - 0.025 * step for step in range(9))
"""Scales tried, as shares of the one that fits the largest weight: clipping it may serve the others."""

_BLOCK = 64
"""Columns rounded before the rest of the weight is brought up to date."""

_ITERATIONS = 40
"""Of the k-means."""

_DAMPING = 0.01
"""Share of the mean diagonal added to a Gram matrix: few images leave it singular."""


def round_to_nearest(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weight ``(out, ...)`` to int8 of the same shape and scales ``(out,)``."""
    scale = _largest(weight) / LIMIT
    return _codes(weight, scale), scale.float()


def round_with_gram(weight: Tensor, gram: Tensor) -> tuple[Tensor, Tensor]:
    """Weight ``(out, in)`` to int8 and scales ``(out,)``, given the sum ``(in, in)`` of x xT over inputs x."""
    scale = _best_scale(weight.detach().double(), _loudness(gram))
    values = round_compensated(weight, gram, lambda column: (column / scale).round().clamp(-LIMIT, LIMIT) * scale)
    return (values / scale[:, None]).round().to(torch.int8), scale.float()


def round_compensated(weight: Tensor, gram: Tensor, nearest: Callable[[Tensor], Tensor]) -> Tensor:
    """Weight ``(out, in)`` in values that ``nearest`` gives for a column ``(out,)``, in float64.

    What rounding a column leaves over goes to the columns that are still to be rounded.
    """
    # 1. Put columns with the loudest inputs first: what they leave over still finds columns to go to.
    weight, gram = weight.detach().double().clone(), gram.double().clone()
    gram.diagonal().copy_(_loudness(gram))
    order = torch.argsort(gram.diagonal(), descending=True, stable=True)
    weight, gram = weight[:, order], gram[order][:, order]
    # 2. How an error of a column spreads to those behind it.
    gram = gram + torch.eye(len(gram), dtype=gram.dtype) * (_DAMPING * gram.diagonal().mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
    spread = torch.linalg.cholesky(inverse, upper=True)
    # 3. Round column by column.
    rounded = torch.zeros_like(weight)
    columns = weight.shape[1]
    for start in range(0, columns, _BLOCK):
        stop = min(start + _BLOCK, columns)
        errors = weight.new_zeros(len(weight), stop - start)
        for column in range(start, stop):
            value = nearest(weight[:, column])
            rounded[:, column] = value
            error = (weight[:, column] - value) / spread[column, column]
            errors[:, column - start] = error
            weight[:, column:stop] -= error[:, None] * spread[None, column, column:stop]
        # What the block leaves over reaches the columns behind it in one product: 25 s become 2 for a Linear of 3072 inputs.
        weight[:, stop:] -= errors @ spread[start:stop, stop:]
    return rounded[:, torch.argsort(order)]


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


def _loudness(gram: Tensor) -> Tensor:
    """Power of each input; those that were silent count as the average one."""
    power = gram.diagonal().double()
    return torch.where(power == 0, power.mean().clamp(min=1e-30), power)


def _best_scale(weight: Tensor, loudness: Tensor) -> Tensor:
    """Per row, the scale of least rounding error, each column weighted by the power of its input."""
    largest = _largest(weight) / LIMIT
    candidates = torch.stack([largest * shrink for shrink in _SHRINKS])
    errors = torch.stack([((_codes(weight, scale) * scale[:, None] - weight) ** 2 @ loudness) for scale in candidates])
    return candidates.gather(0, errors.argmin(0, keepdim=True))[0]


def _largest(weight: Tensor) -> Tensor:
    """Largest magnitude of each row; a row of zeros gets the smallest scale that is a normal float."""
    return weight.detach().double().flatten(1).abs().amax(1).clamp(min=1e-30)


def _codes(weight: Tensor, scale: Tensor) -> Tensor:
    shaped = scale.view(-1, *[1] * (weight.dim() - 1))
    return (weight.detach().double() / shaped).round().clamp(-LIMIT, LIMIT).to(torch.int8)

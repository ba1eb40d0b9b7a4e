"""Ridge regression towards the identity, with a strength that is chosen by cross-validation."""

from __future__ import annotations

import torch
from torch import Tensor

_STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
"""Penalties that are tried, in the mean variance of the inputs. A few images of a wide net leave directions in which hardly
any update was seen: there the identity, which is what an approximator is before it is fitted, is the better guess."""


def towards_identity(inputs: Tensor, outputs: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The linear map from inputs to outputs ``(B, K, D)`` of B images, K rows each, weighted by ``(B, K)``.

    What is penalised is the difference from the identity. The strength is the one whose fit to each half of the images is
    nearest on the other half (two-fold cross-validation).

    Returns:
        Weight ``(D, D)`` and bias ``(D,)``.
    """
    halves = [
        _moments(x.flatten(0, 1), y.flatten(0, 1), w.flatten())
        for x, y, w in zip(*(one.double().tensor_split(2) for one in (inputs, outputs - inputs, weights)), strict=True)
    ]
    moments = halves[0] + halves[1]

    def error(strength: float) -> float:
        return sum(_error(_solve(fit, strength), test) for fit, test in (halves, halves[::-1]))

    solution = _solve(moments, min(_STRENGTHS, key=error))
    dim = inputs.shape[-1]
    return (torch.eye(dim) + solution[:dim].T).float(), solution[dim].float()


def _moments(x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """Weighted second moments ``(2D + 1, 2D + 1)`` of the columns of x ``(M, D)``, of a one, and of y ``(M, D)``."""
    columns = torch.cat((x, torch.ones_like(x[:, :1]), y), dim=1)
    return columns.T @ (weights[:, None] * columns)


def _solve(moments: Tensor, strength: float) -> Tensor:
    """Coefficients ``(D + 1, D)``, the last row of which is the bias: it is not penalised."""
    size = len(moments) // 2 + 1
    gram, dim = moments[:size, :size].clone(), size - 1
    total = gram[dim, dim].clamp(min=1e-30)
    variance = gram.diagonal()[:dim].sum() - gram[dim, :dim].square().sum() / total
    gram.diagonal()[:dim] += (strength * variance / dim).clamp(min=1e-30 * total)
    gram[dim, dim] = total
    coefficients: Tensor = torch.linalg.solve(gram, moments[:size, size:])
    return coefficients


def _error(solution: Tensor, moments: Tensor) -> float:
    """Weighted sum of squared residuals, less a part that all solutions share."""
    size = len(solution)
    gram, cross = moments[:size, :size], moments[:size, size:]
    return float((solution * (gram @ solution - 2 * cross)).sum())

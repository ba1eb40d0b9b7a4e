"""Normalisations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    """Normalise each channel (dimension 1) with given mean and variance."""
    channels = _of_axes(x, [1])
    centred = (x - mean.reshape(channels)) * torch.rsqrt(variance.reshape(channels) + epsilon)
    return _scaled(centred, gamma, beta, channels)


def instance_norm(x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: float = 1e-5) -> Tensor:
    """Normalise each channel of each image over its positions."""
    return _scaled(_normalised(x, list(range(2, x.dim())), epsilon), gamma, beta, _of_axes(x, [1]))


def layer_norm(
    x: Tensor,
    axes: tuple[int, ...] | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    """Normalise over ``axes`` (all by default); gamma and beta have the sizes of those axes."""
    rank = x.dim()
    over = sorted(axis % rank for axis in (range(rank) if axes is None else axes))
    if over == list(range(rank - len(over), rank)):
        return F.layer_norm(x, x.shape[over[0] :], gamma, beta, epsilon)
    return _scaled(_normalised(x, over, epsilon), gamma, beta, _of_axes(x, over))


def l2_norm(x: Tensor, epsilon: float = 1e-6) -> Tensor:
    """x / sqrt(sum of squares over the last three dimensions + epsilon)."""
    return x * torch.rsqrt(x.square().sum((-3, -2, -1), keepdim=True) + epsilon)


def local_response_norm(x: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """x / (k + alpha / size * sum of squares of ``size`` neighbouring channels) ** beta."""
    return F.local_response_norm(x, size, alpha, beta, k)


def _normalised(x: Tensor, axes: list[int], epsilon: float) -> Tensor:
    centred = x - x.mean(axes, keepdim=True)
    variance = centred.square().mean(axes, keepdim=True)
    return centred * torch.rsqrt(variance + epsilon)


def _of_axes(x: Tensor, axes: Sequence[int]) -> list[int]:
    return [size if axis in axes else 1 for axis, size in enumerate(x.shape)]


def _scaled(x: Tensor, gamma: Tensor | None, beta: Tensor | None, shape: Sequence[int]) -> Tensor:
    if gamma is not None:
        x = x * gamma.reshape(shape)
    return x if beta is None else x + beta.reshape(shape)


NORMALIZATION: Mapping[str, Callable[..., Any]] = {
    "batch_norm": batch_norm,
    "instance_norm": instance_norm,
    "l2_norm": l2_norm,
    "layer_norm": layer_norm,
    "local_response_norm": local_response_norm,
}
"""Operator -> function."""

"""Activation functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tofe_edge.runtimes.mil.operators.elementwise import unary


def clamped_relu(x: Tensor, alpha: float, beta: float) -> Tensor:
    """min(x, beta) for x >= 0, min(alpha x, beta) below."""
    return torch.where(x >= 0, x, alpha * x).clamp_max(beta)


def elu(x: Tensor, alpha: float) -> Tensor:
    """x for x > 0, alpha (exp(x) - 1) below."""
    return torch.where(x > 0, x, alpha * torch.expm1(x.clamp_max(0)))


def gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    """x times the Gaussian's cumulative distribution, exactly or by one of MIL's two approximations."""
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    return F.gelu(x, approximate={"EXACT": "none", "TANH_APPROXIMATION": "tanh"}[mode])


def leaky_relu(x: Tensor, alpha: float) -> Tensor:
    """x for x >= 0, alpha x below."""
    return F.leaky_relu(x, alpha)


def linear_activation(x: Tensor, alpha: float, beta: float) -> Tensor:
    """alpha x + beta."""
    return alpha * x + beta


def prelu(x: Tensor, alpha: Tensor) -> Tensor:
    """x for x >= 0, alpha x below, with one alpha for each channel (dimension 1)."""
    return torch.where(x >= 0, x, _of_channels(alpha, x) * x)


def scaled_tanh(x: Tensor, alpha: float, beta: float) -> Tensor:
    """alpha tanh(beta x)."""
    return alpha * torch.tanh(beta * x)


def sigmoid_hard(x: Tensor, alpha: float, beta: float) -> Tensor:
    """alpha x + beta between 0 and 1."""
    return (alpha * x + beta).clamp(0, 1)


def softplus_parametric(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """alpha log(1 + exp(beta x)), with one alpha and beta for each channel (dimension 1)."""
    return _of_channels(alpha, x) * F.softplus(_of_channels(beta, x) * x)


def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """Softmax along an axis."""
    return x.softmax(axis)


def thresholded_relu(x: Tensor, alpha: float) -> Tensor:
    """x for x >= alpha, 0 below."""
    return torch.where(x >= alpha, x, 0.0)


def _of_channels(parameter: Tensor, x: Tensor) -> Tensor:
    return parameter.reshape(1, -1, *[1] * (x.dim() - 2))


ACTIVATION: Mapping[str, Callable[..., Any]] = {
    "clamped_relu": clamped_relu,
    "elu": elu,
    "gelu": gelu,
    "leaky_relu": leaky_relu,
    "linear_activation": linear_activation,
    "prelu": prelu,
    "relu": unary(torch.relu),
    "relu6": unary(F.relu6),
    "scaled_tanh": scaled_tanh,
    "sigmoid": unary(torch.sigmoid),
    "sigmoid_hard": sigmoid_hard,
    "silu": unary(F.silu),
    "softmax": softmax,
    "softplus": unary(F.softplus),
    "softplus_parametric": softplus_parametric,
    "softsign": unary(F.softsign),
    "thresholded_relu": thresholded_relu,
}
"""Operator -> function."""

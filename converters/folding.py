"""Exact rewritings of weights: each moves a constant operation into a neighbouring Linear or Conv.

Pure functions: they return new layers and leave their arguments alone. Products are taken in float64, so
that folding costs no more than one rounding a weight.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def make_linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """A float32 Linear with this weight ``(out, in)`` and bias ``(out,)``."""
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight = nn.Parameter(weight.detach().float().contiguous(), requires_grad=False)
    layer.bias = nn.Parameter(bias.detach().float().contiguous(), requires_grad=False)
    return layer


def weight_and_bias(layer: nn.Linear) -> tuple[Tensor, Tensor]:
    """The layer's weight and bias in float64; a missing bias is zero."""
    weight = layer.weight.detach().double()
    bias = weight.new_zeros(weight.shape[0]) if layer.bias is None else layer.bias.detach().double()
    return weight, bias


def fold_norm(norm: nn.LayerNorm, layer: nn.Linear) -> nn.Linear:
    """``layer(norm(x))`` as a layer on the normalised x without affine part: W·gamma, W·beta + b."""
    weight, bias = weight_and_bias(layer)
    if norm.weight is None:
        return make_linear(weight, bias)
    gamma, beta = norm.weight.detach().double(), norm.bias.detach().double()
    return make_linear(weight * gamma, bias + weight @ beta)


def scale_output(layer: nn.Linear, factor: Tensor | float) -> nn.Linear:
    """``factor * layer(x)`` as one layer; ``factor`` is a number or one number an output."""
    weight, bias = weight_and_bias(layer)
    scale = torch.as_tensor(factor).detach().double().expand(weight.shape[0])
    return make_linear(weight * scale[:, None], bias * scale)


def split_rows(layer: nn.Linear, parts: int) -> tuple[nn.Linear, ...]:
    """Cut a layer's outputs into ``parts`` layers of equal size (fused qkv into q, k and v)."""
    weight, bias = weight_and_bias(layer)
    return tuple(make_linear(w, b) for w, b in zip(weight.chunk(parts), bias.chunk(parts)))


def difference_of_outputs(layer: nn.Linear, first: int, second: int) -> nn.Linear:
    """``layer(x)[first] - layer(x)[second]`` as a layer with one output."""
    weight, bias = weight_and_bias(layer)
    return make_linear((weight[first] - weight[second])[None], (bias[first] - bias[second])[None])


def fold_batch_norm(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """``norm(conv(x))`` in evaluation mode as one convolution."""
    variance, mean = norm.running_var, norm.running_mean
    assert variance is not None and mean is not None, "a BatchNorm without running statistics cannot be folded"
    scale = norm.weight.detach().double() / torch.sqrt(variance.double() + norm.eps)
    bias = torch.zeros_like(scale) if conv.bias is None else conv.bias.detach().double()
    folded = nn.Conv2d(
        conv.in_channels, conv.out_channels, conv.kernel_size[0], stride=conv.stride[0], padding=int(conv.padding[0])
    )
    weight = (conv.weight.detach().double() * scale[:, None, None, None]).float().contiguous()
    folded.weight = nn.Parameter(weight, requires_grad=False)
    shift = (norm.bias.detach().double() + (bias - mean.double()) * scale).float()
    folded.bias = nn.Parameter(shift, requires_grad=False)
    return folded

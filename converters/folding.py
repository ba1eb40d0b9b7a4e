"""Exact rewritings of weights: each moves a constant operation into a neighbouring Linear or Conv.

Pure functions: they return new layers and leave their arguments alone. Products are taken in float64, so
that folding costs no more than one rounding per weight.
"""

from __future__ import annotations

import copy

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
    """``factor * layer(x)`` as one layer; ``factor`` is a number, or one per output."""
    weight, bias = weight_and_bias(layer)
    scale = torch.as_tensor(factor).detach().double().expand(weight.shape[0])
    return make_linear(weight * scale[:, None], bias * scale)


def centre_output(layer: nn.Linear) -> nn.Linear:
    """``layer(x)`` less the mean of its outputs, as one layer.

    If every writer of a residual stream is centred, so is the stream, and a LayerNorm on it need not do it.
    """
    weight, bias = weight_and_bias(layer)
    return make_linear(weight - weight.mean(0), bias - bias.mean())


def centre_groups(layer: nn.Linear, outputs: int, group: int) -> nn.Linear:
    """``layer`` with its first ``outputs`` outputs less the mean of each ``group`` of them."""
    weight, bias = weight_and_bias(layer)
    rows = torch.cat((weight, bias[:, None]), dim=1)
    grouped = rows[:outputs].unflatten(0, (-1, group))
    centred = torch.cat(((grouped - grouped.mean(1, keepdim=True)).flatten(0, 1), rows[outputs:]))
    return make_linear(centred[:, :-1], centred[:, -1])


def centre_convolution(conv: nn.Conv2d) -> nn.Conv2d:
    """``conv(x)`` less the mean of its output channels, as one convolution."""
    weight = conv.weight.detach().double()
    bias = weight.new_zeros(len(weight)) if conv.bias is None else conv.bias.detach().double()
    centred = copy.deepcopy(conv)
    centred.weight = nn.Parameter((weight - weight.mean(0)).float().contiguous(), requires_grad=False)
    centred.bias = nn.Parameter((bias - bias.mean()).float(), requires_grad=False)
    return centred


def centre_rows(rows: Tensor) -> Tensor:
    """Constant tokens ``(..., D)``, each less its mean."""
    wide = rows.detach().double()
    return (wide - wide.mean(-1, keepdim=True)).float().contiguous()


def difference_of_outputs(layer: nn.Linear, first: int, second: int) -> nn.Linear:
    """``layer(x)[first] - layer(x)[second]`` as a layer with one output."""
    weight, bias = weight_and_bias(layer)
    return make_linear((weight[first] - weight[second])[None], (bias[first] - bias[second])[None])


def pad_outputs(layer: nn.Linear, multiple: int) -> nn.Linear:
    """``layer`` with outputs of zero behind its own, so that their number is a multiple of ``multiple``."""
    weight, bias = weight_and_bias(layer)
    missing = -len(weight) % multiple
    return make_linear(
        torch.cat((weight, weight.new_zeros(missing, weight.shape[1]))), torch.cat((bias, bias.new_zeros(missing)))
    )


def convolution_as_linear(conv: nn.Conv2d) -> nn.Linear:
    """A convolution whose stride is its kernel, as a Linear on flattened ``(C, kernel, kernel)`` patches."""
    assert conv.stride == conv.kernel_size and conv.padding == (0, 0), "its patches overlap"
    bias = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias.double()
    return make_linear(conv.weight.double().flatten(1), bias)


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

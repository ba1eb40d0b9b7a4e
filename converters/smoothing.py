"""Evening out the channels of the residual stream before int8: exact, and free when the model runs.

One channel of a trained net can be three times as loud as the others, and a token's int8 range is then spent on it.
SmoothQuant (arXiv 2211.10438) divides activations by a factor per channel and multiplies the weights behind them. Here the
whole residual stream is scaled: what writes to it multiplies, what reads from it divides, and the root mean square
weighs each channel's square by the inverse. No operator is added.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tofe_edge.converters.layers import Affine, ConvolutionStem, LatentPool, LinearStem, LocalNorm, RmsNorm, StaticBlock
from tofe_edge.converters.static_graph import (
    StaticApproximator,
    StaticComparingSelector,
    StaticSelector,
    StaticToFe,
    StaticUpdateApproximator,
)

STRENGTH = 0.5
"""Exponent of the loudness that is taken out of a channel, the paper's default. On the shipped net, with the tokens of
fp32: 27.0 dB without, 28.9 with one half, 27.7 with all of it, which leaves the weights too uneven."""


def loudest_normalised(graph: StaticToFe, images: Sequence[Tensor]) -> Tensor:
    """Per channel ``(D,)``, the mean over norms and images of the largest magnitude behind a norm of a block."""
    blocks = [module for module in graph.modules() if isinstance(module, StaticBlock)]
    norms = [norm for block in blocks for norm in (block.norm1, block.norm2)]
    total, seen = torch.zeros(()), 0

    def hook(_module: nn.Module, _args: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total, seen
        total, seen = total + output.abs().flatten(0, -2).amax(0), seen + 1

    hooks = [norm.register_forward_hook(hook) for norm in norms]
    try:
        with torch.no_grad():
            for image in images:
                graph(image)
    finally:
        for handle in hooks:
            handle.remove()
    return total / seen


def smooth_residual(graph: StaticToFe, loudness: Tensor, strength: float = STRENGTH) -> StaticToFe:
    """A copy of an fp32 graph, equal in output, whose residual channels are scaled by ``loudness ** -strength``."""
    scale = (loudness / loudness.log().mean().exp()).clamp(min=1e-3) ** -strength
    smoothed = copy.deepcopy(graph)
    stem = smoothed.stem
    assert isinstance(stem, (LinearStem, ConvolutionStem))
    if stem.prefix is not None:
        stem.prefix.mul_(scale)
    if stem.norm is None:
        _scale_rows(stem.embed if isinstance(stem, LinearStem) else stem.convolutions[-1], scale)
        stem.position.mul_(scale)
    else:
        for row in (stem.norm.weight, stem.norm.bias, stem.norm.out):
            row.mul_(scale)
    for module in smoothed.modules():
        if isinstance(module, RmsNorm) and not isinstance(module, LocalNorm):
            module.mean_row.div_(scale**2)
        elif isinstance(module, StaticBlock):
            _scale_columns(module.attn.qkv, scale)
            _scale_rows(module.attn.proj, scale)
            _scale_columns(module.fc1, scale)
            _scale_rows(module.fc2, scale)
        elif isinstance(module, StaticApproximator):
            _scale_columns(module.fc1, scale)
            _scale_rows(module.fc2, scale)
        elif isinstance(module, StaticUpdateApproximator):
            _scale_columns(module.fc, scale)
            _scale_rows(module.fc, scale)
        elif isinstance(module, StaticComparingSelector):
            for layer in (module.fc1, module.context, module.features):
                _scale_columns(layer, scale)
        elif isinstance(module, StaticSelector):
            _scale_columns(module.fc1, scale)
    pool = next((part for part in smoothed.head.modules() if isinstance(part, LatentPool)), None)
    # What a pool with an MLP of its own puts out is no longer the residual stream.
    for part in smoothed.head.modules() if pool is None else (pool.score, pool.value):
        if isinstance(part, nn.Linear):
            _scale_columns(part, scale)
        elif isinstance(part, Affine):
            part.weight.div_(scale)
    return smoothed


def _scale_rows(layer: nn.Module, scale: Tensor) -> None:
    assert isinstance(layer, (nn.Linear, nn.Conv2d))
    layer.weight = nn.Parameter(
        layer.weight.detach() * scale.view(-1, *[1] * (layer.weight.dim() - 1)), requires_grad=False
    )
    if layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias.detach() * scale, requires_grad=False)


def _scale_columns(layer: nn.Module, scale: Tensor) -> None:
    assert isinstance(layer, nn.Linear)
    layer.weight = nn.Parameter(layer.weight.detach() / scale, requires_grad=False)

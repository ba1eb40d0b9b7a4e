"""A static graph in operators that XNNPACK computes to the same bytes on 64-bit ARM and on x86-64 with AVX2.

XNNPACK picks a kernel for the CPU that it runs on. Integer kernels give the same bytes on all of them, and so do those
fp32 kernels that sum in order with fused multiply-add: matrix products, convolutions, exp, log, GELU, arithmetic.
Others do not: softmax and rsqrt are approximated in another way on each CPU, a Linear whose outputs do not fill whole
vectors is summed in another order on ARM, and a dynamic int8 Linear is other code if an ARM CPU has dot products
(measured kernel by kernel, docs/native.md). A difference in the last bit is not harmless in int8: now and then it turns a
rounding, and some layers later two machines round independently. So here nothing but the first kind is used.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tofe_edge.converters.folding import pad_outputs
from tofe_edge.converters.layers import RmsNorm, StaticAttention
from tofe_edge.converters.static_graph import StaticToFe

WHOLE_VECTORS = 8
"""A Linear whose number of outputs is a multiple of this is summed input by input on every CPU."""

SCORE_LIMIT = 64.0
"""Attention scores are held within plus and minus this. A softmax subtracts the largest score of its row so that nothing
overflows; finding it costs a pass that XNNPACK has no operator for, so ``exp`` is taken of the scores as they are: at 64 it
is 6e27, of which 1e10 can be summed, and at -64 still a normal number. Those of the shipped net lie between -33 and 27. If a
net has larger ones, two above the limit count as equal, nothing overflows, and the parity gates tell whether it matters."""


class ReproducibleNorm(RmsNorm):
    """:class:`RmsNorm` by ``exp(-log(v) / 2)``: all eight outputs of its product are the mean square, one is read."""

    def __init__(self, norm: RmsNorm) -> None:
        super().__init__(norm.mean_row.shape[1], 0.0)
        self.mean_row = norm.mean_row.repeat(WHOLE_VECTORS, 1)
        self.eps = norm.eps.repeat(WHOLE_VECTORS)

    def forward(self, x: Tensor) -> Tensor:
        mean_square = F.linear(x * x, self.mean_row, self.eps)[..., :1]
        return x * torch.exp(torch.log(mean_square) * -0.5)


class ReproducibleAttention(StaticAttention):
    """:class:`StaticAttention` with its softmax as exponentials divided by their sum."""

    def mix(self, scores: Tensor, value: Tensor) -> Tensor:
        weights = torch.exp(torch.clamp(scores, -SCORE_LIMIT, SCORE_LIMIT))
        # A column of ones made of data: a constant would be an operator outside of the delegate, and its length another
        # one for each budget.
        ones = 0.0 * value[..., :1] + 1.0
        return torch.bmm(weights, value) / torch.bmm(weights, ones)


class FirstOutputs(nn.Module):
    """The first ``count`` of the last axis."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        return x[..., : self.count]


def reproducible(graph: StaticToFe) -> StaticToFe:
    """A copy of an fp32 graph, equal up to rounding, that is computed to the same bytes on all these CPUs.

    To be quantized after this, with static ranges or not at all.
    """
    twin = copy.deepcopy(graph)
    for name, module in list(twin.named_modules()):
        if (replacement := _replacement(module)) is not None:
            twin.set_submodule(name, replacement)
    return twin


def _replacement(module: nn.Module) -> nn.Module | None:
    if isinstance(module, RmsNorm):
        return ReproducibleNorm(module)
    if isinstance(module, StaticAttention):
        return ReproducibleAttention(module.qkv, module.proj, module.heads)
    if isinstance(module, nn.Linear) and module.out_features % WHOLE_VECTORS:
        return nn.Sequential(pad_outputs(module, WHOLE_VECTORS), FirstOutputs(module.out_features))
    return None

"""Programs of single parts of a net, lowered exactly as the whole net is, to be timed one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tofe_edge.budget.latency_model import Part
from tofe_edge.converters.executorch import lower
from tofe_edge.converters.quantize import plan_int8, quantize
from tofe_edge.converters.static_graph import StaticToFe, build_static_graph
from tofe_edge.errors import InputError
from tofe_edge.model.backbones import Backbone, TokenCounts
from tofe_edge.model.tofe import ToFe

_METHODS = 8
"""StaticLayers in one program: few enough to show progress, for the exporter works on a program as a whole."""


@dataclass(frozen=True)
class ProbeProgram:
    """An ExecuTorch program with a method for each of its parts, under the part's own name."""

    parts: tuple[Part, ...]
    content: bytes


def build_probes(model: ToFe, parts: Sequence[Part], precision: str) -> Iterator[ProbeProgram]:
    """Programs of all ``parts``, one after the other, for each takes seconds to lower.

    Times do not depend on weights: those of ``model`` are taken as they are, int8 rounds them to nearest.

    Args:
        precision: ``fp32``, or ``int8`` with dynamic ranges.

    Raises:
        InputError: the precision is another one, or the net cannot be rewritten or timed in parts.
    """
    if precision not in ("fp32", "int8"):
        raise InputError(f"precision {precision!r}: latency is predicted for fp32 and int8, which XNNPACK computes in")
    spec = model.backbone.spec
    if spec.reads_patches(spec.default_output):
        raise InputError(
            f"{spec.name}: its head reads all patch tokens; latency is predicted for heads that read CLS, so give a budget in GMACs"
        )
    anchors = [part for part in parts if part.kind == "tofe"]
    kept = TokenCounts(anchors[0].tokens) if anchors else TokenCounts((1,) * len(spec.stages))
    # A dense graph would have no selector to time.
    graphs = {True: _in_precision(build_static_graph(model, kept), precision)}
    if any(part.kind == "dense" for part in parts):
        graphs[False] = _in_precision(build_static_graph(model, None), precision)
    whole = [part for part in parts if part.kind in ("dense", "tofe")]
    single = [part for part in parts if part not in whole]
    groups = [single[first : first + _METHODS] for first in range(0, len(single), _METHODS)]
    for group in (*groups, whole):
        if group:
            methods = {part.method: _module_of(part, graphs[part.kind != "dense"], spec) for part in group}
            shapes = {part.method: _input_shape(part, spec) for part in group}
            yield ProbeProgram(tuple(group), lower(methods, shapes).program)


def count_programs(parts: Sequence[Part]) -> int:
    """How many programs :func:`build_probes` makes."""
    whole = sum(part.kind in ("dense", "tofe") for part in parts)
    return -(-(len(parts) - whole) // _METHODS) + (whole > 0)


def _in_precision(graph: StaticToFe, precision: str) -> StaticToFe:
    return graph if precision == "fp32" else quantize(graph, plan_int8(graph, "dynamic"))


def _module_of(part: Part, graph: StaticToFe, spec: Backbone) -> nn.Module:
    kind = part.kind
    if kind == "call":
        return _Doubled()
    if kind == "stem":
        return graph.stem
    if kind == "selection":
        return _Selection(graph, spec.patch_tokens)
    if kind == "block":
        return graph.blocks[0]
    if kind == "tail":
        return nn.Sequential(graph.blocks[-1], graph.head)
    if kind == "approximator":
        return graph.approximators[0]
    return graph if kind == "dense" else graph.with_counts(part.tokens)


def _input_shape(part: Part, spec: Backbone) -> tuple[int, ...]:
    if part.kind in ("stem", "dense", "tofe"):
        return (1, 3, spec.image_size, spec.image_size)
    if part.kind == "selection":
        return (1, spec.prefix_tokens + spec.patch_tokens, spec.dim)
    return (1, part.tokens[0], spec.dim)


class _Doubled(nn.Module):
    """The least that a delegate can be asked for: what is left of its time is the call."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + tokens


class _Selection(nn.Module):
    """What stands between two stages but for the approximator: scores, order, the two halves."""

    def __init__(self, graph: StaticToFe, patch_tokens: int) -> None:
        super().__init__()
        self.selector = graph.selectors[0]
        self.select = graph.select
        self.prefix, self.patch_tokens = graph.prefix, patch_tokens

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        prefix, patches = tokens[:, : self.prefix], tokens[:, self.prefix :]
        scores = self.selector(patches).view(1, self.patch_tokens)
        order, ordered = self.select(scores, patches, self.patch_tokens)
        half = self.patch_tokens // 2
        return torch.cat((prefix, ordered[:, :half]), dim=1), ordered[:, half:], order

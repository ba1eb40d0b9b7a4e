"""The static graph of a ToFe net: fixed batch, fixed token counts, no scatter.

Spatial order is not needed once the position embedding is added: attention, per-token MLPs, a CLS head and
a max-pooled head do not depend on token order. So the graph never rearranges: it concatenates
[prefix, kept, frozen + Approx(frozen)] and selects again. Where tokens ended up is returned as the index
tensor of each selection, at no cost; :func:`tofe_edge.evaluation.prediction.compose_selections` turns those into image
positions.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tofe_edge.converters.decompose import StaticLayers, to_static_layers
from tofe_edge.converters.folding import centre_output, difference_of_outputs, fold_norm
from tofe_edge.converters.layers import rms_norm
from tofe_edge.converters.selection import Select, prepared, select_by_topk
from tofe_edge.model.backbones import TokenCounts
from tofe_edge.model.tofe import KEEP, ToFe, TokenApproximator, TokenSelector


class StaticSelector(nn.Module):
    """Scores ``(B, N, 1)`` of patch tokens: the difference of keep and freeze logits, norm folded."""

    def __init__(self, selector: TokenSelector) -> None:
        super().__init__()
        self.norm = rms_norm(selector.norm)
        self.fc1 = fold_norm(selector.norm, selector.fc1)
        self.fc2 = selector.fc2
        self.score = difference_of_outputs(selector.fc3, KEEP, 1 - KEEP)

    def forward(self, patches: Tensor) -> Tensor:
        out: Tensor = self.score(F.gelu(self.fc2(F.gelu(self.fc1(self.norm(patches))))))
        return out


class StaticApproximator(nn.Module):
    """A token approximator on centred tokens, centred output."""

    def __init__(self, approximator: TokenApproximator) -> None:
        super().__init__()
        self.fc1: nn.Module = approximator.fc1
        self.fc2: nn.Module = centre_output(approximator.fc2)

    def forward(self, frozen: Tensor) -> Tensor:
        out: Tensor = frozen + self.fc2(F.gelu(self.fc1(frozen)))
        return out


class StaticToFe(nn.Module):
    """Images ``(B, 3, H, W)`` to logits ``(B, classes)`` and one selection per stage, ``(K,)`` or ``(B, K)``.

    Selection s lists, in the order of that stage's input tokens, the kept tokens best first and then the
    frozen ones; the last stage lists the kept tokens alone. Without counts the graph is the dense backbone
    and returns logits alone.
    """

    def __init__(
        self,
        parts: StaticLayers,
        selectors: Sequence[TokenSelector],
        approximators: Sequence[TokenApproximator],
        kept: Sequence[int],
        select: Select = select_by_topk,
    ) -> None:
        super().__init__()
        self.stem = parts.stem
        self.blocks = nn.ModuleList(parts.blocks)
        self.head = parts.head
        self.selectors = nn.ModuleList(StaticSelector(selector) for selector in selectors)
        self.approximators = nn.ModuleList(StaticApproximator(approximator) for approximator in approximators)
        self.prefix = parts.spec.prefix_tokens
        self.kept = tuple(kept)
        self.select = prepared(select, parts.spec.patch_tokens)
        edges = (0, *(parts.spec.stages if kept else ()), parts.spec.depth)
        self.stage_blocks = tuple(range(start, end) for start, end in pairwise(edges))

    def forward(self, image: Tensor, forced: Sequence[Tensor] = ()) -> tuple[Tensor, ...]:
        """Classify; ``forced`` are selections to follow instead of the scores (batch 1, measurement only)."""
        tokens = self._run_blocks(0, self.stem(image))
        frozen: Tensor | None = None
        selections: list[Tensor] = []
        for stage, kept in enumerate(self.kept):
            # 1. All patch tokens: kept ones, and frozen ones approximated.
            prefix, patches = tokens[:, : self.prefix], tokens[:, self.prefix :]
            if frozen is not None:
                patches = torch.cat((patches, self.approximators[stage - 1](frozen)), dim=1)
            # 2. Their order, best first.
            total, last = patches.shape[1], stage + 1 == len(self.kept)
            if forced:
                order, sorted_patches = forced[stage], patches[:, forced[stage].view(-1).long()]
            else:
                scores = self.selectors[stage](patches).view(patches.shape[:2])
                order, sorted_patches = self.select(scores, patches, kept if last else total)
            selections.append(order)
            # 3. The best go on, the others are frozen.
            all_stay = last or kept == total
            staying = sorted_patches if all_stay else sorted_patches[:, :kept]
            tokens = torch.cat((prefix, staying), dim=1)
            frozen = None if all_stay else sorted_patches[:, kept:]
            tokens = self._run_blocks(stage + 1, tokens)
        return (self.head(tokens), *selections)

    def with_counts(self, kept: Sequence[int]) -> StaticToFe:
        """The same net, sharing every weight, with other token counts."""
        twin = copy.copy(self)
        twin.kept = tuple(kept)
        return twin

    def _run_blocks(self, stage: int, tokens: Tensor) -> Tensor:
        for index in self.stage_blocks[stage]:
            tokens = self.blocks[index](tokens)
        return tokens


def build_static_graph(model: ToFe, counts: TokenCounts | None, select: Select = select_by_topk) -> StaticToFe:
    """Rewrite ``model`` for export; ``counts`` = ``None`` gives the dense backbone.

    The result shares no tensor with ``model`` that a folding changed, and agrees with
    :meth:`ToFe.forward_batch` (or ``forward_dense``) up to rounding.

    Raises:
        InputError: the counts do not fit, or the backbone has a part that cannot be rewritten.
    """
    parts = to_static_layers(model.backbone)
    if counts is None:
        return StaticToFe(parts, (), (), ()).eval()
    kept = counts.check(model.backbone.spec).kept
    selectors = [selector for selector in model.selectors if isinstance(selector, TokenSelector)]
    approximators = [module for module in model.approximators if isinstance(module, TokenApproximator)]
    return StaticToFe(parts, selectors, approximators, kept, select).eval()

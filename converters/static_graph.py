"""The static graph of a ToFe net: fixed batch, fixed token counts, no scatter.

Spatial order is not needed once the position embedding is added: attention, per-token MLPs, and heads that read CLS or
pool do not depend on token order. So the graph never rearranges: it concatenates
[prefix, kept, frozen + Approx(frozen)] and selects again. Features are put back in their places once, at the end.
Where tokens ended up is returned as the index tensor of each selection, at no cost;
:func:`tofe_edge.evaluation.prediction.compose_selections` turns those into image positions.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tofe_edge.converters.decompose import StaticLayers, to_static_layers
from tofe_edge.converters.folding import centre_output, difference_of_outputs, fold_norm
from tofe_edge.converters.layers import behind_prefix, for_each_image, last_tokens, rms_norm, weighted_sum
from tofe_edge.converters.selection import STEEP, Select, prepared, select_by_topk
from tofe_edge.model.backbones import TokenCounts
from tofe_edge.model.backbones.spec import Output
from tofe_edge.model.merging import CLOSENESS, SHARPNESS
from tofe_edge.model.tofe import KEEP, ComparingSelector, ToFe, TokenApproximator, TokenSelector, UpdateApproximator


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


class StaticComparingSelector(nn.Module):
    """Scores ``(B, N, 1)`` of patch tokens, and the features ``(B, N, FEATURES)`` that they are compared by.

    Features have the length ``CLOSENESS ** 0.5``, so that their products need no factor. Of the resemblance to a better
    token a constant is left out, which changes no order.
    """

    def __init__(self, selector: ComparingSelector, patch_tokens: int) -> None:
        super().__init__()
        self.norm = rms_norm(selector.norm)
        self.fc1 = fold_norm(selector.norm, selector.fc1)
        self.context = fold_norm(selector.norm, selector.context)
        self.fc2 = selector.fc2
        self.score = difference_of_outputs(selector.fc3, KEEP, 1 - KEEP)
        self.features = centre_output(selector.features)
        self.weight = float(selector.aversion.detach()) / CLOSENESS
        self.mean_row: Tensor
        self.lengths: Tensor
        self.ones: Tensor
        self.one: Tensor
        self.register_buffer("mean_row", torch.full((1, 1, patch_tokens), 1.0 / patch_tokens))
        self.register_buffer("lengths", torch.full((1, self.features.out_features), 1.0 / CLOSENESS))
        self.register_buffer("ones", torch.ones(1, patch_tokens))
        self.register_buffer("one", torch.ones(1))

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.norm(patches)
        # 1. The score of each token beside the mean of all.
        hidden = self.fc1(tokens) + self.context(self.mean(tokens))
        scores = self.score(F.gelu(self.fc2(F.gelu(hidden))))
        # 2. Features of one length.
        features = self.features(tokens)
        features = features * torch.rsqrt(self.mean_square(features))
        # 3. Less the resemblance to a better one.
        return scores - self.resemblance(features, scores) * self.weight, features

    def mean(self, tokens: Tensor) -> Tensor:
        """The mean token ``(B, 1, D)``."""
        return weighted_sum(self.mean_row, tokens)

    def mean_square(self, features: Tensor) -> Tensor:
        """Square of the length that features have, over that which they shall have: ``(B, N, 1)``."""
        return F.linear(features * features, self.lengths)

    def resemblance(self, features: Tensor, scores: Tensor) -> Tensor:
        """How much each token resembles one with a higher score, ``CLOSENESS`` times and less a constant: ``(B, N, 1)``."""
        batch, total, _ = scores.shape
        closeness = torch.exp(torch.bmm(features, features.permute(0, 2, 1)))
        better = torch.clamp((scores.view(batch, 1, total) - scores) * STEEP, 0.0, 1.0)
        return torch.log(F.linear(closeness * better, self.ones, self.one))


class StaticUpdateApproximator(nn.Module):
    """Updates of kept tokens to those of the frozen tokens merged into them; centred in and out."""

    def __init__(self, approximator: UpdateApproximator) -> None:
        super().__init__()
        self.fc: nn.Module = centre_output(approximator.fc)

    def forward(self, update: Tensor) -> Tensor:
        out: Tensor = self.fc(update)
        return out


@dataclass(frozen=True)
class StaticMerge:
    """Kept tokens ``(B, K, D)`` with the frozen ones averaged in; see :class:`tofe_edge.model.merging.Merge`."""

    tokens: Tensor
    sizes: Tensor
    """``(B, K, 1)``"""
    shares: Tensor
    """``(B, M, K)``"""


def static_merge(tokens: Tensor, features: Tensor, kept: int) -> StaticMerge:
    """Average tokens from ``kept`` on into the first ``kept`` ones, by features of the length ``CLOSENESS ** 0.5``."""
    staying, frozen = tokens[:, :kept], tokens[:, kept:]
    alike = torch.bmm(features[:, kept:] * (SHARPNESS / CLOSENESS), features[:, :kept].permute(0, 2, 1))
    shares = torch.ops.aten._softmax(alike, -1, False)
    to_kept = shares.permute(0, 2, 1)
    # Ones made of data: a constant's length would be another one for each budget.
    sizes = torch.bmm(to_kept, 0.0 * frozen[:, :, :1] + 1.0) + 1.0
    return StaticMerge((staying + torch.bmm(to_kept, frozen)) / sizes, sizes, shares)


class StaticApproximator(nn.Module):
    """A token approximator on centred tokens, centred output."""

    def __init__(self, approximator: TokenApproximator) -> None:
        super().__init__()
        self.fc1: nn.Module = approximator.fc1
        self.fc2: nn.Module = centre_output(approximator.fc2)

    def forward(self, frozen: Tensor) -> Tensor:
        out: Tensor = frozen + self.fc2(F.gelu(self.fc1(frozen)))
        return out


@dataclass(frozen=True)
class _Ranked:
    """Patch tokens ``(B, K, D)``, best first."""

    tokens: Tensor
    features: Tensor | None
    """What a net that merges compares tokens by: ``(B, K, FEATURES)``."""
    places: Tensor | None
    """Where the tokens are in the image, ``(B, K, 1)``, if the output is in that order."""


class StaticToFe(nn.Module):
    """Images ``(B, 3, H, W)`` to an output (by default logits ``(B, classes)``) and one selection per stage, ``(K,)`` or ``(B, K)``.

    Selection s lists, in the order of that stage's input tokens, the kept tokens best first and then the
    frozen ones; the last stage lists the kept tokens alone, unless something is made of the frozen ones. Without
    counts the graph is the dense backbone and returns the output alone.
    """

    def __init__(
        self,
        parts: StaticLayers,
        selectors: Sequence[nn.Module],
        approximators: Sequence[nn.Module],
        kept: Sequence[int],
        select: Select = select_by_topk,
    ) -> None:
        super().__init__()
        self.stem = parts.stem
        self.blocks = nn.ModuleList(parts.blocks)
        self.head = parts.head
        self.selectors = nn.ModuleList(selectors)
        self.approximators = nn.ModuleList(approximators)
        self.merges = parts.spec.merges
        self.output = parts.output
        self.thaws_last = parts.spec.reads_patches(parts.output)
        self.prefix = parts.spec.prefix_tokens
        self.kept = tuple(kept)
        self.select = prepared(select, parts.spec.patch_tokens)
        edges = (0, *(parts.spec.stages if kept else ()), parts.spec.depth)
        self.stage_blocks = tuple(range(start, end) for start, end in pairwise(edges))
        self.places: Tensor
        self.register_buffer("places", None)
        if kept and parts.output == "features":
            self.places = torch.arange(parts.spec.patch_tokens, dtype=torch.float32).view(1, -1, 1)

    @property
    def ranks_all(self) -> bool:
        """Whether the last selection lists frozen tokens too, behind the kept ones."""
        return self.merges or self.thaws_last

    def forward(self, image: Tensor, forced: Sequence[Tensor] = ()) -> tuple[Tensor, ...]:
        """Run the net; ``forced`` are selections to follow instead of the scores (batch 1, measurement only)."""
        tokens = self._run_blocks(0, self.stem(image))
        frozen: Tensor | None = None
        merged: StaticMerge | None = None
        places: Tensor | None = None
        selections: list[Tensor] = []
        for stage, kept in enumerate(self.kept):
            # 1. All patch tokens: kept ones, and frozen ones approximated.
            prefix, patches = tokens[:, : self.prefix], last_tokens(tokens, self.prefix)
            if frozen is not None:
                patches = torch.cat((patches, self._thaw(stage - 1, frozen, merged, patches)), dim=1)
            # 2. Their order, best first.
            total, last = patches.shape[1], stage + 1 == len(self.kept)
            count = kept if last and not self.ranks_all else total
            order, ranked = self._select(stage, patches, places, count, forced)
            selections.append(order)
            # 3. The best go on, the others are frozen, and merged into them or silent.
            all_stay, places = kept >= count, ranked.places
            staying = ranked.tokens if all_stay else ranked.tokens[:, :kept]
            merged = None
            if ranked.features is not None and not all_stay:
                merged = static_merge(ranked.tokens, ranked.features, kept)
            tokens = behind_prefix(prefix, staying if merged is None else merged.tokens)
            frozen = None if all_stay or (last and not self.thaws_last) else ranked.tokens[:, kept:]
            tokens = self._run_blocks(stage + 1, tokens, self._log_sizes(prefix, merged))
        # 4. What is read: kept tokens, or all.
        if frozen is not None:
            thawed = self._thaw(len(self.kept) - 1, frozen, merged, last_tokens(tokens, self.prefix))
            tokens = torch.cat((tokens, thawed), dim=1)
        out = self.head(tokens)
        return (out if places is None else self._in_places(out, places), *selections)

    def _in_places(self, features: Tensor, places: Tensor) -> Tensor:
        """Tokens in the order of their places: selected by the negative of these."""
        batch, total, _ = features.shape
        _, ordered = self.select((-1.0 * places).view(batch, total), features, total)
        return ordered

    def _thaw(self, stage: int, frozen: Tensor, merged: StaticMerge | None, processed: Tensor) -> Tensor:
        """Frozen tokens after ``stage``, of which the kept ones came out as ``processed``."""
        approximator = self.approximators[stage] if stage < len(self.approximators) else None
        if merged is None:
            return frozen if approximator is None else approximator(frozen)
        update = processed - merged.tokens
        return frozen + torch.bmm(merged.shares, update if approximator is None else approximator(update))

    def _select(
        self, stage: int, patches: Tensor, places: Tensor | None, count: int, forced: Sequence[Tensor]
    ) -> tuple[Tensor, _Ranked]:
        """The order of the patch tokens, and the best ``count`` of them in it."""
        batch, total, dim = patches.shape
        scored = self.selectors[stage](patches)
        scores, features = scored if self.merges else (scored, None)
        if self.places is not None and places is None:
            places = for_each_image(self.places, patches[:, :, :1])
        # One operator moves all.
        moved = [one for one in (patches, features, places) if one is not None]
        if len(moved) > 1:
            patches = torch.cat(moved, dim=2)
        if forced:
            order, ranked = forced[stage], patches[:, forced[stage].view(-1).long()]
        else:
            order, ranked = self.select(scores.view(batch, total), patches, count)
        if len(moved) == 1:
            return order, _Ranked(ranked, None, None)
        end = dim if features is None else dim + features.shape[2]
        return order, _Ranked(
            ranked[:, :, :dim],
            None if features is None else ranked[:, :, dim:end],
            None if places is None else ranked[:, :, end:],
        )

    @staticmethod
    def _log_sizes(prefix: Tensor, merged: StaticMerge | None) -> Tensor | None:
        """``(B, 1, P + K)``; prefix tokens stand for themselves."""
        if merged is None:
            return None
        columns = behind_prefix(0.0 * prefix[:, :, :1], torch.log(merged.sizes))
        return columns.view(len(prefix), 1, columns.shape[1])

    def with_counts(self, kept: Sequence[int]) -> StaticToFe:
        """The same net, sharing every weight, with other token counts."""
        twin = copy.copy(self)
        twin.kept = tuple(kept)
        return twin

    def _run_blocks(self, stage: int, tokens: Tensor, log_sizes: Tensor | None = None) -> Tensor:
        for index in self.stage_blocks[stage]:
            tokens = self.blocks[index](tokens, log_sizes)
        return tokens


def build_static_graph(
    model: ToFe,
    counts: TokenCounts | None,
    select: Select = select_by_topk,
    output: Output | None = None,
    normalize: bool = False,
) -> StaticToFe:
    """Rewrite ``model`` for export; ``counts`` = ``None`` gives the dense backbone.

    The result shares no tensor with ``model`` that a folding changed, and agrees with
    :meth:`ToFe.forward_batch` (or ``forward_dense``) up to rounding.

    Args:
        output: what the graph gives first; ``None``: the net's default.
        normalize: whether an embedding is divided by its length.

    Raises:
        InputError: the counts do not fit, the net does not have this output, or the backbone has a part that cannot be rewritten.
    """
    parts = to_static_layers(model.backbone, output, normalize)
    if counts is None:
        return StaticToFe(parts, (), (), ()).eval()
    kept = counts.check(model.backbone.spec).kept
    selectors = [_static_selector(selector, model.backbone.spec.patch_tokens) for selector in model.selectors]
    approximators = [_static_approximator(approximator) for approximator in model.approximators]
    return StaticToFe(parts, selectors, approximators, kept, select).eval()


def _static_selector(selector: nn.Module, patch_tokens: int) -> nn.Module:
    if isinstance(selector, ComparingSelector):
        return StaticComparingSelector(selector, patch_tokens)
    assert isinstance(selector, TokenSelector)
    return StaticSelector(selector)


def _static_approximator(approximator: nn.Module) -> nn.Module:
    if isinstance(approximator, UpdateApproximator):
        return StaticUpdateApproximator(approximator)
    assert isinstance(approximator, TokenApproximator)
    return StaticApproximator(approximator)

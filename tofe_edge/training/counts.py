"""Measuring token counts N^s: what a trained net's selectors keep, without noise, on images it was not trained on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tofe_edge.errors import InputError
from tofe_edge.io.dataset import Sample
from tofe_edge.io.preprocessing import Preprocessing, preprocess
from tofe_edge.io.progress import progress_bar
from tofe_edge.model.backbones import Backbone, TokenCounts
from tofe_edge.model.tofe import ToFe
from tofe_edge.training.cost import Cost, GmacsCost
from tofe_edge.training.noise import gumbel_sampler

_BATCH = 16
_UNDECIDED = 0.05
"""Share of the target by which scaled counts may miss it before the means with noise are tried."""
TARGET_TOLERANCE = 0.01
"""Share of the target by which the cost of the measured counts may miss it before they are scaled."""


@dataclass(frozen=True)
class MeasuredCounts:
    """Mean kept patch tokens per stage over ``images`` images, without noise and with it."""

    means: tuple[float, ...]
    sampled_means: tuple[float, ...]
    """With Gumbel noise at full scale. Far from ``means``: the selectors hover around 0.5."""
    images: int


@dataclass(frozen=True)
class FittedCounts:
    """Token counts, and the factor that took the measured means to the target (1: they met it)."""

    counts: TokenCounts
    factor: float
    with_noise: bool = False
    """Whether the means with noise were taken, because no factor takes those without it near the target."""


def read_images(samples: Sequence[Sample], preprocessing: Preprocessing) -> Tensor:
    """The images ``(B, 3, H, W)`` on which counts are measured; those that cannot be read are left out.

    Raises:
        InputError: none of them can be read.
    """
    arrays = []
    for sample in samples:
        try:
            arrays.append(preprocess(sample.read(), preprocessing))
        except InputError:
            continue
    if not arrays:
        raise InputError("token counts: none of the images to measure them on could be read")
    return torch.from_numpy(np.concatenate(arrays))


@torch.no_grad()
def measure_counts(model: ToFe, images: Tensor, seed: int = 0) -> MeasuredCounts:
    """What the selectors keep on average of ``images`` ``(B, 3, H, W)``."""
    model.eval()
    sums, sampled_sums = np.zeros(len(model.selectors)), np.zeros(len(model.selectors))
    with progress_bar("measuring token counts", total=len(images), unit="image") as bar:
        for start in range(0, len(images), _BATCH):
            stem = model.stem(images[start : start + _BATCH])
            sums += _kept(model.masked_from(stem).masks)
            sampled_sums += _kept(model.masked_from(stem, gumbel_sampler(seed, start)).masks)
            bar.update(len(stem))
    means, sampled = ((total / len(images)).tolist() for total in (sums, sampled_sums))
    return MeasuredCounts(tuple(means), tuple(sampled), len(images))


def fit_counts(means: Sequence[float], backbone: Backbone, target_gmacs: float) -> FittedCounts:
    """:func:`fit_to_budget` for a budget in GMACs."""
    return fit_to_budget(means, GmacsCost(backbone, target_gmacs))


def fit_to_budget(means: Sequence[float], cost: Cost) -> FittedCounts:
    """Token counts N^s from mean kept counts: rounded half up into [1, N], and scaled where they miss the target.

    Tokens that then cost nothing come on top.

    The budget loss ends where its pull balances that of the other losses, a few per cent above the target;
    a device budget is a limit. So where the rounded means miss the target by more than ``TARGET_TOLERANCE``
    all means are scaled by the one factor that meets it best.
    """
    most = cost.backbone.patch_tokens

    def misses(kept: Sequence[int]) -> float:
        return abs(cost.of_counts(kept) / cost.target - 1)

    plain = _rounded(means, most)
    if misses(plain) <= TARGET_TOLERANCE:
        return FittedCounts(TokenCounts(cost.raised(plain)), 1.0)
    # Many factors round to the same counts; of these the one nearest to 1 stands for all.
    nearest: dict[tuple[int, ...], float] = {}
    for factor in sorted(np.linspace(0.25, 4.0, 3751).tolist(), key=lambda factor: abs(factor - 1)):
        nearest.setdefault(_rounded([factor * mean for mean in means], most), factor)
    best = min(nearest, key=lambda kept: (misses(kept), abs(nearest[kept] - 1)))
    return FittedCounts(TokenCounts(cost.raised(best)), nearest[best])


def fit_measured(measured: MeasuredCounts, cost: Cost) -> FittedCounts:
    """Token counts N^s of a trained net: its means without noise, fitted to the budget.

    Selectors of a short run that hover around 0.5 may keep almost nothing of a stage as soon as the noise is off. No
    factor brings such means to the target; the means with noise, which the budget loss has brought there, are near it.
    """

    def misses(fitted: FittedCounts) -> float:
        return abs(cost.of_counts(fitted.counts.kept) / cost.target - 1)

    plain = fit_to_budget(measured.means, cost)
    if misses(plain) <= _UNDECIDED:
        return plain
    sampled = replace(fit_to_budget(measured.sampled_means, cost), with_noise=True)
    return min(plain, sampled, key=misses)


def _rounded(means: Sequence[float], patch_tokens: int) -> tuple[int, ...]:
    return tuple(min(patch_tokens, max(1, math.floor(mean + 0.5))) for mean in means)


def _kept(masks: Sequence[Tensor]) -> npt.NDArray[np.float64]:
    return np.array([float(mask.sum()) for mask in masks])

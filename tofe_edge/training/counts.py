"""Measuring token counts N^s: what a trained net's selectors keep, without noise, on images it was not trained on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tofe_edge.backbones import Backbone, TokenCounts
from tofe_edge.dataset import Sample
from tofe_edge.errors import InputError
from tofe_edge.macs import gmacs, tofe_macs
from tofe_edge.preprocessing import preprocess
from tofe_edge.progress import progress_bar
from tofe_edge.tofe import ToFe
from tofe_edge.training.noise import gumbel_sampler

_BATCH = 16
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


@torch.no_grad()
def measure_counts(model: ToFe, samples: Sequence[Sample], seed: int = 0) -> MeasuredCounts:
    """What the selectors keep on average.

    Raises:
        InputError: none of the samples can be read.
    """
    model.eval()
    sums, sampled_sums = np.zeros(len(model.selectors)), np.zeros(len(model.selectors))
    images = 0
    with progress_bar("measuring token counts", total=len(samples), unit="image") as bar:
        for start in range(0, len(samples), _BATCH):
            arrays = []
            for sample in samples[start : start + _BATCH]:
                try:
                    arrays.append(preprocess(sample.read(), model.backbone.preprocessing))
                except InputError:
                    continue
            if arrays:
                images_now = torch.from_numpy(np.concatenate(arrays))
                sums += _kept(model.forward_masked(images_now).masks)
                sampled_sums += _kept(model.forward_masked(images_now, gumbel_sampler(seed, start)).masks)
                images += len(arrays)
            bar.update(min(_BATCH, len(samples) - start))
    if not images:
        raise InputError("token counts: none of the held-out images could be read")
    means = tuple((sums / images).tolist())
    return MeasuredCounts(means, tuple((sampled_sums / images).tolist()), images)


def fit_counts(means: Sequence[float], backbone: Backbone, target_gmacs: float) -> FittedCounts:
    """Token counts N^s from mean kept counts: rounded half up into [1, N], and scaled where they miss the target.

    The budget loss ends where its pull balances that of the other losses, a few per cent above the target;
    a device budget is a limit. So where the rounded means miss the target by more than ``TARGET_TOLERANCE``
    all means are scaled by the one factor that meets it best.
    """
    plain = _rounded(means, backbone.patch_tokens)
    if _misses(plain, backbone, target_gmacs) <= TARGET_TOLERANCE:
        return FittedCounts(TokenCounts(plain), 1.0)
    factors = np.linspace(0.25, 4.0, 3751).tolist()
    best = min(
        factors,
        key=lambda factor: (
            _misses(_rounded([factor * mean for mean in means], backbone.patch_tokens), backbone, target_gmacs),
            abs(factor - 1),
        ),
    )
    return FittedCounts(TokenCounts(_rounded([best * mean for mean in means], backbone.patch_tokens)), best)


def _rounded(means: Sequence[float], patch_tokens: int) -> tuple[int, ...]:
    return tuple(min(patch_tokens, max(1, math.floor(mean + 0.5))) for mean in means)


def _misses(kept: Sequence[int], backbone: Backbone, target_gmacs: float) -> float:
    return abs(gmacs(tofe_macs(backbone, kept)) / target_gmacs - 1)


def _kept(masks: Sequence[Tensor]) -> npt.NDArray[np.float64]:
    return np.array([float(mask.sum()) for mask in masks])

"""Measuring token counts N^s: what a trained net's selectors keep, without noise, on images it was not trained on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tofe_edge.backbones import TokenCounts
from tofe_edge.dataset import Sample
from tofe_edge.errors import InputError
from tofe_edge.images import read_image
from tofe_edge.preprocessing import preprocess
from tofe_edge.progress import progress_bar
from tofe_edge.tofe import ToFe
from tofe_edge.training.noise import gumbel_sampler

_BATCH = 16


@dataclass(frozen=True)
class MeasuredCounts:
    """Mean kept patch tokens per stage over ``images`` images, and the counts that the noise-free means round to."""

    means: tuple[float, ...]
    sampled_means: tuple[float, ...]
    """With the Gumbel noise of training. Far from ``means``: the selectors hover around 0.5."""
    counts: TokenCounts
    images: int


@torch.no_grad()
def measure_counts(model: ToFe, samples: Sequence[Sample], seed: int = 0) -> MeasuredCounts:
    """Mean of the kept counts, rounded half up into [1, N].

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
                    arrays.append(preprocess(read_image(sample.path), model.backbone.preprocessing))
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
    tokens = model.backbone.spec.patch_tokens
    counts = tuple(min(tokens, max(1, math.floor(mean + 0.5))) for mean in means)
    return MeasuredCounts(means, tuple((sampled_sums / images).tolist()), TokenCounts(counts), images)


def _kept(masks: Sequence[Tensor]) -> npt.NDArray[np.float64]:
    return np.array([float(mask.sum()) for mask in masks])

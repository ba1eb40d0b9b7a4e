"""Measuring token counts N^s: what a trained net's selectors keep, without noise, on images it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tofe_edge.errors import InputError
from tofe_edge.io.dataset import Sample
from tofe_edge.io.preprocessing import Preprocessing, preprocess
from tofe_edge.io.progress import progress_bar
from tofe_edge.model.tofe import ToFe
from tofe_edge.training.noise import gumbel_sampler

_BATCH = 16


@dataclass(frozen=True)
class MeasuredCounts:
    """Mean kept patch tokens per stage over ``images`` images, without noise and with it."""

    means: tuple[float, ...]
    sampled_means: tuple[float, ...]
    """With Gumbel noise at full scale. Far from ``means``: the selectors hover around 0.5."""
    images: int


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


def _kept(masks: Sequence[Tensor]) -> npt.NDArray[np.float64]:
    return np.array([float(mask.sum()) for mask in masks])

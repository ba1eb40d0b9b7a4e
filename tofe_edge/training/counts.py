"""Token counts N^s and thresholds of a trained net, measured on images that it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tofe_edge.budget.cost import Cost, FittedCounts, fit_to_budget
from tofe_edge.errors import InputError
from tofe_edge.io.dataset import UNLABELLED, Sample, find_samples, sample_evenly
from tofe_edge.io.listing import Found, Tally, list_images
from tofe_edge.io.preprocessing import Preprocessing, preprocess
from tofe_edge.io.progress import progress_bar
from tofe_edge.io.shards import is_shard
from tofe_edge.model.backbones import TokenCounts
from tofe_edge.model.tofe import KEEP, ToFe
from tofe_edge.training.schedule import gumbel_sampler

_BATCH = 16
_FLAT = 1e-3
"""Standard deviation of normalised pixels below which an image has one colour."""

_UNDECIDED = 0.05
"""Share of the target by which scaled counts may miss it before the means with noise are tried."""


@dataclass(frozen=True)
class MeasuredCounts:
    """Mean kept patch tokens per stage over ``images`` images, without noise and with it."""

    means: tuple[float, ...]
    sampled_means: tuple[float, ...]
    """The same with Gumbel noise at full scale. Far from ``means``: the selectors hover around 0.5."""
    images: int


def read_images(samples: Sequence[Sample], preprocessing: Preprocessing, tally: Tally | None = None) -> Tensor:
    """Return the images ``(B, 3, H, W)`` on which counts are measured; those that cannot be read are left out.

    Args:
        tally: counts them.

    Raises:
        InputError: none of them can be read.
    """
    side, count, reason = preprocessing.image_size, 0, ""
    # In place, as 2000 images at once take more than a gigabyte.
    pixels = np.empty((len(samples), 3, side, side), np.float32)
    for sample in samples:
        try:
            pixels[count] = preprocess(sample.read(), preprocessing)[0]
            count += 1
        except InputError as error:
            reason = reason or str(error)
            if tally is not None:
                tally.add_unreadable(sample.location, str(error))
    if not count:
        raise InputError(f"token counts: none of the images to measure them on could be read (first: {reason})")
    return torch.from_numpy(pixels[:count])


def show_something(images: Tensor) -> Tensor:
    """Return which of the images ``(B, 3, H, W)`` have more than one colour: ``(B,)``."""
    return images.flatten(2).std(dim=2).amax(dim=1) > _FLAT


@torch.no_grad()
def measure_counts(model: ToFe, images: Tensor, seed: int = 0) -> MeasuredCounts:
    """Measure what the selectors keep on average of ``images`` ``(B, 3, H, W)``."""
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


def fit_measured(measured: MeasuredCounts, cost: Cost) -> tuple[FittedCounts, bool]:
    """Return token counts N^s of a trained net, fitted to the budget, and whether they are those with noise.

    Selectors of a short run that hover around 0.5 may keep almost nothing of a stage as soon as the noise is off. No
    factor brings such means to the target; the means with noise, which the budget loss has brought there, are near it.
    """

    def misses(fitted: FittedCounts) -> float:
        return abs(cost.of_counts(fitted.counts.kept) / cost.target - 1)

    plain = fit_to_budget(measured.means, cost)
    if misses(plain) <= _UNDECIDED:
        return plain, False
    sampled = fit_to_budget(measured.sampled_means, cost)
    return (sampled, True) if misses(sampled) < misses(plain) else (plain, False)


def _kept(masks: Sequence[Tensor]) -> npt.NDArray[np.float64]:
    return np.array([float(mask.sum()) for mask in masks])


_MOST_IMAGES = 1024
"""Single images differ by tens of tokens, so their mean is known to one."""


def typical_samples(source: Path, class_ids: Sequence[str], seed: int, most: int = _MOST_IMAGES) -> Found[Sample]:
    """Return a seeded selection of at most ``most`` images to center on, or to reduce a net with.

    A folder gives any of its images, with labels or without; tables and shards (see :func:`find_samples`) give those that
    are spread evenly over their classes.

    Raises:
        InputError: the source is unfit, or holds no image.
    """
    if not source.is_dir() or any(is_shard(entry) for entry in source.glob("[!.]*")):
        found = find_samples(source, class_ids, allow_empty=True)
        return Found(sample_evenly(found, most, seed), found.coverage)
    paths = list_images(source, class_ids)
    chosen = np.random.default_rng(seed).permutation(len(paths))[:most]
    return Found((Sample(paths[position], UNLABELLED) for position in sorted(chosen.tolist())), paths.coverage)


@torch.no_grad()
def center_selectors(model: ToFe, counts: TokenCounts, images: Tensor) -> None:
    """Shift each selector, in place, by the one number with which instance mode keeps N^s tokens on average.

    Stage by stage, since what a stage keeps changes the scores of the next. The order of the scores stays.

    Args:
        images: ``(B, 3, H, W)`` on which the mean is to hold.
    """
    stems = [model.stem(some) for some in images.split(_BATCH)]
    for stage, count in enumerate(counts.check(model.backbone.spec).kept):
        scores = torch.cat([_scores(model, stage, stem) for stem in stems]).flatten()
        bias = model.selectors[stage].get_submodule("fc3").get_parameter("bias")
        bias[KEEP] -= _threshold(scores, round(count * len(images)))


def _scores(model: ToFe, stage: int, stem: Tensor) -> Tensor:
    """Return the scores of selector ``stage`` in instance mode, ``(B, N)``."""
    if stage == 0:
        return model.score(stage, stem[:, model.backbone.spec.prefix_tokens :])
    return model.score(stage, model.masked_from(stem).rearranged[stage - 1])


def _threshold(scores: Sequence[float] | Tensor, above: int) -> Tensor:
    """Return a number that ``above`` of the scores are greater than, as near as ties let it."""
    ranked = torch.as_tensor(scores).sort(descending=True).values
    if above >= len(ranked):
        return ranked[-1] - 1
    return (ranked[above - 1] + ranked[above]) / 2

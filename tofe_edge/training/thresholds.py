"""Where selectors say keep: moved so that both modes of inference keep as much.

Batch-adaptive inference reads the order of the scores alone. Instance-adaptive inference also reads where their zero is,
and neither noise in training, nor scaled counts, nor training with fixed counts leave it where the mean count is N^s.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tofe_edge.io.dataset import Sample, find_samples, is_shard, sample_evenly
from tofe_edge.io.images import list_images
from tofe_edge.model.backbones import TokenCounts
from tofe_edge.model.tofe import KEEP, ToFe

_BATCH = 16
_MOST_IMAGES = 1024
"""Single images differ by tens of tokens, so their mean is known to one."""

_UNKNOWN = -1
"""The label of an image without one."""


def typical_samples(source: Path, class_ids: Sequence[str], seed: int) -> list[Sample]:
    """A seeded selection of images to center on.

    Of a folder any of its images, with labels or without; of tables and shards (see :func:`find_samples`) those that are
    spread evenly over their classes.

    Raises:
        InputError: the source is unfit, or holds no image.
    """
    if not source.is_dir() or any(is_shard(entry) for entry in source.glob("[!.]*")):
        return sample_evenly(find_samples(source, class_ids), _MOST_IMAGES, seed)
    paths = list_images(source)
    chosen = np.random.default_rng(seed).permutation(len(paths))[:_MOST_IMAGES]
    return [Sample(paths[position], _UNKNOWN) for position in sorted(chosen.tolist())]


@torch.no_grad()
def center_selectors(model: ToFe, counts: TokenCounts, images: Tensor) -> None:
    """Shift each selector, in place, by the one number with which instance mode keeps N^s tokens on average.

    Stage by stage, since what a stage keeps changes the scores of the next. The order of the scores stays.

    Args:
        images: ``(B, 3, H, W)`` on which the mean is to hold.
    """
    stems = [model.stem(some) for some in images.split(_BATCH)]
    for stage, wanted in enumerate(counts.check(model.backbone.spec).kept):
        scores = torch.cat([_scores(model, stage, stem) for stem in stems]).flatten()
        bias = model.selectors[stage].get_submodule("fc3").get_parameter("bias")
        bias[KEEP] -= _threshold(scores, round(wanted * len(images)))


def _scores(model: ToFe, stage: int, stem: Tensor) -> Tensor:
    """Of selector ``stage`` in instance mode, ``(B, N)``."""
    if stage == 0:
        return model.score(stage, stem[:, model.backbone.spec.prefix_tokens :])
    return model.score(stage, model.masked_from(stem).rearranged[stage - 1])


def _threshold(scores: Sequence[float] | Tensor, above: int) -> Tensor:
    """A number that ``above`` of the scores are greater than, as near as ties let it."""
    ranked = torch.as_tensor(scores).sort(descending=True).values
    if above >= len(ranked):
        return ranked[-1] - 1
    return (ranked[above - 1] + ranked[above]) / 2

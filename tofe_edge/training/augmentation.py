"""How training images are varied: random crops, and pieces of one image in another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Augmentation:
    """What a crop is drawn with."""

    crop_scale: float
    """Least share of an image's area."""
    cutmix: float = 0.0
    """Share of a batch's crops that get a rectangle of another one."""


def cutmix(images: Images, share: float, generator: np.random.Generator) -> Images:
    """Paste a rectangle of the next image of the batch into each of a random ``share`` of them (CutMix, arXiv 1905.04899).

    The pasted share of the area is uniform in (0, 1) before the rectangle is cut off at the border. No label fits such
    an image: it is one to ask a teacher about.

    Args:
        images: ``(B, C, H, W)``; not changed.
        share: in [0, 1].

    Returns:
        As ``images``; with no share ``images`` itself. The same state of ``generator`` gives the same rectangles.
    """
    if not share:
        return images
    height, width = images.shape[2:]
    others, mixed = np.roll(images, -1, axis=0), images.copy()
    for index in range(len(images)):
        # All of these are drawn for each image, so that a rectangle does not depend on which images were mixed before.
        chance, area, row, column = generator.random(4)
        if chance >= share:
            continue
        half = np.sqrt(area) / 2
        top, bottom = _span(row, half, height)
        left, right = _span(column, half, width)
        mixed[index, :, top:bottom, left:right] = others[index, :, top:bottom, left:right]
    return mixed


def _span(center: float, half: float, length: int) -> tuple[int, int]:
    return round(max(0.0, center - half) * length), round(min(1.0, center + half) * length)

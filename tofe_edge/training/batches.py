"""The images of a training run, and the crops of them that each step sees.

A crop follows from the seed, the image and the epoch alone, so a resumed run sees the same ones, and so do any number of
processes that share a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tofe_edge.errors import DeviceError, InputError, first_line
from tofe_edge.io.dataset import Sample, find_images, find_samples, sample_evenly
from tofe_edge.io.preprocessing import Preprocessing, random_resized_crop
from tofe_edge.training.recipe import Augmentation

_COUNTED_IMAGES = 256


@dataclass(frozen=True)
class Source:
    """A folder, table or shards of training images, each of them seen ``repeats`` times per epoch."""

    folder: Path
    repeats: int = 1

    @classmethod
    def parse(cls, text: str) -> Source:
        """Read ``FOLDER`` or ``FOLDER:REPEATS``."""
        folder, separator, repeats = text.rpartition(":")
        if separator and repeats.isdecimal() and int(repeats) > 0:
            return cls(Path(folder), int(repeats))
        return cls(Path(text))


@dataclass(frozen=True)
class TrainingSet:
    """What is trained on, and what is held out for measuring token counts."""

    train: tuple[Sample, ...]
    """The samples of one epoch, with repeats."""
    held_out: tuple[Sample, ...]
    remarks: tuple[str, ...] = ()
    """What the sources leave out."""

    @property
    def counted(self) -> tuple[Sample, ...]:
        """The images on which token counts are measured: those held out, or some of the others if none is."""
        return self.held_out or tuple(sample_evenly(self.train, _COUNTED_IMAGES))

    @classmethod
    def find(
        cls,
        sources: Sequence[Source],
        class_ids: Sequence[str] | None,
        held_out: int,
        seed: int,
        allow_empty: bool = False,
    ) -> TrainingSet:
        """List the images of ``sources`` and set ``held_out`` of them aside, drawn as an epoch draws them.

        Args:
            class_ids: ``None``: labels are not looked at, and folders may be of any depth.

        Raises:
            InputError: a folder is unfit or holds ``train`` and ``val``, or nothing is left to train on.
        """
        found = [
            find_images(source.folder) if class_ids is None else find_samples(source.folder, class_ids, allow_empty)
            for source in sources
        ]
        for source, samples in zip(sources, found):
            samples.coverage.refuse_sets(source.folder)
        flat = [
            (sample.location, sample, source.repeats) for source, samples in zip(sources, found) for sample in samples
        ]
        # An image may be in several sources: held out of one, it is held out of all.
        images = {place: sample for place, sample, _ in flat}
        if len(images) <= held_out:
            raise InputError(f"training: {len(images)} images are too few to hold {held_out} out; lower held_out")
        repeated = dict.fromkeys(images, 0.0)
        for place, _, repeats in flat:
            repeated[place] += repeats
        weights, places = np.array(list(repeated.values())), list(images)
        chosen = np.random.default_rng([seed, 1]).choice(
            len(places), held_out, replace=False, p=weights / weights.sum()
        )
        aside = {places[index] for index in chosen.tolist()}
        train = [sample for place, sample, repeats in flat if place not in aside for _ in range(repeats)]
        remarks = tuple(remark for samples in found for remark in samples.coverage.remarks)
        return cls(tuple(train), tuple(sample for place, sample in images.items() if place in aside), remarks)


@dataclass(frozen=True)
class Share:
    """Which parts of each step's batch a process takes, one after another."""

    parts: int = 1
    """Into how many equal parts a batch is cut."""
    own: range = range(1)
    """The process's own."""


WHOLE = Share()


class Crop(NamedTuple):
    """Which image, and which crop of it: all that it follows from, beside the seed."""

    image: int
    number: int


@dataclass(frozen=True)
class Batch:
    """A part of a step's batch: random crops ``(B, 3, H, W)`` uint8, labels ``(B,)``, and the files that could not be read."""

    step: int
    part: int
    pixels: Tensor
    labels: Tensor
    crops: tuple[Crop, ...]
    """Which these are."""
    unreadable: tuple[Path, ...]


def batches(
    samples: Sequence[Sample],
    image_size: int,
    batch_size: int,
    steps: range,
    seed: int,
    augmentation: Augmentation,
    share: Share = WHOLE,
    workers: int = 0,
) -> Iterator[Batch]:
    """Yield parts of batches for ``steps``, in order.

    Args:
        workers: processes that decode the next ones while the current one is trained on; 0: none does.

    Raises:
        InputError: none of the images of a part can be read.
        DeviceError: a worker was killed.
    """
    crops = _Crops(samples, image_size, batch_size, seed, augmentation, share.parts)
    order = [(step, part) for step in steps for part in share.own]
    loader = DataLoader(crops, sampler=order, batch_size=None, num_workers=workers)
    stream = iter(loader)
    for _ in order:
        try:
            batch = next(stream)
        except RuntimeError as error:  # what torch makes of a worker that is gone
            raise DeviceError(f"training: a process that decodes images has ended ({first_line(error)})") from error
        if not len(batch.labels):
            raise InputError(
                f"training: none of {len(batch.unreadable)} images of a batch could be read (first: {batch.unreadable[0]})"
            )
        yield batch


@dataclass(frozen=True)
class _Crops(Dataset[Batch]):
    """Parts of batches by step and number."""

    samples: Sequence[Sample]
    image_size: int
    batch_size: int
    seed: int
    augmentation: Augmentation
    parts: int

    def __getitem__(self, place: tuple[int, int]) -> Batch:
        step, part = place
        size = self.batch_size // self.parts
        first = step * self.batch_size + part * size
        pixels: list[np.ndarray] = []
        crops: list[Crop] = []
        unreadable: list[Path] = []
        for crop in drawn(len(self.samples), range(first, first + size), self.seed, self.augmentation.crops):
            sample = self.samples[crop.image]
            try:
                image = sample.read()
            except InputError:
                unreadable.append(sample.location)
                continue
            generator = np.random.default_rng([self.seed, 2, *crop])
            square = random_resized_crop(image, self.image_size, generator, (self.augmentation.crop_scale, 1.0))
            pixels.append(np.asarray(square).transpose(2, 0, 1))
            crops.append(crop)
        labels = torch.tensor([self.samples[crop.image].label for crop in crops])
        if not crops:  # said by who reads this: an error would come out of a worker with its traceback
            return Batch(step, part, torch.empty(0), labels, (), tuple(unreadable))
        mixed = cutmix(np.stack(pixels), self.augmentation.cutmix, np.random.default_rng([self.seed, 3, step, part]))
        return Batch(step, part, torch.from_numpy(mixed), labels, tuple(crops), tuple(unreadable))


def normalized(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Return the inputs ``(B, 3, H, W)`` of a net for pixels of this shape, as :func:`tofe_edge.io.preprocessing.normalize`."""
    mean, std = (
        torch.tensor(values, device=pixels.device)[:, None, None] for values in (preprocessing.mean, preprocessing.std)
    )
    return (pixels.float() / 255 - mean) / std


def drawn(length: int, positions: range, seed: int, crops: int = 0) -> list[Crop]:
    """Return what is at these positions of a run over ``length`` images: each epoch is a fresh permutation of them.

    Args:
        crops: per image, in turns; 0: a fresh one in each epoch.
    """
    places = (divmod(position, length) for position in positions)
    return [
        Crop(int(_permutation(length, seed, epoch)[offset]), epoch % crops if crops else epoch)
        for epoch, offset in places
    ]


@lru_cache(maxsize=4)
def _permutation(length: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng([seed, 0, epoch]).permutation(length)


Images = npt.NDArray[Any]


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

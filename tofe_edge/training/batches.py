"""What each step of a training run learns from: images and the dense teacher's view of them.

Everything follows from (seed, step), so that a resumed run sees the same images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tofe_edge.errors import InputError
from tofe_edge.io.dataset import Sample, find_samples
from tofe_edge.io.preprocessing import Preprocessing, normalize, random_resized_crop
from tofe_edge.model.tofe import ToFe
from tofe_edge.training.recipe import Augmentation, HyperParameters


@dataclass(frozen=True)
class TeacherView:
    """What the student learns from the dense model on one batch."""

    stem: Tensor
    """Tokens ``(B, P + N, D)`` at the input of block l_1."""
    stages: tuple[Tensor, ...]
    """Patch tokens ``(B, N, D)`` at the input of blocks l_2 … l_S, and behind the last one if the net thaws them there."""
    logits: Tensor
    """``(B, classes)``"""
    importance: Tensor
    """``(B, S, N)``: the attention that each patch token receives from stage s on, to the last block."""

    def to(self, device: torch.device) -> TeacherView:
        """The same on a device."""
        stages = tuple(stage.to(device) for stage in self.stages)
        return TeacherView(self.stem.to(device), stages, self.logits.to(device), self.importance.to(device))


@dataclass(frozen=True)
class TrainingBatch:
    """One step's examples on the device that trains."""

    step: int
    view: TeacherView
    labels: Tensor
    images: Tensor | None
    """``(B, 3, H, W)``; ``None``: the student starts where the teacher's view does."""
    unreadable: int


@torch.no_grad()
def teacher_targets(teacher: ToFe, images: Tensor) -> TeacherView:
    """Run the dense teacher and note its residual stream at the points at which the student is compared with it."""
    spec, backbone = teacher.backbone.spec, teacher.backbone
    tokens = stem = teacher.stem(images)
    stages, received = [], []
    for stage, (first, end) in enumerate(pairwise((*spec.stages, spec.depth)), start=1):
        paid = []
        for index in range(first, end):
            paid.append(backbone.attention_received(index, tokens))
            tokens = backbone.block(index, tokens)
        received.append(torch.stack(paid).sum(dim=0))
        if stage < len(spec.stages) or spec.thaws_last:
            stages.append(tokens[:, spec.prefix_tokens :])
    # What a later stage attends to is to be kept now, too: it is computed anew from here on.
    importance = torch.stack(received, dim=1).flip(1).cumsum(dim=1).flip(1)
    return TeacherView(stem, tuple(stages), backbone.logits(tokens), importance)


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

    @classmethod
    def find(
        cls,
        sources: Sequence[Source],
        class_ids: Sequence[str],
        held_out: int,
        seed: int,
        allow_empty: bool = False,
    ) -> TrainingSet:
        """List the images of ``sources`` and set ``held_out`` of them aside, drawn as an epoch draws them.

        Raises:
            InputError: a folder is unfit or holds ``train`` and ``val``, or nothing is left to train on.
        """
        found = [find_samples(source.folder, class_ids, allow_empty) for source in sources]
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
class Batch:
    """Images ``(B, 3, H, W)`` float32, labels ``(B,)``, and the files that could not be read."""

    step: int
    images: Tensor
    labels: Tensor
    unreadable: tuple[Path, ...]


def batches(
    samples: Sequence[Sample],
    preprocessing: Preprocessing,
    batch_size: int,
    steps: range,
    seed: int,
    augmentation: Augmentation,
) -> Iterator[Batch]:
    """Yield augmented batches for ``steps``, the next ones decoded while the current one is trained on."""
    make = partial(_batch, samples, preprocessing, batch_size, seed, augmentation)
    with ThreadPoolExecutor(max_workers=1) as pool:
        pending = [pool.submit(make, step) for step in steps[:2]]
        for step in steps:
            batch = pending.pop(0).result()
            if step + 2 < steps.stop:
                pending.append(pool.submit(make, step + 2))
            yield batch


def _batch(
    samples: Sequence[Sample],
    preprocessing: Preprocessing,
    batch_size: int,
    seed: int,
    augmentation: Augmentation,
    step: int,
) -> Batch:
    generator = np.random.default_rng([seed, 2, step])
    images: list[np.ndarray] = []
    labels: list[int] = []
    unreadable: list[Path] = []
    for index in shuffled(len(samples), batch_size, step, seed):
        sample = samples[index]
        try:
            image = sample.read()
        except InputError:
            unreadable.append(sample.location)
            continue
        crop = random_resized_crop(image, preprocessing.image_size, generator, (augmentation.crop_scale, 1.0))
        images.append(normalize(np.asarray(crop), preprocessing))
        labels.append(sample.label)
    if not images:
        raise InputError(
            f"training: none of {len(unreadable)} images of a batch could be read (first: {unreadable[0]})"
        )
    mixed = cutmix(np.stack(images), augmentation.cutmix, generator)
    return Batch(step, torch.from_numpy(mixed), torch.tensor(labels), tuple(unreadable))


def shuffled(length: int, batch_size: int, step: int, seed: int) -> npt.NDArray[np.int64]:
    """Return which of ``length`` items a step draws: each epoch is a fresh permutation, the tail of one runs into the next."""
    positions = [divmod(position, length) for position in range(step * batch_size, (step + 1) * batch_size)]
    return np.array([_permutation(length, seed, epoch)[offset] for epoch, offset in positions])


@lru_cache(maxsize=4)
def _permutation(length: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng([seed, 0, epoch]).permutation(length)


Images = npt.NDArray[np.float32]


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


def weights_digest(net: nn.Module) -> str:
    """Return the SHA-256 of the names and values of all weights and buffers."""
    digest = hashlib.sha256()
    for name, tensor in net.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def samples_digest(samples: Sequence[Sample]) -> str:
    """Return the SHA-256 of the names and labels of the images, in order; not of what is in them."""
    digest = hashlib.sha256()
    for sample in samples:
        name = f"{sample.location.parent.name}/{sample.location.name}\0{sample.label}\n"
        digest.update(name.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def batches_from_images(
    data: TrainingSet, teacher: ToFe, config: HyperParameters, steps: range, device: torch.device
) -> Iterator[TrainingBatch]:
    """Yield random crops, the next ones decoded while the current ones are trained on."""
    preprocessing = teacher.backbone.preprocessing
    for batch in batches(data.train, preprocessing, config.batch_size, steps, config.seed, config.augmentation):
        images = batch.images.to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            view = teacher_targets(teacher, images)
        yield TrainingBatch(batch.step, view, batch.labels.to(device), images, len(batch.unreadable))

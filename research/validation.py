"""Images: those of the test, run through the blocks that all methods share once, and the crops that views were made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from research.method import Method
from tofe_edge.errors import InputError
from tofe_edge.io.dataset import Sample, find_samples, sample_evenly
from tofe_edge.io.files import write_atomically
from tofe_edge.io.preprocessing import Preprocessing, denormalize, normalize, resize_and_crop
from tofe_edge.io.progress import progress_bar
from tofe_edge.model.tofe import ToFe
from tofe_edge.training.batches import TeacherView, TrainingBatch, batches, shuffled, teacher_targets
from tofe_edge.training.recipe import TrainingConfig
from tofe_edge.training.views import ViewRecipe, Views

_BATCH = 50

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Validation:
    """V labelled images."""

    samples: tuple[Sample, ...]
    """Those that can be read."""
    preprocessing: Preprocessing
    stems: Tensor
    """``(V, 1 + N, D)``: the dense net's tokens at the input of block l_1."""
    labels: Tensor
    """``(V,)``"""
    dense: Array
    """``(V, classes)``: the dense net's logits."""
    unreadable: int


@torch.inference_mode()
def open_validation(
    teacher: ToFe, source: Path, class_ids: Sequence[str], resize: str, limit: int | None = None
) -> Validation:
    """Read the images of ``source``, or ``limit`` of them, and run the dense net on them.

    Raises:
        InputError: there are none, or none can be read.
    """
    spec = replace(teacher.backbone.preprocessing, resize=resize)
    samples = sample_evenly(find_samples(source, class_ids), limit)
    stems, logits, read = [], [], []
    with progress_bar("validation images", total=len(samples), unit="image") as bar:
        for start in range(0, len(samples), _BATCH):
            batch = samples[start : start + _BATCH]
            pixels = []
            for sample in batch:
                try:
                    pixels.append(_input(sample, spec, spec.image_size))
                except InputError:
                    continue
                read.append(sample)
            if pixels:
                view = teacher_targets(teacher, torch.from_numpy(np.stack(pixels)))
                stems.append(view.stem)
                logits.append(view.logits)
            bar.update(len(batch))
    if not read:
        raise InputError(f"{source}: none of its {len(samples)} images can be read")
    labels = torch.tensor([sample.label for sample in read])
    dense = torch.cat(logits).numpy()
    return Validation(tuple(read), spec, torch.cat(stems), labels, dense, len(samples) - len(read))


@torch.inference_mode()
def predict(method: Method, validation: Validation, stems: Tensor | None = None) -> Array:
    """Logits ``(V, classes)`` of the method's inference form.

    Args:
        stems: tokens at the input of block l_1 in place of the dense net's.
    """
    logits = []
    method.eval()
    with progress_bar("evaluating", total=len(validation.labels), unit="image") as bar:
        if type(method).from_images:
            batches = _images(validation, method.image_size)
        else:
            batches = iter((validation.stems if stems is None else stems).split(_BATCH))
        for batch in batches:
            logits.append(method.infer_images(batch) if type(method).from_images else method.infer(batch))
            bar.update(len(batch))
    return torch.cat(logits).numpy()


@torch.inference_mode()
def stems_of(method: Method, validation: Validation) -> Tensor:
    """Tokens ``(V, 1 + N, D)`` at the input of block l_1, by the method's own first blocks."""
    with progress_bar("first blocks", total=len(validation.labels), unit="image") as bar:
        stems = []
        for images in _images(validation, method.image_size):
            stems.append(method.stem(images))
            bar.update(len(images))
    return torch.cat(stems)


def _images(validation: Validation, image_size: int) -> Iterator[Tensor]:
    for start in range(0, len(validation.samples), _BATCH):
        batch = validation.samples[start : start + _BATCH]
        yield torch.from_numpy(np.stack([_input(sample, validation.preprocessing, image_size) for sample in batch]))


def _input(sample: Sample, spec: Preprocessing, image_size: int) -> npt.NDArray[np.float32]:
    """``(3, image_size, image_size)``: what the dense net sees, made smaller where asked for."""
    image = resize_and_crop(sample.read(), spec)
    if image_size != spec.image_size:
        image = image.resize((image_size, image_size), Image.Resampling.BICUBIC)
    return normalize(np.asarray(image), spec)


_VIEW_BATCH = 32
"""That views are made in: the same batches have the same crops."""

Pixels = npt.NDArray[np.uint8]


def prepare_crops(
    folder: Path,
    samples: Sequence[Sample],
    preprocessing: Preprocessing,
    recipe: ViewRecipe,
    number: int,
    image_size: int,
) -> Pixels:
    """The crops of the first ``number`` views, ``(V, image_size, image_size, 3)``, kept in a file beside them.

    The views' folder is of one recipe, and so is this file.

    Args:
        preprocessing: of the net that the views are of.

    Raises:
        InputError: the file is damaged or has fewer crops, images cannot be read, or the disk is full.
    """
    path = folder / f"crops-{image_size}.npy"
    if not path.exists():
        write_atomically(path, lambda part: _draw(part, samples, preprocessing, recipe, number, image_size))
    try:
        crops: Any = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: is damaged ({error}); delete it to make it anew") from error
    if crops.dtype != np.uint8 or crops.shape[1:] != (image_size, image_size, 3) or len(crops) < number:
        raise InputError(f"{path}: has not the crops of {number} views; delete it to make it anew")
    return np.asarray(crops[:number])


def _draw(
    path: Path,
    samples: Sequence[Sample],
    preprocessing: Preprocessing,
    recipe: ViewRecipe,
    number: int,
    image_size: int,
) -> None:
    stored, steps = 0, range(-(-recipe.count // _VIEW_BATCH))
    crops: Any = np.lib.format.open_memmap(path, "w+", np.uint8, (number, image_size, image_size, 3))
    with progress_bar("drawing crops", total=number, unit="crop") as bar:
        for batch in batches(samples, preprocessing, _VIEW_BATCH, steps, recipe.seed, recipe.augmentation):
            pixels = denormalize(batch.images.numpy(), preprocessing).astype(np.uint8)
            for image in pixels[: number - stored]:
                crop = Image.fromarray(image.transpose(1, 2, 0))
                crops[stored] = np.asarray(crop.resize((image_size, image_size), Image.Resampling.BICUBIC))
                stored += 1
            bar.update(len(pixels))
            if stored == number:
                crops.flush()
                return
    raise InputError(f"{path.parent}: of {number} views only {stored} have a crop that can be drawn again")


def batches_from_crops(
    crops: Pixels, views: Views, preprocessing: Preprocessing, config: TrainingConfig, steps: range
) -> Iterator[TrainingBatch]:
    """The steps of ``batches_from_views``, with images in place of tokens.

    Args:
        preprocessing: whose mean and deviation the images are brought to.
    """
    nothing = torch.empty(0)
    for step in steps:
        index = np.sort(shuffled(len(views), config.batch_size, step, config.seed))
        images = torch.from_numpy(np.stack([normalize(crop, preprocessing) for crop in crops[index]]))
        logits = torch.from_numpy(views.logits[index].astype(np.float32))
        yield TrainingBatch(
            step, TeacherView(nothing, (), logits, nothing), torch.from_numpy(views.labels[index]), images, 0
        )

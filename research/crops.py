"""The crops that prepared views were made of, drawn again and made smaller: for a net that starts from images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from tofe_edge.errors import InputError
from tofe_edge.io.dataset import Sample
from tofe_edge.io.files import write_atomically
from tofe_edge.io.preprocessing import Preprocessing, denormalize, normalize
from tofe_edge.io.progress import progress_bar
from tofe_edge.training.batches import TeacherView, TrainingBatch, batches, shuffled
from tofe_edge.training.recipe import TrainingConfig
from tofe_edge.training.views import ViewRecipe, Views

_BATCH = 32
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
    stored, steps = 0, range(-(-recipe.count // _BATCH))
    crops: Any = np.lib.format.open_memmap(path, "w+", np.uint8, (number, image_size, image_size, 3))
    with progress_bar("drawing crops", total=number, unit="crop") as bar:
        for batch in batches(samples, preprocessing, _BATCH, steps, recipe.seed, recipe.augmentation):
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

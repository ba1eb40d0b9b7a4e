"""Model inputs from images: a labelled folder, plain files, or the sample photographs where nothing else is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from tofe_edge.dataset import find_samples, sample_evenly
from tofe_edge.errors import InputError
from tofe_edge.images import list_images, read_image
from tofe_edge.preprocessing import Preprocessing, preprocess, random_crop_views
from tofe_edge.progress import progress_bar

_VIEWS_PER_PHOTOGRAPH = 16


@dataclass(frozen=True)
class Inputs:
    """Inputs ``(1, 3, H, W)`` float32, labels where known, and how many files could not be read."""

    pixels: tuple[npt.NDArray[np.float32], ...]
    labels: tuple[int, ...] | None
    unreadable: tuple[Path, ...]
    source: str


def load_image(path: Path, spec: Preprocessing) -> npt.NDArray[np.float32]:
    """One image file as a model input.

    Raises:
        InputError: it cannot be read or prepared; the message names the file.
    """
    image = read_image(path)
    try:
        return preprocess(image, spec)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def load_folder(
    folder: Path, class_ids: Sequence[str], spec: Preprocessing, limit: int | None, seed: int = 0
) -> Inputs:
    """Read (at most ``limit``, evenly over classes) images of an ImageNet-style folder.

    Files that cannot be read are left out and listed.

    Raises:
        InputError: there are no images, their folders are no classes of the model, or none can be read.
    """
    pixels, labels, unreadable, reason = [], [], [], ""
    samples = sample_evenly(find_samples(folder, class_ids), limit, seed)
    with progress_bar("reading images", total=len(samples), unit="image") as bar:
        for sample in samples:
            try:
                pixels.append(load_image(sample.path, spec))
                labels.append(sample.label)
            except InputError as error:
                reason = reason or str(error)
                unreadable.append(sample.path)
            bar.update(1)
    if not pixels:
        raise InputError(f"{folder}: none of its {len(unreadable)} images can be used (first: {reason})")
    return Inputs(tuple(pixels), tuple(labels), tuple(unreadable), str(folder))


def load_unlabelled(
    folder: Path, spec: Preprocessing, limit: int, seed: int = 0, class_ids: Sequence[str] = ()
) -> Inputs:
    """Read a seeded selection of at most ``limit`` images from anywhere under ``folder``, in random order.

    Args:
        class_ids: where every image stands in a folder named after one of these, it is labelled with it; else, and
            without them, there are no labels.

    Raises:
        InputError: there are no images, or none can be read.
    """
    paths = list_images(folder)
    index = {identifier: position for position, identifier in enumerate(class_ids)}
    labelled = all(path.parent.name in index for path in paths)
    chosen = np.random.default_rng(seed).permutation(len(paths))[:limit]
    pixels, labels, unreadable, reason = [], [], [], ""
    with progress_bar("reading images", total=len(chosen), unit="image") as bar:
        for position in chosen:
            try:
                pixels.append(load_image(paths[position], spec))
                labels.append(index[paths[position].parent.name] if labelled else -1)
            except InputError as error:
                reason = reason or str(error)
                unreadable.append(paths[position])
            bar.update(1)
    if not pixels:
        raise InputError(f"{folder}: none of its {len(unreadable)} images can be used (first: {reason})")
    return Inputs(tuple(pixels), tuple(labels) if labelled else None, tuple(unreadable), f"images of {folder}")


def load_photographs(spec: Preprocessing, seed: int = 0) -> Inputs:
    """32 seeded crops of scikit-learn's two photographs: natural images that are on every machine, without labels.

    Raises:
        InputError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_sample_images
    except ImportError as error:
        raise InputError(
            "the sample photographs come with scikit-learn, which is not installed; give --data"
        ) from error
    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    views = [
        view for photograph in photographs for view in random_crop_views(photograph, _VIEWS_PER_PHOTOGRAPH, spec, seed)
    ]
    return Inputs(tuple(views), None, (), "crops of scikit-learn's sample photographs")

"""Model inputs from images: a stream of any length, or in memory for the small sets of calibration and checks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tofe_edge.errors import InputError, naming
from tofe_edge.io.dataset import Sample
from tofe_edge.io.images import read_image
from tofe_edge.io.listing import EVERYTHING, Coverage, Found, Tally, list_images
from tofe_edge.io.preprocessing import Preprocessing, preprocess, random_crop_views
from tofe_edge.io.progress import progress_bar

SAMPLES = tuple(Path(__file__).parent / "samples" / name for name in ("coffee.jpg", "chelsea.jpg"))
"""Natural images that are on every machine; ``samples/README.md`` says where they are from."""

_VIEWS_PER_PHOTOGRAPH = 16
_UNKNOWN = -1
"""The label of an image without one."""


@dataclass(frozen=True)
class Loaded:
    """A sample and its input ``(1, 3, H, W)`` float32, or ``None`` and the one-line reason why it cannot be read."""

    sample: Sample
    pixels: npt.NDArray[np.float32] | None
    reason: str = ""


@dataclass(frozen=True)
class Inputs:
    """Inputs ``(1, 3, H, W)`` float32, labels if known, files that could not be read, and how much is used."""

    pixels: tuple[npt.NDArray[np.float32], ...]
    labels: tuple[int, ...] | None
    unreadable: tuple[Path, ...]
    source: str
    coverage: Coverage = EVERYTHING


def load_image(path: Path, spec: Preprocessing) -> npt.NDArray[np.float32]:
    """One image file as a model input.

    Raises:
        InputError: it cannot be read or prepared; the message names the file.
    """
    return _prepare(Sample(path, _UNKNOWN), spec)


def read_inputs(samples: Iterable[Sample], spec: Preprocessing) -> Iterator[Loaded]:
    """Read samples in their order, each when it is asked for; corrupt ones come too, with the reason."""
    # No thread reads ahead: a 500 x 375 JPEG takes 3.5 ms of CPU time and the smallest net 19 ms on the same cores;
    # with 16 images ahead, evaluation of 320 took 22 to 32 s on two cores, without 21 to 25 s.
    return (_load(sample, spec) for sample in samples)


def none_usable(source: Path, unreadable: int, reason: str) -> InputError:
    """The error for data of which not one image can be read."""
    return InputError(f"{source}: none of its {unreadable} images can be used (first: {reason})")


def load_unlabelled(
    folder: Path, spec: Preprocessing, limit: int, seed: int = 0, class_ids: Sequence[str] = ()
) -> Inputs:
    """Read a seeded selection of at most ``limit`` images from anywhere under ``folder``, in random order, into memory.

    Args:
        class_ids: if every image stands in a folder named after one of these, it is labelled with it; else, and
            without them, there are no labels.

    Raises:
        InputError: there are no images, or none can be read.
    """
    index = {identifier: position for position, identifier in enumerate(class_ids)}
    found = list_images(folder, class_ids)
    samples = [Sample(path, index.get(path.parent.name, _UNKNOWN)) for path in found]
    if any(sample.label == _UNKNOWN for sample in samples):
        samples = [Sample(sample.path, _UNKNOWN) for sample in samples]
    chosen = [samples[position] for position in np.random.default_rng(seed).permutation(len(samples))[:limit]]
    return _gather(folder, chosen, spec, found)


def load_photographs(spec: Preprocessing, seed: int = 0) -> Inputs:
    """32 seeded crops of the two sample photographs that come with this package, without labels."""
    views = [
        view
        for photograph in SAMPLES
        for view in random_crop_views(read_image(photograph), _VIEWS_PER_PHOTOGRAPH, spec, seed)
    ]
    return Inputs(tuple(views), None, (), "crops of the two sample photographs")


def _prepare(sample: Sample, spec: Preprocessing) -> npt.NDArray[np.float32]:
    image = sample.read()
    with naming(sample.location):
        return preprocess(image, spec)


def _load(sample: Sample, spec: Preprocessing) -> Loaded:
    try:
        return Loaded(sample, _prepare(sample, spec))
    except InputError as error:
        return Loaded(sample, None, str(error))


def _gather(source: Path, samples: Sequence[Sample], spec: Preprocessing, found: Found[Path]) -> Inputs:
    """Everything in memory; labels unless the samples have none."""
    pixels, labels, unreadable, reason, tally = [], [], [], "", Tally()
    with progress_bar("reading images", total=len(samples), unit="image") as bar:
        for loaded in read_inputs(samples, spec):
            if loaded.pixels is None:
                reason = reason or loaded.reason
                unreadable.append(loaded.sample.location)
                tally.add_unreadable(loaded.sample.location, loaded.reason)
            else:
                pixels.append(loaded.pixels)
                labels.append(loaded.sample.label)
            bar.update(1)
    if not pixels:
        raise none_usable(source, len(unreadable), reason)
    known = tuple(labels) if _UNKNOWN not in labels else None
    coverage = found.coverage.without(tally.left_out)
    return Inputs(tuple(pixels), known, tuple(unreadable), f"images of {source}", coverage)

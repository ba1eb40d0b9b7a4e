"""Labelled images in ImageNet-style folders: ``FOLDER/<class id>/*.jpg``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tofe_edge.errors import InputError
from tofe_edge.images import list_images


@dataclass(frozen=True)
class Sample:
    """One image and its class: the index among the net's logits."""

    path: Path
    label: int


def find_samples(folder: Path, class_ids: Sequence[str]) -> list[Sample]:
    """Every image of ``folder``, labelled by the name of the sub-folder it stands in, in sorted order.

    ``folder`` may also hold several such sets one level deeper (``train/a/<id>``, ``train/b/<id>``).

    Raises:
        InputError: there are no images, or a sub-folder with images is no class of the net.
    """
    index = {identifier: position for position, identifier in enumerate(class_ids)}
    samples: list[Sample] = []
    for path in list_images(folder):
        identifier = path.parent.name
        if identifier not in index:
            raise InputError(
                f"{path.parent}: {identifier!r} is not a class id of this model (such as {class_ids[0]}); "
                "expected FOLDER/<class id>/<image>"
            )
        samples.append(Sample(path, index[identifier]))
    return samples


def sample_evenly(samples: Sequence[Sample], limit: int | None, seed: int = 0) -> list[Sample]:
    """A seeded selection of ``limit`` samples, spread over classes as evenly as their numbers allow, sorted by path.

    The order of ``samples`` does not matter. Never "the first k": on sorted folders those are the first few classes.
    """
    samples = sorted(samples, key=lambda sample: sample.path)
    if limit is None or limit >= len(samples):
        return samples
    generator = np.random.default_rng(seed)
    by_class: dict[int, list[Sample]] = {}
    for position in generator.permutation(len(samples)):
        by_class.setdefault(samples[position].label, []).append(samples[position])
    turns = [
        (turn, order, sample)
        for order, label in enumerate(generator.permutation(sorted(by_class)))
        for turn, sample in enumerate(by_class[label])
    ]
    turns.sort(key=lambda item: item[:2])
    return sorted((sample for _, _, sample in turns[:limit]), key=lambda sample: sample.path)

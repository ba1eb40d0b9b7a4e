"""Labelled images: ImageNet-style folders ``DIR/<class id>/<image>``, a CSV of paths and labels, or tar shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tofe_edge.errors import InputError
from tofe_edge.io.images import IMAGE_SUFFIXES, list_images, read_image
from tofe_edge.io.labels import ClassMap, shown
from tofe_edge.io.shards import is_shard, read_shard, read_shard_image
from tofe_edge.io.tables import read_table
from tofe_edge.io.tar import Member

_TABLE_SUFFIX = ".csv"


@dataclass(frozen=True, slots=True)
class Sample:
    """One image and its class: the index among the net's logits."""

    path: Path
    """The image, or the shard that holds it."""
    label: int
    member: Member | None = None
    """Which image of the shard; ``None``: ``path`` is the image."""

    @property
    def location(self) -> Path:
        """What names the image in messages and lists; of one in a shard, the shard's path and its own below that."""
        return self.path if self.member is None else self.path / self.member.name

    def read(self) -> Image.Image:
        """The image as upright 8-bit RGB.

        Raises:
            InputError: it cannot be read; the message names it.
        """
        return read_image(self.path) if self.member is None else read_shard_image(self.path, self.member)


def find_samples(source: Path, class_ids: Sequence[str]) -> list[Sample]:
    """Every image of a data source with its class. No image is opened: one that is corrupt shows when it is read.

    ========================  =================================================================================
    ``source``                what it gives
    ========================  =================================================================================
    a folder                  its images, each in a sub-folder named after its class, in sorted order; several
                              such sets may stand one level deeper (``train/a/<id>``, ``train/b/<id>``)
    ``.csv``                  the lines of a table, see :func:`tofe_edge.io.tables.read_table`
    ``.tar``                  the members of a shard, see :func:`tofe_edge.io.shards.read_shard`
    a folder of ``.tar``      those of all its shards, in the order of their names
    ========================  =================================================================================

    Args:
        class_ids: of the net, in the order of its logits; at least one.

    Raises:
        InputError: it does not exist, cannot be read, holds no image, or does not fit the net's classes.
    """
    classes = ClassMap(class_ids)
    path = source
    try:
        if source.is_dir():
            shards = sorted(entry for entry in source.iterdir() if _is_visible_shard(entry))
            if not shards:
                return _folder(source, class_ids, classes)
            _refuse_mixture(source, shards, classes)
        elif source.name.lower().endswith(_TABLE_SUFFIX):
            _require_file(source)
            return [Sample(image, label) for image, label in read_table(source, classes)]
        else:
            _require_file(source)
            shards = [source]
            if not is_shard(source):
                raise InputError(f"{source}: is not a folder, a .csv or a .tar file; give one of them")
        samples: list[Sample] = []
        for path in shards:
            _require_file(path)
            samples += [Sample(path, label, member) for member, label in read_shard(path, classes)]
        return samples
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check its permissions") from error
    except InputError as error:
        # Names of files may hold line breaks.
        raise InputError(" ".join(str(error).splitlines())) from error


def sample_evenly(samples: Sequence[Sample], limit: int | None, seed: int = 0) -> list[Sample]:
    """A seeded selection of ``limit`` samples, spread over classes as evenly as their numbers allow, sorted by location.

    The order of ``samples`` does not matter. Never "the first k": on sorted folders those are the first few classes.
    """
    samples = sorted(samples, key=lambda sample: sample.location)
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
    return sorted((sample for _, _, sample in turns[:limit]), key=lambda sample: sample.location)


def _folder(folder: Path, class_ids: Sequence[str], classes: ClassMap) -> list[Sample]:
    samples = []
    for path in list_images(folder):
        label = classes.by_id(path.parent.name)
        if label is None:
            raise InputError(
                f"{path.parent}: {shown(path.parent.name)} is not a class id of this model (such as {classes.example}); "
                "expected FOLDER/<class id>/<image>"
            )
        samples.append(Sample(path, label))
    return samples


def _is_visible_shard(path: Path) -> bool:
    return is_shard(path) and not path.name.startswith(".") and not path.is_dir()


def _refuse_mixture(folder: Path, shards: Sequence[Path], classes: ClassMap) -> None:
    """Taking one kind would leave out the other in silence."""
    for entry in sorted(folder.iterdir()):
        is_class = entry.is_dir() and classes.by_id(entry.name) is not None
        if is_class or entry.suffix.lower() in IMAGE_SUFFIXES:
            raise InputError(
                f"{folder}: holds both {shown(shards[0].name)} and {shown(entry.name)}; "
                "give the shards or the images, each in a folder of their own"
            )


def _require_file(path: Path) -> None:
    """Raise InputError unless there is a regular file: opening a pipe would wait for ever."""
    if not path.is_file():
        raise InputError(f"{path}: {'is not a regular file' if path.exists() else 'does not exist'}; check the path")

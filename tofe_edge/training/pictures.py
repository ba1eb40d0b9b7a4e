"""Pictures of one's own classes in folders, ``FOLDER/<class>/<image>``, and which of them are held out."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tofe_edge.errors import InputError, quoted, require
from tofe_edge.io.dataset import Sample, check_empty
from tofe_edge.io.listing import Tally, list_images
from tofe_edge.io.shards import is_shard

HELD_OUT_SHARE = 0.2
"""Of each class: what accuracy is measured on. Nothing is fitted to it or chosen by it."""

ASIDE_SHARE = 0.15
"""Of the others: what the head's weight decay is chosen by, and whether training was worth it."""

FEWEST_PER_CLASS = 8


@dataclass(frozen=True)
class Pictures:
    """Labelled pictures in three parts. Copies of a picture, told by content, are in one of them."""

    train: tuple[Sample, ...]
    aside: tuple[Sample, ...]
    held_out: tuple[Sample, ...]
    remarks: tuple[str, ...] = ()
    """What the folders leave out."""


def own_classes(folders: Sequence[Path], class_ids: Sequence[str]) -> tuple[str, ...] | None:
    """The names of the class folders, if they are other classes than a net's; ``None``: they are the net's, or mistaken for them.

    Raises:
        InputError: a folder cannot be read or holds no image.
    """
    if not all(folder.is_dir() and not any(is_shard(entry) for entry in folder.iterdir()) for folder in folders):
        return None
    names = {path.parent.name for folder in folders for path in list_images(folder)}
    return tuple(sorted(names)) if names.isdisjoint(class_ids) else None


def find_pictures(
    folders: Sequence[Path], classes: Sequence[str], holds_out: bool = True, allow_empty: bool = False
) -> Pictures:
    """List the pictures and split them, each class by itself, by a hash of what is in the files.

    Args:
        holds_out: ``False``: nothing, as there are other pictures to measure accuracy on.
        allow_empty: go on without classes of which there is a folder, but no picture.

    Raises:
        InputError: there is one class alone, a class has too few pictures, a picture is in no class folder, or there are
            ``train`` and ``val`` folders.
    """
    found = [list_images(folder) for folder in folders]
    for folder, paths in zip(folders, found):
        paths.coverage.refuse_sets(folder)
    require(
        len(classes) > 1,
        f"{folders[0]}: has one class, {quoted(classes[0])}; put pictures of others in folders beside it",
    )
    for name in classes:
        require(name.isprintable(), f"{folders[0]}: a class cannot be called {quoted(name)}; rename the folder")
    index = {name: position for position, name in enumerate(classes)}
    samples: list[Sample] = []
    remarks: list[str] = []
    for folder, paths in zip(folders, found):
        tally = Tally(paths.coverage.left_out)
        check_empty(folder, [place for place in paths.empty if place.name not in index], allow_empty, tally)
        remarks += map(str, tally.left_out)
        for path in paths:
            if path.parent == folder:
                raise InputError(f"{path}: is in no class folder; expected FOLDER/<class>/<image>")
            samples.append(Sample(path, index[path.parent.name]))
    digests = {sample.path: _digest(sample.path) for sample in samples}
    per_class = Counter(label for label, _ in {(sample.label, digests[sample.path]) for sample in samples})
    for name, label in index.items():
        require(
            per_class[label] >= FEWEST_PER_CLASS,
            f"{folders[0]}: {quoted(name)} has {per_class[label]} different pictures; a class needs at least "
            f"{FEWEST_PER_CLASS}, better 100",
        )
    first = _lowest(samples, digests, HELD_OUT_SHARE) if holds_out else frozenset[str]()
    held_out = [sample for sample in samples if digests[sample.path] in first]
    others = [sample for sample in samples if digests[sample.path] not in first]
    second = _lowest(others, digests, ASIDE_SHARE)
    return Pictures(
        tuple(sample for sample in others if digests[sample.path] not in second),
        tuple(sample for sample in others if digests[sample.path] in second),
        tuple(held_out),
        tuple(remarks),
    )


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check its permissions") from error


def _lowest(samples: Sequence[Sample], digests: dict[Path, str], share: float) -> frozenset[str]:
    """The lowest digests of each class: at least one, and this share of them."""
    of_class: dict[int, set[str]] = {}
    for sample in samples:
        of_class.setdefault(sample.label, set()).add(digests[sample.path])
    lowest = (sorted(every)[: max(1, round(share * len(every)))] for every in of_class.values())
    return frozenset(digest for some in lowest for digest in some)

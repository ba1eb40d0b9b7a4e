"""Labelled images in tar shards: ``<class id>/<image>``, or pairs of ``KEY.jpg`` and ``KEY.cls`` as WebDataset has them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from tofe_edge.errors import InputError
from tofe_edge.io.images import IMAGE_SUFFIXES, decode_image
from tofe_edge.io.labels import ClassMap, shown
from tofe_edge.io.tar import Member, list_members, read_member

#: What is taken for a shard by name. Compressed ones are among them, to be refused rather than overlooked.
SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")

_MAX_IMAGE = 64 << 20
_MAX_LABEL = 64
_LABEL_SUFFIX = ".cls"


def is_shard(path: Path) -> bool:
    """Whether a name, in any case, is that of a shard."""
    return path.name.lower().endswith(SHARD_SUFFIXES)


def read_shard(shard: Path, classes: ClassMap) -> list[tuple[Member, int]]:
    """Every image of a shard and the index of its class, in the archive's order.

    Images are told by suffix, as in folders, and hidden files are left out. In a shard with ``.cls`` files each image
    must have one, with an index in decimal digits; in one without, each stands in a folder named after its class.

    Args:
        shard: a regular file.

    Raises:
        InputError: no image, an image without a class or of an unknown one, two members of one name, or what
            :func:`tofe_edge.io.tar.list_members` refuses. The message names the first culprit.
        OSError: it cannot be opened or read.
    """
    pictures: dict[str, Member] = {}
    labels: dict[str, Member] = {}
    for member, suffix in _visible(shard):
        group, name = (labels, _key(member)) if suffix == _LABEL_SUFFIX else (pictures, member.name)
        if name in group:
            raise InputError(f"{shard}: holds {shown(member.name)} twice; write the archive anew with one of them")
        group[name] = member
    if not pictures:
        raise InputError(f"{shard}: holds no image; give a tar of <class id>/<image> or of KEY.jpg with KEY.cls")
    if not labels:
        return [(member, _label_of_folder(member, shard, classes)) for member in pictures.values()]
    found = {key: _label_of_file(label, shard, classes) for key, label in labels.items()}
    for member in pictures.values():
        if _key(member) not in found:
            raise InputError(
                f"{shard}: {shown(member.name)} has no {_LABEL_SUFFIX} file beside it; add its class's index"
            )
    if unused := sorted(found.keys() - set(map(_key, pictures.values()))):
        raise InputError(f"{shard}: {shown(labels[unused[0]].name)} has no image beside it; add it")
    return [(member, found[_key(member)]) for member in pictures.values()]


def read_shard_image(shard: Path, member: Member) -> Image.Image:
    """Decode one member, by the rules of :func:`tofe_edge.io.images.read_image`.

    Raises:
        InputError: it has more than 64 MiB, or cannot be decoded.
    """
    try:
        content = read_member(shard, member, _MAX_IMAGE)
    except OSError as error:
        raise InputError(f"{shard}: cannot be read ({error.strerror or error}); check its permissions") from error
    return decode_image(io.BytesIO(content), shard / member.name)


def _visible(shard: Path) -> Iterator[tuple[Member, str]]:
    """Images and labels with their suffix in lower case."""
    for member in list_members(shard):
        folders_and_name = member.name.split("/")
        _, dot, suffix = folders_and_name[-1].rpartition(".")
        suffix = f"{dot}{suffix.lower()}"
        if any(part.startswith(".") for part in folders_and_name):
            continue
        if suffix in IMAGE_SUFFIXES or suffix == _LABEL_SUFFIX:
            yield member, suffix


def _key(member: Member) -> str:
    """What an image and its label have in common: the name without its last suffix."""
    return member.name[: member.name.rindex(".")]


def _label_of_folder(member: Member, shard: Path, classes: ClassMap) -> int:
    folder = member.name.rpartition("/")[0].rpartition("/")[2]
    label = classes.by_id(folder)
    if label is None:
        raise InputError(
            f"{shard}: {shown(member.name)}: {shown(folder)} is not a class id of this model (such as {classes.example}); "
            "expected <class id>/<image>, or KEY.jpg with KEY.cls"
        )
    return label


def _label_of_file(member: Member, shard: Path, classes: ClassMap) -> int:
    text = read_member(shard, member, _MAX_LABEL).decode("utf-8", "replace").strip()
    label = classes.by_index(text)
    if label is None:
        raise InputError(
            f"{shard}: {shown(member.name)} holds {shown(text)}, which is no index of a class of this model"
        )
    return label

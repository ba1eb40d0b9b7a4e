"""Tar shards of images: which members are images, and of which class each is."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from tofe_edge.errors import InputError, quoted
from tofe_edge.io.image_formats import HEAD, SUFFIXES, why_no_image
from tofe_edge.io.images import decode_image
from tofe_edge.io.labels import ClassMap
from tofe_edge.io.listing import HIDDEN, Tally, describe_left_out
from tofe_edge.io.tar import Member, list_members, read_member, read_members

SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")

_MAX_IMAGE = 64 << 20
_MAX_LABEL = 64
_LABEL_SUFFIX = ".cls"


def is_shard(path: Path) -> bool:
    """Whether a name, in any case, is that of a shard."""
    return path.name.lower().endswith(SHARD_SUFFIXES)


_SET = re.compile("[A-Za-z]+")


def set_of(shard: Path) -> str:
    """What a shard's name begins with: ``train`` of ``train-000.tar``."""
    matched = _SET.match(shard.name)
    return matched[0] if matched else ""


@dataclass(frozen=True)
class Shard:
    """One shard, and what its reading counts.

    Attributes:
        path: a regular file.
        tally: what is left out.
        lacking: classes with a file that is left out, and where it is.
    """

    path: Path
    classes: ClassMap
    tally: Tally
    lacking: dict[int, Path]

    def read(self) -> list[tuple[Member, int]]:
        """Every image and the index of its class, in the archive's order.

        Images are told as in folders, and hidden files are left out. In a shard with ``.cls`` files each image
        must have one, with an index in decimal digits; in one without, each stands in a folder named after its class.

        Raises:
            InputError: no image, an image without a class or of an unknown one, two members of one name, or what
                :func:`tofe_edge.io.tar.list_members` refuses. The message names the first culprit.
            OSError: it cannot be opened or read.
        """
        pictures, labels = self.members()
        shard, classes = self.path, self.classes
        if not pictures:
            left_out = describe_left_out(self.tally.left_out)
            raise InputError(
                f"{shard}: holds no image{left_out}; give a tar of <class id>/<image> or of KEY.jpg with KEY.cls"
            )
        if not labels:
            return [(member, _label_of_folder(member, shard, classes)) for member in pictures.values()]
        label_of = {key: _label_of_file(label, shard, classes) for key, label in labels.items()}
        for member in pictures.values():
            if _key(member) not in label_of:
                raise InputError(
                    f"{shard}: {quoted(member.name)} has no {_LABEL_SUFFIX} file beside it; add its class's index"
                )
        if unused := sorted(label_of.keys() - set(map(_key, pictures.values()))):
            raise InputError(f"{shard}: {quoted(labels[unused[0]].name)} has no image beside it; add it")
        return [(member, label_of[_key(member)]) for member in pictures.values()]

    def members(self) -> tuple[dict[str, Member], dict[str, Member]]:
        """Images by name and labels by key."""
        pictures: dict[str, Member] = {}
        labels: dict[str, Member] = {}
        others: list[Member] = []
        for member in list_members(self.path):
            suffix = _suffix(member)
            if any(part.startswith(".") for part in member.name.split("/")):
                self.tally.add(HIDDEN, self.path / member.name)
                continue
            if suffix not in SUFFIXES and suffix != _LABEL_SUFFIX:
                others.append(member)
                continue
            group, name = (labels, _key(member)) if suffix == _LABEL_SUFFIX else (pictures, member.name)
            self._put(group, name, member)
        # Files beside a labelled image are masks, depths and texts of it.
        keys = {_key(member) for member in pictures.values()} if labels else set[str]()
        for member, head in zip(others, read_members(self.path, others, HEAD)):
            cause = why_no_image(_suffix(member), head) if _key(member) not in keys else "beside a labelled image"
            if cause is None:
                self._put(pictures, member.name, member)
                continue
            self.tally.add(cause, self.path / member.name)
            label = None if labels else self.classes.by_id(_folder_of(member))
            if label is not None:
                self.lacking.setdefault(label, (self.path / member.name).parent)
        return dict(sorted(pictures.items(), key=lambda item: item[1].offset)), labels

    def _put(self, group: dict[str, Member], name: str, member: Member) -> None:
        if name in group:
            raise InputError(f"{self.path}: holds {quoted(member.name)} twice; write the archive anew with one of them")
        group[name] = member


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


def _suffix(member: Member) -> str:
    """In lower case, with its dot."""
    _, dot, suffix = member.name.rpartition("/")[2].rpartition(".")
    return f"{dot}{suffix.lower()}" if dot else ""


def _key(member: Member) -> str:
    """What an image and its label have in common: the name without its last suffix."""
    suffix = _suffix(member)
    return member.name[: -len(suffix)] if suffix else member.name


def _folder_of(member: Member) -> str:
    return member.name.rpartition("/")[0].rpartition("/")[2]


def _label_of_folder(member: Member, shard: Path, classes: ClassMap) -> int:
    folder = _folder_of(member)
    label = classes.by_id(folder)
    if label is None:
        raise InputError(
            f"{shard}: {quoted(member.name)}: {quoted(folder)} is not a class id of this model (such as {classes.example}); "
            "expected <class id>/<image>, or KEY.jpg with KEY.cls"
        )
    return label


def _label_of_file(member: Member, shard: Path, classes: ClassMap) -> int:
    text = read_member(shard, member, _MAX_LABEL).decode("utf-8", "replace").strip()
    label = classes.by_index(text)
    if label is None:
        raise InputError(
            f"{shard}: {quoted(member.name)} holds {quoted(text)}, which is not an index of a class of this model"
        )
    return label

"""What a workflow is given by name, path or value: checkpoints, device profiles, converted models."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from tofe_edge.errors import InputError
from tofe_edge.io.labels import Classes
from tofe_edge.io.preprocessing import Preprocessing
from tofe_edge.io.tensors import is_pickle, read_metadata
from tofe_edge.model.checkpoint import HEADER_KEY, Checkpoint
from tofe_edge.model.choices import Choices, chosen
from tofe_edge.model.dense import describe_dense, weights_in
from tofe_edge.model.zoo import find_checkpoint
from tofe_edge.profiles import DeviceProfile, load_profile

StrPath = str | os.PathLike[str]


def open_checkpoint(
    source: StrPath | Checkpoint,
    backbone: str | None = None,
    labels: StrPath | Classes | None = None,
    preprocessing: StrPath | Preprocessing | None = None,
) -> Checkpoint:
    """Return a checkpoint by name or path; plain dense weights become a dense checkpoint.

    Args:
        backbone: the net of plain weights; ``None``: the config beside them names it, or their shapes tell.
        labels: class names in place of those of the checkpoint: a file, a folder of class folders, or ``imagenet``.
        preprocessing: how images are prepared in place of the checkpoint's: ``imagenet``, ``inception``, ``clip`` or a file.

    Raises:
        InputError: there is no such checkpoint, or the weights are of another net.
    """
    choices = choices_of(labels, preprocessing)
    if isinstance(source, Checkpoint):
        return chosen(source, choices)
    path = weights_in(Path(source))
    if backbone is not None or is_plain(path):
        return describe_dense(path, backbone, choices)
    return chosen(find_checkpoint(os.fspath(source)), choices)


def choices_of(
    labels: StrPath | Classes | None = None,
    preprocessing: StrPath | Preprocessing | None = None,
    image_size: int | None = None,
) -> Choices:
    """Return what a user says about weights, paths as text."""
    return Choices(
        os.fspath(labels) if isinstance(labels, str | os.PathLike) else labels,
        os.fspath(preprocessing) if isinstance(preprocessing, str | os.PathLike) else preprocessing,
        image_size,
    )


def is_plain(path: Path) -> bool:
    """Whether there is a file and it is anything but a checkpoint with our header."""
    if not path.is_file():
        return False
    try:
        return HEADER_KEY not in read_metadata(path)
    except InputError:
        # A damaged checkpoint is better told of as one.
        return path.suffix != ".safetensors" or is_pickle(path)


def open_profile(source: StrPath | DeviceProfile) -> DeviceProfile:
    """Return a device profile by name or path. Raises :class:`tofe_edge.profiles.ProfileError`."""
    return source if isinstance(source, DeviceProfile) else load_profile(os.fspath(source))


def resized(spec: Preprocessing, resize: str | None) -> Preprocessing:
    """Return the preprocessing, with another way to resize if one is given."""
    return spec if resize is None else replace(spec, resize=resize)

"""What a workflow is given by name, path or value: checkpoints, device profiles, converted models."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from tofe_edge.io.preprocessing import Preprocessing
from tofe_edge.model.checkpoint import Checkpoint, describe_dense
from tofe_edge.model.zoo import find_checkpoint
from tofe_edge.profiles import DeviceProfile, load_profile

StrPath = str | os.PathLike[str]


def open_checkpoint(source: StrPath | Checkpoint, backbone: str | None = None) -> Checkpoint:
    """Return a checkpoint by name or path; with ``backbone``, plain dense weights become a dense checkpoint.

    Raises:
        InputError: there is no such checkpoint, or the weights are of another net.
    """
    if isinstance(source, Checkpoint):
        return source
    if backbone is not None:
        return describe_dense(Path(source), backbone)
    return find_checkpoint(os.fspath(source))


def open_profile(source: StrPath | DeviceProfile) -> DeviceProfile:
    """Return a device profile by name or path. Raises :class:`tofe_edge.profiles.ProfileError`."""
    return source if isinstance(source, DeviceProfile) else load_profile(os.fspath(source))


def resized(spec: Preprocessing, resize: str | None) -> Preprocessing:
    """Return the preprocessing, with another way to resize if one is given."""
    return spec if resize is None else replace(spec, resize=resize)

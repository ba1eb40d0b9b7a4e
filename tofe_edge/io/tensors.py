"""Files of tensors: safetensors, and state dicts that PyTorch pickled, which are never unpickled but as plain tensors."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tofe_edge.errors import InputError
from tofe_edge.io.quiet import quiet

_PICKLE_HINT = "it is a PyTorch pickle, not a tofe-edge checkpoint; dense .pth weights are imported with `tofe-edge train --weights`"


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a ``.safetensors`` file, or of a ``.pth``/``.pt`` state dict.

    Pickles go through ``weights_only=True`` and are unwrapped from ``{"model": …}`` or ``{"state_dict": …}``.

    Raises:
        InputError: the file is missing, damaged, or needs unpickling of anything but tensors.
    """
    if path.suffix in (".pth", ".pt", ".bin"):
        return _read_pickled_tensors(path)
    read_metadata(path)
    with safe_open(str(path), framework="pt") as handle:
        return {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118  (not a dict)


def _read_pickled_tensors(path: Path) -> dict[str, Tensor]:
    must_be_a_file(path)
    try:
        with quiet():
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: holds more than plain tensors, which is never unpickled; save its state dict alone, best as .safetensors"
        ) from error
    except Exception as error:  # torch.load raises anything from EOFError to RuntimeError on damaged files
        raise InputError(f"{path}: is damaged or not a PyTorch file ({type(error).__name__})") from error
    for wrapper in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{path}: holds no state dict (names to tensors)")
    return {str(key): value for key, value in content.items()}


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a ``.safetensors`` file; empty if it has none.

    Raises:
        InputError: the file is missing, damaged, or something else.
    """
    must_be_a_file(path)
    try:
        with safe_open(str(path), framework="pt") as opened:
            return dict(opened.metadata() or {})
    except SafetensorError as error:
        # Asked only now: a valid file may begin with a pickle's bytes, as the length of its header.
        with path.open("rb") as handle:
            start = handle.read(2)
        if start == b"PK" or start[:1] == b"\x80":
            raise InputError(f"{path}: {_PICKLE_HINT}") from error
        raise InputError(f"{path}: is damaged or cut short, or not a safetensors file ({error})") from error


def must_be_a_file(path: Path) -> None:
    """Raise :class:`InputError` if there is no such file, or none that can be read."""
    if not path.exists():
        raise InputError(f"{path}: no such checkpoint; `tofe-edge checkpoints` lists the shipped ones")
    if not path.is_file():
        raise InputError(f"{path}: is not a file")
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error

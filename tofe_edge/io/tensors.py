"""Files of tensors, told by their content: safetensors, and PyTorch's state dicts, never unpickled but as plain tensors."""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PosixPath
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tofe_edge.errors import InputError
from tofe_edge.io.quiet import quiet

_PICKLE_HINT = "it is a PyTorch pickle, not a checkpoint of tofe-edge, as train and reduce write them"

_AVERAGED = ("model_ema", "state_dict_ema", "ema_state_dict", "model_ema_state_dict", "ema_model", "ema", "teacher")
"""Keys of weights that were averaged in training. They are the ones that were evaluated, so they come first."""

_RAW = ("model", "state_dict", "model_state_dict", "net", "network", "module", "weights", "params", "student")

_HARMLESS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [argparse.Namespace, PosixPath]
"""What stands beside the weights in files of DeiT and Lightning. Neither does anything when it is made."""

_DEPTH = 4
"""Wrappers inside one another."""


@dataclass(frozen=True)
class StateDict:
    """Tensors by name, and under which key of the file they stood (empty: under none)."""

    tensors: dict[str, Tensor]
    key: str = ""
    passed_over: tuple[str, ...] = ()
    """Keys of other weights in the same file."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, as :func:`read_state_dict`."""
    return read_state_dict(path).tensors


def read_state_dict(path: Path) -> StateDict:
    """The tensors of a safetensors file or of a PyTorch state dict, whatever the suffix.

    Pickles go through ``weights_only=True``. Weights are found under the keys that training programs use; averaged ones
    (``model_ema``, …) come before raw ones.

    Raises:
        InputError: the file is missing, damaged, something else, or needs unpickling of anything but tensors.
    """
    must_be_a_file(path)
    if is_pickle(path):
        return _read_pickle(path)
    read_metadata(path)
    with safe_open(str(path), framework="pt") as handle:
        return StateDict({key: handle.get_tensor(key) for key in handle.keys()})  # noqa: SIM118  (not a dict)


def is_pickle(path: Path) -> bool:
    """Whether PyTorch is to read it. Raises :class:`InputError` if it is a known kind of file without weights."""
    with path.open("rb") as handle:
        start = handle.read(256)
    text = start.lstrip().lower()
    if text.startswith(b"version https://git-lfs"):
        raise InputError(f"{path}: is a git-lfs pointer, which stands for the weights; fetch them with `git lfs pull`")
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise InputError(
            f"{path}: is a web page, not weights; download the file itself (on the Hugging Face Hub with /resolve/ "
            "in place of /blob/)"
        )
    # A safetensors file begins with the length of its header, which may look like a pickle, and then the header.
    if start[8:9] == b"{":
        return False
    return start[:2] == b"PK" or start[:1] == b"\x80" or path.suffix.lower() in (".pth", ".pt", ".bin", ".tar", ".ckpt")


def _read_pickle(path: Path) -> StateDict:
    try:
        # A handle, as torch.load goes by the suffix as well.
        with quiet(), torch.serialization.safe_globals(_HARMLESS), path.open("rb") as handle:
            content = torch.load(handle, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: holds more than plain tensors{_culprit(error)}, which is never unpickled; save its state dict alone, "
            "best as .safetensors"
        ) from error
    except Exception as error:  # torch.load raises anything from EOFError to RuntimeError on damaged files
        raise InputError(f"{path}: is damaged or not a PyTorch file ({type(error).__name__})") from error
    found = _weights_in(content, "", _DEPTH)
    if found is None:
        keys = f"; its keys are {', '.join(map(str, list(content)[:6]))}" if isinstance(content, Mapping) else ""
        raise InputError(f"{path}: holds no state dict (names to tensors){keys[:160]}")
    return found


def _culprit(error: Exception) -> str:
    named = re.search(r"GLOBAL ([\w.]+)", str(error))
    return f" ({named[1]})" if named else ""


def _weights_in(content: Any, key: str, depth: int) -> StateDict | None:
    """The weights of a file's content, or of what stands in it under ``key``; ``None`` if there are none."""
    if not isinstance(content, Mapping) or not content or depth == 0:
        return None
    if all(isinstance(value, Tensor) for value in content.values()):
        return StateDict({str(name): value for name, value in content.items()}, key)
    inside = {name: _weights_in(value, str(name), depth - 1) for name, value in content.items()}
    found = {str(name): weights for name, weights in inside.items() if weights is not None}
    for name in (*_AVERAGED, *_RAW):
        if name in found:
            others = tuple(other for other in (*_AVERAGED, *_RAW) if other in found and other != name)
            return StateDict(found[name].tensors, _join(name, found[name].key), others)
    if len(found) == 1:
        ((name, weights),) = found.items()
        return StateDict(weights.tensors, _join(name, weights.key))
    return None


def _join(name: str, inner: str) -> str:
    return name if inner in ("", name) else f"{name}.{inner}"


def is_averaged(key: str) -> bool:
    """Whether weights under this key of a file were averaged in training (EMA)."""
    return key.split(".")[0] in _AVERAGED


def must_be_finite(tensors: Mapping[str, Tensor]) -> None:
    """Raise :class:`InputError` that names the first tensor with NaN or infinity."""
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            what = "NaN" if bool(value.isnan().any()) else "infinity"
            raise InputError(f"{name} holds {what}; the training diverged, take an earlier state")


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
        if is_pickle(path):
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
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error

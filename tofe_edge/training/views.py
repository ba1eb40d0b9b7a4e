"""Prepared views: random crops that the dense model has been run on once, kept on disk for many epochs and many runs.

A step that trains on them decodes no image and runs neither the teacher nor the blocks before the first selection.
In exchange those blocks stay as the dense model has them, and the crops are a fixed set. A view of DeiT-Tiny takes
232 kB: half precision, at the input of each stage.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tofe_edge.backbones import Backbone
from tofe_edge.dataset import Sample
from tofe_edge.errors import InputError
from tofe_edge.files import write_json
from tofe_edge.progress import progress_bar
from tofe_edge.tofe import ToFe
from tofe_edge.training.batches import batches, shuffled
from tofe_edge.training.teacher import TeacherView, look

_FORMAT = 1
_BATCH = 32
_NOTE_EVERY_BATCHES = 20
_NOTE = "views.json"

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class ViewRecipe:
    """What views are made of. Views of one recipe are the same, whoever made them."""

    count: int
    """Crops to draw; those of unreadable images are left out."""
    seed: int
    crop_scale: float
    teacher: str
    """Digest of the dense model's weights."""
    samples: str
    """Digest of the names and labels of the images, in order."""


@dataclass(frozen=True)
class Views:
    """V views of a teacher with S stages, memory-mapped."""

    stem: Array
    """``(V, P + N, D)`` float16: tokens at the input of block l_1."""
    stages: tuple[Array, ...]
    """S - 1 times ``(V, N, D)`` float16: patch tokens at the input of blocks l_2 … l_S."""
    logits: Array
    """``(V, classes)`` float16"""
    importance: Array
    """``(V, S, N)`` float32: the attention that patch tokens receive from each stage on"""
    labels: Array
    """``(V,)`` int64"""
    unreadable: int
    """Times an image could not be read."""

    def __len__(self) -> int:
        return len(self.labels)

    def draw(self, step: int, batch_size: int, seed: int) -> tuple[TeacherView, Tensor]:
        """The views and labels of a step: each pass is a fresh permutation, the tail of one runs into the next."""
        # Sorted, so that the disk is read in one direction; the order within a batch says nothing.
        index = np.sort(shuffled(len(self), batch_size, step, seed))
        stages = tuple(_tensor(stage[index]) for stage in self.stages)
        view = TeacherView(
            _tensor(self.stem[index]), stages, _tensor(self.logits[index]), _tensor(self.importance[index])
        )
        return view, torch.from_numpy(self.labels[index])


def _tensor(stored: Array) -> Tensor:
    return torch.from_numpy(stored.astype(np.float32))


def recipe(teacher: ToFe, samples: Sequence[Sample], count: int, seed: int, crop_scale: float) -> ViewRecipe:
    """The recipe of ``count`` views of these images by this dense model."""
    weights = hashlib.sha256()
    for name, tensor in teacher.backbone.state_dict().items():
        weights.update(name.encode())
        weights.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    names = hashlib.sha256()
    for sample in samples:
        names.update(
            f"{sample.location.parent.name}/{sample.location.name}\0{sample.label}\n".encode("utf-8", "surrogateescape")
        )
    return ViewRecipe(count, seed, crop_scale, weights.hexdigest(), names.hexdigest())


def prepare_views(folder: Path, teacher: ToFe, samples: Sequence[Sample], wanted: ViewRecipe) -> Views:
    """Open the views in ``folder``, after making those that are missing. An interrupted call goes on where it was.

    Raises:
        InputError: the folder holds views of another recipe or is damaged, no image can be read, or the disk is full.
    """
    note = folder / _NOTE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stored, made, unreadable = _read_note(note, wanted) if note.exists() else (0, 0, 0)
        arrays = _Arrays(folder, teacher.backbone.spec, wanted.count, fresh=made == 0)
        steps = range(made, -(-wanted.count // _BATCH))
        device = next(teacher.parameters()).device
        with progress_bar("preparing views", total=wanted.count, initial=made * _BATCH, unit="view") as bar:
            for batch in batches(
                samples, teacher.backbone.preprocessing, _BATCH, steps, wanted.seed, wanted.crop_scale
            ):
                size = min(len(batch.labels), wanted.count - stored)
                view = look(teacher, batch.images[:size].to(device))
                arrays.put(stored, view, batch.labels[:size])
                stored, made, unreadable = stored + size, batch.step + 1, unreadable + len(batch.unreadable)
                if made % _NOTE_EVERY_BATCHES == 0 or made == steps.stop:
                    arrays.flush()
                    write_json(note, _note(wanted, stored, made, unreadable))
                bar.update(size)
    except OSError as error:
        raise InputError(
            f"{folder}: views cannot be kept there ({error.strerror or error}); free some space"
        ) from error
    return arrays.views(stored, unreadable)


def _note(wanted: ViewRecipe, stored: int, made: int, unreadable: int) -> dict[str, Any]:
    return {"format": _FORMAT, "recipe": asdict(wanted), "views": stored, "batches": made, "unreadable": unreadable}


def _read_note(note: Path, wanted: ViewRecipe) -> tuple[int, int, int]:
    try:
        content = json.loads(note.read_text(encoding="utf-8"))
        found, numbers = dict(content["recipe"]), tuple(int(content[key]) for key in ("views", "batches", "unreadable"))
        known = content["format"] == _FORMAT
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{note}: is not a note of prepared views; delete the folder to make them anew") from error
    if not known:
        raise InputError(f"{note}: is of another version of this program; delete the folder to make the views anew")
    changed = sorted(key for key, value in asdict(wanted).items() if found.get(key) != value)
    if changed:
        raise InputError(
            f"{note.parent}: holds views of another {', '.join(changed)}; use another folder, or delete it"
        )
    stored, made, unreadable = numbers
    return stored, made, unreadable


class _Arrays:
    """The arrays on disk, as large as all views need from the start, so that a full disk shows early."""

    def __init__(self, folder: Path, spec: Backbone, count: int, fresh: bool) -> None:
        tokens, half = spec.patch_tokens, np.dtype(np.float16)
        shapes: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {
            "stem": ((count, spec.prefix_tokens + tokens, spec.dim), half),
            **{f"stage{number}": ((count, tokens, spec.dim), half) for number in range(2, len(spec.stages) + 1)},
            "logits": ((count, spec.classes), half),
            "importance": ((count, len(spec.stages), tokens), np.dtype(np.float32)),
            "labels": ((count,), np.dtype(np.int64)),
        }
        self._arrays = {name: _open(folder / f"{name}.npy", *shape, fresh=fresh) for name, shape in shapes.items()}

    def put(self, start: int, view: TeacherView, labels: Tensor) -> None:
        for array, tensor in zip(
            self._arrays.values(), (view.stem, *view.stages, view.logits, view.importance, labels)
        ):
            array[start : start + len(labels)] = tensor.cpu().numpy()

    def flush(self) -> None:
        for array in self._arrays.values():
            array.flush()

    def views(self, stored: int, unreadable: int) -> Views:
        stem, *stages, logits, importance, labels = (array[:stored] for array in self._arrays.values())
        return Views(stem, tuple(stages), logits, importance, labels, unreadable)


def _open(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], fresh: bool) -> Any:
    if fresh:
        array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        # Without its blocks, a file that a full disk cannot hold would end the program at the first write (SIGBUS).
        with path.open("r+b") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        return array
    try:
        array = np.lib.format.open_memmap(path, mode="r+")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: is damaged ({error}); delete the folder to make the views anew") from error
    if array.shape != shape or array.dtype != dtype:
        raise InputError(f"{path}: is damaged (another shape); delete the folder to make the views anew")
    return array

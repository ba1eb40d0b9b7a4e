"""Prepared views: random crops that the dense model has been run on once, kept on disk for many epochs and many runs.

A step that trains on them decodes no image and runs neither the teacher nor the blocks before the first selection.
In exchange those blocks stay as the dense model has them, and the crops are a fixed set. A view of DeiT-Tiny takes
231 kB: half precision, at the input of each stage.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tofe_edge.errors import InputError
from tofe_edge.io.dataset import Sample
from tofe_edge.io.files import write_json
from tofe_edge.io.progress import progress_bar
from tofe_edge.model.backbones import Backbone
from tofe_edge.model.tofe import ToFe
from tofe_edge.training.batches import (
    TeacherView,
    TrainingBatch,
    batches,
    samples_digest,
    shuffled,
    teacher_targets,
    weights_digest,
)
from tofe_edge.training.recipe import Augmentation, HyperParameters

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

_FORMAT = 1
_BATCH = 32
_NOTE_EVERY_BATCHES = 20
_NOTE = "views.json"
_LOCK = ".lock"

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class ViewRecipe:
    """What views are made of. Views of one recipe are the same, whoever made them."""

    count: int
    """Crops to keep. Drawn are whole batches; what the last one has to spare makes up for unreadable images, as far as it
    goes."""
    seed: int
    crop_scale: float
    cutmix: float
    stages: tuple[int, ...]
    """Blocks at whose input tokens are kept."""
    teacher: str
    """Digest of the dense model's weights."""
    samples: str
    """Digest of the names and labels of the images, in order."""

    @property
    def augmentation(self) -> Augmentation:
        """What crops are drawn with."""
        return Augmentation(self.crop_scale, self.cutmix)


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
        """Return the views and labels of a step: each pass is a fresh permutation, the tail of one runs into the next."""
        # Sorted, so that the disk is read in one direction; the order within a batch says nothing.
        index = np.sort(shuffled(len(self), batch_size, step, seed))
        stages = tuple(_tensor(stage[index]) for stage in self.stages)
        view = TeacherView(
            _tensor(self.stem[index]), stages, _tensor(self.logits[index]), _tensor(self.importance[index])
        )
        return view, torch.from_numpy(self.labels[index])


def _tensor(stored: Array) -> Tensor:
    return torch.from_numpy(stored.astype(np.float32))


def view_recipe(
    teacher: ToFe, samples: Sequence[Sample], count: int, seed: int, augmentation: Augmentation
) -> ViewRecipe:
    """Return the recipe of ``count`` views of these images by this dense model."""
    digests = weights_digest(teacher.backbone), samples_digest(samples)
    return ViewRecipe(count, seed, augmentation.crop_scale, augmentation.cutmix, teacher.backbone.spec.stages, *digests)


def prepare_views(folder: Path, teacher: ToFe, samples: Sequence[Sample], recipe: ViewRecipe) -> Views:
    """Open the views in ``folder``, after making those that are missing. An interrupted call goes on where it was.

    Raises:
        InputError: the folder holds views of another recipe or is damaged, another run is preparing views there, no
            image can be read, or the disk is full.
    """
    note = folder / _NOTE
    try:
        if note.exists():
            stored, made, unreadable = _read_note(note, recipe)
            if made * _BATCH >= recipe.count:
                return _Arrays(folder, teacher.backbone.spec, recipe.count, "r").views(stored, unreadable)
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            return _prepare(folder, teacher, samples, recipe)
    except OSError as error:
        raise InputError(f"{folder}: views cannot be kept there ({error.strerror or error})") from error


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Refuse a second run in the same folder: it would cut off the arrays of the first."""
    with (folder / _LOCK).open("w") as lock:
        if fcntl is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(f"{folder}: another run is preparing views there; wait for it") from error
        yield


def _prepare(folder: Path, teacher: ToFe, samples: Sequence[Sample], recipe: ViewRecipe) -> Views:
    note = folder / _NOTE
    stored, made, unreadable = _read_note(note, recipe) if note.exists() else (0, 0, 0)
    arrays = _Arrays(folder, teacher.backbone.spec, recipe.count, "r+" if made else "w+")
    steps = range(made, -(-recipe.count // _BATCH))
    device = next(teacher.parameters()).device
    with progress_bar("preparing views", total=recipe.count, initial=made * _BATCH, unit="view") as bar:
        for batch in batches(samples, teacher.backbone.preprocessing, _BATCH, steps, recipe.seed, recipe.augmentation):
            size = min(len(batch.labels), recipe.count - stored)
            view = teacher_targets(teacher, batch.images[:size].to(device))
            arrays.put(stored, view, batch.labels[:size])
            stored, made, unreadable = stored + size, batch.step + 1, unreadable + len(batch.unreadable)
            if made % _NOTE_EVERY_BATCHES == 0 or made == steps.stop:
                arrays.flush()
                write_json(note, _note(recipe, stored, made, unreadable))
            bar.update(size)
    return arrays.views(stored, unreadable)


def _note(recipe: ViewRecipe, stored: int, made: int, unreadable: int) -> dict[str, Any]:
    return {"format": _FORMAT, "recipe": asdict(recipe), "views": stored, "batches": made, "unreadable": unreadable}


def _read_note(note: Path, recipe: ViewRecipe) -> tuple[int, int, int]:
    try:
        content = json.loads(note.read_text(encoding="utf-8"))
        kept, numbers = dict(content["recipe"]), tuple(int(content[key]) for key in ("views", "batches", "unreadable"))
        known = content["format"] == _FORMAT
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise InputError(f"{note}: is not a note of prepared views; delete the folder to make them anew") from error
    if not known:
        raise InputError(f"{note}: is of another version of this program; delete the folder to make the views anew")
    as_written = json.loads(json.dumps(asdict(recipe)))
    changed = sorted(key for key, value in as_written.items() if kept.get(key) != value)
    if changed:
        raise InputError(
            f"{note.parent}: holds views of another {', '.join(changed)}; use another views_dir, or delete it"
        )
    stored, made, unreadable = numbers
    if not (0 < stored <= recipe.count and made > 0 and unreadable >= 0):
        raise InputError(f"{note}: is not a note of prepared views; delete the folder to make them anew")
    return stored, made, unreadable


class _Arrays:
    """The arrays on disk, as large as all views need from the start, so that a full disk shows early."""

    def __init__(self, folder: Path, spec: Backbone, count: int, mode: Literal["r", "r+", "w+"]) -> None:
        tokens, half = spec.patch_tokens, np.dtype(np.float16)
        shapes: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {
            "stem": ((count, spec.prefix_tokens + tokens, spec.dim), half),
            **{f"stage{number}": ((count, tokens, spec.dim), half) for number in range(2, len(spec.stages) + 1)},
            "logits": ((count, spec.classes), half),
            "importance": ((count, len(spec.stages), tokens), np.dtype(np.float32)),
            "labels": ((count,), np.dtype(np.int64)),
        }
        if mode == "w+":
            _require_space(folder, sum(math.prod(shape) * dtype.itemsize for shape, dtype in shapes.values()))
        self._arrays = {name: _open(folder / f"{name}.npy", *shape, mode) for name, shape in shapes.items()}

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


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"{folder}: the views take {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; ask for fewer, or use another disk"
        )


def _open(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], mode: Literal["r", "r+", "w+"]) -> Any:
    if mode == "w+":
        array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        # Without its blocks, a file that a full disk cannot hold would end the program at the first write (SIGBUS).
        try:
            with path.open("r+b") as file:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError:
            path.unlink()  # what was to be had of the disk is given back
            raise
        return array
    again = "delete the folder to make the views anew"
    try:
        # A short file would be made longer, with zeros, if it may be written to.
        with path.open("rb") as file:
            np.lib.format.read_magic(file)
            kept = np.lib.format.read_array_header_1_0(file)
            whole = path.stat().st_size == file.tell() + math.prod(shape) * dtype.itemsize
    except ValueError as error:
        raise InputError(f"{path}: is damaged ({error}); {again}") from error
    if kept != (shape, False, dtype) or not whole:
        raise InputError(f"{path}: is damaged (another shape or size); {again}")
    return np.lib.format.open_memmap(path, mode=mode)


def batches_from_views(
    views: Views, config: HyperParameters, steps: range, device: torch.device
) -> Iterator[TrainingBatch]:
    """Yield prepared views, drawn anew in each pass over them."""
    for step in steps:
        view, labels = views.draw(step, config.batch_size, config.seed)
        yield TrainingBatch(step, view.to(device), labels.to(device), None, 0)

"""The images of the test, and what the dense net and the methods make of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from research.method import Method
from tofe_edge.errors import InputError
from tofe_edge.io.dataset import Sample, find_samples, sample_evenly
from tofe_edge.io.preprocessing import Preprocessing, normalize, resize_and_crop
from tofe_edge.io.progress import progress_bar
from tofe_edge.model.tofe import ToFe

_BATCH = 50

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Validation:
    """V labelled images."""

    samples: tuple[Sample, ...]
    """Those that can be read."""
    preprocessing: Preprocessing
    labels: Tensor
    """``(V,)``"""
    dense: Array
    """``(V, classes)``: the dense net's logits."""
    unreadable: int


@torch.inference_mode()
def open_validation(
    teacher: ToFe, source: Path, class_ids: Sequence[str], resize: str, limit: int | None = None
) -> Validation:
    """Read the images of ``source``, or ``limit`` of them, and run the dense net on them.

    Raises:
        InputError: there are none, or none can be read.
    """
    spec = replace(teacher.backbone.preprocessing, resize=resize)
    samples = sample_evenly(find_samples(source, class_ids), limit)
    logits, read = [], []
    with progress_bar("validation images", total=len(samples), unit="image") as bar:
        for start in range(0, len(samples), _BATCH):
            batch = samples[start : start + _BATCH]
            pixels = []
            for sample in batch:
                try:
                    pixels.append(_input(sample, spec, spec.image_size))
                except InputError:
                    continue
                read.append(sample)
            if pixels:
                logits.append(teacher.forward_dense(torch.from_numpy(np.stack(pixels))))
            bar.update(len(batch))
    if not read:
        raise InputError(f"{source}: none of its {len(samples)} images can be read")
    labels = torch.tensor([sample.label for sample in read])
    dense = torch.cat(logits).numpy()
    return Validation(tuple(read), spec, labels, dense, len(samples) - len(read))


@torch.inference_mode()
def predict(method: Method, validation: Validation) -> Array:
    """Logits ``(V, classes)`` of the method's inference form."""
    logits = []
    method.eval()
    with progress_bar("evaluating", total=len(validation.labels), unit="image") as bar:
        for batch in _images(validation, method.image_size):
            logits.append(method.infer_images(batch))
            bar.update(len(batch))
    return torch.cat(logits).numpy()


def _images(validation: Validation, image_size: int) -> Iterator[Tensor]:
    for start in range(0, len(validation.samples), _BATCH):
        batch = validation.samples[start : start + _BATCH]
        yield torch.from_numpy(np.stack([_input(sample, validation.preprocessing, image_size) for sample in batch]))


def _input(sample: Sample, spec: Preprocessing, image_size: int) -> npt.NDArray[np.float32]:
    """``(3, image_size, image_size)``: what the dense net sees, made smaller where asked for."""
    image = resize_and_crop(sample.read(), spec)
    if image_size != spec.image_size:
        image = image.resize((image_size, image_size), Image.Resampling.BICUBIC)
    return normalize(np.asarray(image), spec)

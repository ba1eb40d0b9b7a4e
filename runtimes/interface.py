"""What a loaded method takes and gives: compared with the manifest, and images put into batches for it and taken out again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tofe_edge.errors import InputError
from tofe_edge.evaluation.prediction import Prediction, compose_selections
from tofe_edge.io.artifact import ADVICE, Artifact, Method


@dataclass(frozen=True)
class TensorMeta:
    """One input or output, as a runtime describes it."""

    is_float32: bool
    shape: tuple[Any, ...]


def check_interface(
    artifact: Artifact, method: Method, inputs: Sequence[TensorMeta], outputs: Sequence[TensorMeta]
) -> None:
    """Compare what a loaded method takes and gives with the manifest, before anything is believed of either.

    Raises:
        InputError: they differ.
    """
    manifest, kept = artifact.manifest, method.token_counts or []
    size, patches = manifest.preprocessing.image_size, manifest.patch_tokens
    _compare(artifact, method, "takes", inputs, (manifest.batch, 3, size, size))
    _compare(artifact, method, "gives", outputs[:1], (manifest.batch, *manifest.shape))
    orders = [(list(one.shape) or [None])[-1] for one in outputs[1:]]
    # A selection lists all patches; the last one may list the kept ones alone.
    full = [patches] * len(kept)
    if orders not in (full, full[:-1] + kept[-1:]):
        raise InputError(
            f"{artifact.path}: method {method.name} gives selections of {orders} tokens, which are not those "
            f"of its manifest, {kept} of {patches}; {ADVICE}"
        )


def _compare(
    artifact: Artifact, method: Method, verb: str, tensors: Sequence[TensorMeta], shape: tuple[int, ...]
) -> None:
    if [(one.is_float32, one.shape) for one in tensors] != [(True, shape)]:
        actual = ", ".join(str(list(one.shape)) for one in tensors) or "nothing"
        raise InputError(
            f"{artifact.path}: method {method.name} {verb} {actual}, where its manifest says float32 {list(shape)}; {ADVICE}"
        )


def batch_of(artifact: Artifact, images: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    """At most a batch of inputs, each ``(1, 3, H, W)``, as a whole one ``(B, 3, H, W)``, filled with the last image.

    Raises:
        InputError: there are none, or more than a batch, or an input has the wrong shape.
    """
    batch, size = artifact.manifest.batch, artifact.manifest.preprocessing.image_size
    if not 1 <= len(images) <= batch:
        raise InputError(f"{artifact.path}: takes 1 to {batch} images at once, not {len(images)}")
    for pixels in images:
        if pixels.shape != (1, 3, size, size) or pixels.dtype != np.float32:
            raise InputError(
                f"{artifact.path}: takes float32 (1, 3, {size}, {size}), not {pixels.dtype} {pixels.shape}"
            )
    # Strided inputs are read as if they were dense: silently wrong results (pytorch/executorch#18562).
    return np.ascontiguousarray(np.concatenate([*images, *[images[-1]] * (batch - len(images))]))


def predictions_of(
    method: Method, output: npt.NDArray[np.float32], selections: Sequence[npt.NDArray[Any]], count: int
) -> list[Prediction]:
    """Those of the first ``count`` images of a batch, from what one run of it gave."""
    kept = method.token_counts or []
    return [
        Prediction(
            output[number].copy(),
            tuple(compose_selections([_of_image(order, number) for order in selections], kept)),
        )
        for number in range(count)
    ]


def _of_image(order: npt.NDArray[Any], number: int) -> npt.NDArray[np.int64]:
    """One image's selection: a batch has one row per image; selection by ranks gives whole numbers as floats."""
    row: npt.NDArray[np.int64] = (order if order.ndim == 1 else order[number]).astype(np.int64)
    return row

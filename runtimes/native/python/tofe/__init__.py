"""Run models of tofe-edge on a board: images in, classes or vectors out. Needs NumPy; Pillow for image files.

    import tofe

    with tofe.open("net.pte") as net:
        for prediction in net.classify("photo.jpg"):
            print(prediction.label, prediction.probability)

Everything is done by ``libtofe``, which lies in this package: the checks of the files, preprocessing, the run.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from ._library import CPrediction, Error, SelfTestError, call, library

if TYPE_CHECKING:
    from PIL.Image import Image

    Picture = str | os.PathLike[str] | Image | np.ndarray[Any, Any]

__all__ = ["Error", "Model", "Prediction", "SelfTestError", "open"]


@dataclass(frozen=True)
class Prediction:
    """A class of an image."""

    label: str
    probability: float
    index: int
    id: str
    """Of the class in the data set, such as ``n02123045``."""


def open(
    path: str | os.PathLike[str],
    *,
    method: str | None = None,
    threads: int | None = None,
    deadline_ms: float | None = None,
) -> Model:
    """Open a model file, with its manifest ``NAME.json`` beside it.

    Args:
        path: ``NAME.pte``.
        method: one of the model's budgets; default: the first one.
        threads: default: the cores that this process may use, at most 4. Models that are open at the same time share them.
        deadline_ms: choose the largest budget whose 90th percentile keeps this time, call by call, in place of ``method``.

    Raises:
        Error: a file is missing or damaged, or is not what the other says.
    """
    return Model(Path(path), method, threads or default_threads(), deadline_ms)


def default_threads() -> int:
    """Cores that this process may use, at most 4: these nets are not faster with more."""
    return min(4, len(os.sched_getaffinity(0)))


class Model:
    """An open model. Calls from several threads wait for each other."""

    def __init__(self, path: Path, method: str | None, threads: int, deadline_ms: float | None) -> None:
        self.path = path
        self._handle = ctypes.c_void_p()
        lib, name = library(), os.fsencode(path)
        if deadline_ms is None:
            chosen = None if method is None else method.encode()
            call(lib.tofe_open, name, None, chosen, threads, ctypes.byref(self._handle))
        elif method is None:
            call(lib.tofe_open_within, name, None, deadline_ms, threads, ctypes.byref(self._handle))
        else:
            raise ValueError("give a method or a deadline, not both")

    def classify(self, image: Picture, top: int = 5) -> list[Prediction]:
        """Return the likeliest classes of an image, best first.

        Args:
            image: a file, a Pillow image, or an array ``(H, W, 3)`` of uint8, R G B. A frame of OpenCV is B G R: give
                ``frame[..., ::-1]``.

        Raises:
            Error: the image is too small, or the model gives no logits.
        """
        pixels = _pixels(image)
        count = ctypes.c_uint32(top)
        found = (CPrediction * top)()
        call(library().tofe_classify_rgb, self._open(), *_arguments(pixels), found, ctypes.byref(count))
        return [
            Prediction(
                self._text("tofe_label", one.index), one.probability, one.index, self._text("tofe_class_id", one.index)
            )
            for one in found[: count.value]
        ]

    def values(self, image: Picture) -> np.ndarray[Any, Any]:
        """Return what the model gives for an image, float32: logits ``(classes,)``, an embedding ``(D,)``, features ``(N, D)``."""
        pixels, lib, handle = _pixels(image), library(), self._open()
        found = np.empty(lib.tofe_value_count(handle), np.float32)
        place = found.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        call(lib.tofe_values_rgb, handle, *_arguments(pixels), place, found.size)
        return found.reshape(-1, lib.tofe_vector_size(handle)) if self.output == "features" else found

    def self_test(self, golden: str | os.PathLike[str] | None = None) -> None:
        """Replay the golden vectors in ``golden``, by default ``NAME.golden`` beside the model.

        Raises:
            SelfTestError: the model computes something else on this machine.
        """
        folder = self.path.with_suffix(".golden") if golden is None else golden
        call(library().tofe_self_test, self._open(), os.fsencode(folder))

    @property
    def output(self) -> str:
        """``"logits"``, ``"embedding"`` or ``"features"``."""
        return str(library().tofe_output(self._open()).decode())

    @property
    def labels(self) -> Sequence[str]:
        """Names of the classes; empty if the model gives no logits."""
        return [self._text("tofe_label", index) for index in range(library().tofe_class_count(self._open()))]

    @property
    def method(self) -> str:
        """The budget that the next call runs."""
        return str(library().tofe_method(self._open()).decode())

    @property
    def meets_deadline(self) -> bool:
        """False if not even the smallest budget keeps the deadline."""
        return bool(library().tofe_meets_deadline(self._open()))

    def close(self) -> None:
        """Free the model; a second call does nothing."""
        handle, self._handle = self._handle, ctypes.c_void_p()
        library().tofe_close(handle)

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self.close()

    def _open(self) -> ctypes.c_void_p:
        if not self._handle:
            raise ValueError(f"{self.path}: the model is closed")
        return self._handle

    def _text(self, function: str, index: int) -> str:
        found = getattr(library(), function)(self._open(), index)
        return "" if found is None else str(found.decode())


def _pixels(image: Picture) -> np.ndarray[Any, Any]:
    """``(H, W, 3)`` uint8 whose rows are contiguous."""
    if isinstance(image, (str, os.PathLike)):
        from PIL import Image, ImageOps

        with Image.open(image) as opened:
            image = ImageOps.exif_transpose(opened).convert("RGB")
    array = np.asarray(image if isinstance(image, np.ndarray) else image.convert("RGB"))
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(f"an image is an array (H, W, 3) of uint8, not {array.shape} of {array.dtype}")
    return np.ascontiguousarray(array)


def _arguments(pixels: np.ndarray[Any, Any]) -> tuple[Any, int, int, int]:
    height, width = pixels.shape[:2]
    return pixels.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8)), width, height, 3 * width

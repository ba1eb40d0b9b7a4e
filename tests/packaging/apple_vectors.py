"""What Pillow and the reference make of small images, for the tests of the packaged Swift library."""

import base64
import hashlib
from itertools import product

import numpy as np
import numpy.typing as npt
from PIL import Image

from tofe_edge.io.preprocessing import Preprocessing, normalize, resize_and_crop

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_WINDOWS = (
    # width, height -> width, height, left, top, size
    (17, 13, 8, 6, 1, 0, 6),
    (9, 14, 5, 8, 0, 2, 5),
    (5, 4, 11, 9, 2, 1, 8),
    (12, 3, 12, 7, 4, 0, 7),
    (8, 8, 8, 8, 2, 1, 5),
    (40, 2, 3, 6, 0, 3, 3),
    (9, 40, 5, 12, 0, 3, 5),
    (6, 33, 6, 9, 0, 1, 6),
)
"""Smaller, larger, both, one way alone, the same size, a filter that reaches far, and two that Pillow 13 shortens first."""

_TURNS = (
    None,
    Image.Transpose.FLIP_LEFT_RIGHT,
    Image.Transpose.ROTATE_180,
    Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90,
)
"""By EXIF orientation, from 1; as in :mod:`tofe_edge.io.images`."""


def vectors_for(spec: Preprocessing) -> dict[str, str]:
    """The keys of ``apple_doubles/LibraryTests.swift`` that carry vectors."""
    source = noise(3, 2)
    return {
        "RESAMPLE_CASES": "\n".join(
            _resample_case(window, name) for window, name in product(_WINDOWS, sorted(_FILTERS))
        ),
        "PREPROCESSING_CASES": "\n".join(_preprocessing_case(width, height, spec) for width, height in _shapes(spec)),
        "UPRIGHT_SOURCE": _base64(source),
        "UPRIGHT_CASES": "\n".join(f'        "{_base64(_turned(source, turn))}",' for turn in _TURNS),
    }


def noise(width: int, height: int) -> npt.NDArray[np.uint8]:
    """An image ``(height, width, 4)`` that Swift can make as well: a hash of the number of each byte."""
    value = np.arange(width * height * 4, dtype=np.uint32) * np.uint32(2654435761)
    value ^= value >> np.uint32(15)
    value *= np.uint32(2246822519)
    return (value >> np.uint32(24)).astype(np.uint8).reshape(height, width, 4)


def _shapes(spec: Preprocessing) -> list[tuple[int, int]]:
    """Wide, tall, square, much too large, very tall, and, if it is resized, too small."""
    side = spec.image_size
    larger = [(2 * side + 31, side + 57), (side + 40, 2 * side + 11), (side, side), (3 * side + 1, 3 * side)]
    larger.append((side + 5, 4 * side))
    smaller = [(side // 2 + 3, side // 3 + 2), (side // 3 + 5, side // 2 + 1)]
    return larger + (smaller if spec.resize == "short_side" else [])


def _preprocessing_case(width: int, height: int, spec: Preprocessing) -> str:
    square = np.asarray(resize_and_crop(_rgb(noise(width, height)), spec))
    numbers = normalize(square, spec).astype("<f4").tobytes()
    sums = [hashlib.sha256(content).hexdigest() for content in (square.tobytes(), numbers)]
    return (
        f"        Case(\n            width: {width}, height: {height},\n"
        f'            square: "{sums[0]}",\n            normalized: "{sums[1]}"),'
    )


def _resample_case(window: tuple[int, int, int, int, int, int, int], name: str) -> str:
    width, height, to_width, to_height, left, top, size = window
    source = noise(width, height)
    resized = _rgb(source).resize((to_width, to_height), _FILTERS[name])
    expected = np.asarray(resized.crop((left, top, left + size, top + size)))
    return (
        f"        Case(\n            width: {width}, height: {height}, toWidth: {to_width}, toHeight: {to_height}, left: {left}, "
        f"top: {top}, size: {size},\n            filter: .{name},\n"
        f'            source: "{_base64(source)}",\n            expected: "{_base64(expected)}"),'
    )


def _turned(source: npt.NDArray[np.uint8], turn: Image.Transpose | None) -> npt.NDArray[np.uint8]:
    image = _rgb(source)
    return np.asarray(image if turn is None else image.transpose(turn))


def _rgb(pixels: npt.NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(pixels[..., :3]))


def _base64(pixels: npt.NDArray[np.uint8]) -> str:
    return base64.b64encode(np.ascontiguousarray(pixels).tobytes()).decode("ascii")

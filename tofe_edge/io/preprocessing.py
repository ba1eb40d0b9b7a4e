"""From an RGB image to the input tensor of a model, equal to timm's evaluation transform.

The specification travels with every checkpoint and artifact as JSON, so that a phone, a server and the
reference prepare the same pixels. No torch in here: an edge device need not have it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import Field

from tofe_edge.errors import InputError
from tofe_edge.io.documents import FORBID, Int, Number, Text, one_of, validate
from tofe_edge.io.images import MAX_PIXELS

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_RESIZES = ("short_side", "none")
# What every backbone here takes; written into the JSON for the apps that read it, refused when different.
_FIXED = {"color_order": "RGB", "layout": "NCHW"}

_ASPECT = (3 / 4, 4 / 3)
_ATTEMPTS = 10


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes a model input.

    Attributes:
        image_size: side of the square input in pixels, 1..4096.
        crop_pct: share of the resized short side that the crop keeps, 0.1..1. Not used with ``resize="none"``.
        interpolation: ``bicubic`` or ``bilinear``, both antialiased (Pillow).
        mean: of each channel R, G, B after division by 255, 0..1.
        std: of each channel R, G, B after division by 255, 0.001..1.
        resize: ``short_side`` resizes the short side to ``floor(image_size / crop_pct)``, then crops the centre.
            ``none`` only crops the centre, for data sets stored at a size made for that: 227 x 227 images
            evaluated at 224 lose rows and columns 0, 1 and 226 (the offset 1.5 rounds to the even 2).

    Raises:
        InputError: a value has the wrong type or is out of range; the message names it.
    """

    image_size: int
    crop_pct: float
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: str = "short_side"

    def __post_init__(self) -> None:
        _check({**vars(self), **_FIXED}, "preprocessing")

    def to_json(self) -> dict[str, Any]:
        """A dict of JSON types that :meth:`from_json` takes back to an equal object."""
        return {
            "image_size": self.image_size,
            "crop_pct": self.crop_pct,
            "interpolation": self.interpolation,
            "mean": list(self.mean),
            "std": list(self.std),
            "resize": self.resize,
            **_FIXED,
        }

    @classmethod
    def from_json(cls, content: Any, where: str = "preprocessing") -> Preprocessing:
        """Check and take over a parsed JSON object.

        Args:
            content: every key that :meth:`to_json` writes; only ``resize`` may be absent (``short_side``).
            where: begins the message of an error; give the file.

        Raises:
            InputError: not an object, a key missing or unknown, a value of wrong type or out of range.
        """
        if isinstance(content, cls):
            return content
        values = vars(_check(content, where))
        return cls(**{key: value for key, value in values.items() if key not in _FIXED})


_Share = Annotated[Number, Field(ge=0, le=1)]
_Deviation = Annotated[Number, Field(ge=0.001, le=1)]


@dataclass(frozen=True)
class _Document:
    """The keys of the JSON object, and what their values may be."""

    __pydantic_config__ = FORBID

    image_size: Annotated[Int, Field(ge=1, le=4096)]
    crop_pct: Annotated[Number, Field(ge=0.1, le=1)]
    interpolation: Annotated[Text, one_of(tuple(_FILTERS))]
    mean: tuple[_Share, _Share, _Share]
    std: tuple[_Deviation, _Deviation, _Deviation]
    color_order: Annotated[Text, one_of((_FIXED["color_order"],))]
    layout: Annotated[Text, one_of((_FIXED["layout"],))]
    resize: Annotated[Text, one_of(_RESIZES)] = "short_side"


def _check(content: Any, subject: str) -> _Document:
    return validate(_Document, content, f"{subject}:", "give what this program writes, or update it")


def resize_and_crop(image: Image.Image, spec: Preprocessing) -> Image.Image:
    """The square that the model sees: timm's evaluation transform without the arithmetic, pixel for pixel.

    Args:
        image: mode RGB, any size (with ``resize="none"``: at least ``image_size`` on both sides).

    Returns:
        Mode RGB, ``image_size`` x ``image_size``.

    Raises:
        InputError: not RGB; smaller than the crop and not resized; so narrow that resizing its short side
            would make more than ``MAX_PIXELS`` pixels.
    """
    _require_rgb(image)
    width, height = image.size
    if spec.resize == "short_side":
        short = math.floor(spec.image_size / spec.crop_pct)
        # torchvision.transforms.Resize: the long side is truncated, and in this order of operations.
        long = int(short * max(width, height) / min(width, height))
        if short * long > MAX_PIXELS:
            raise InputError(
                f"the image of {width} x {height} pixels is too narrow to resize its short side to {short}; "
                "crop it to a less extreme shape"
            )
        width, height = (short, long) if width <= height else (long, short)
        image = image.resize((width, height), _FILTERS[spec.interpolation])
    size = spec.image_size
    if width < size or height < size:
        raise InputError(
            f"the image of {width} x {height} pixels is smaller than the {size} x {size} to be cut from it; "
            'take larger images, or preprocessing with resize "short_side"'
        )
    # torchvision.transforms.CenterCrop: Python's round, halves to the even number.
    left, top = round((width - size) / 2.0), round((height - size) / 2.0)
    return image.crop((left, top, left + size, top + size))


def normalize(pixels: npt.NDArray[np.uint8], spec: Preprocessing) -> npt.NDArray[np.float32]:
    """``(pixels / 255 - mean) / std`` for each channel.

    float32 throughout and in the order of torchvision's ToTensor and Normalize, which makes it equal to them
    to the last bit.

    Args:
        pixels: uint8, (H, W, 3), channels R, G, B.

    Returns:
        float32, (3, H, W), C-contiguous.

    Raises:
        InputError: another dtype or shape.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise InputError(f"pixels must be uint8 of shape (H, W, 3), not {pixels.dtype} of shape {pixels.shape}")
    values = pixels.transpose(2, 0, 1).astype(np.float32, order="C")
    values /= np.float32(255)
    values -= np.array(spec.mean, np.float32)[:, None, None]
    values /= np.array(spec.std, np.float32)[:, None, None]
    return values


def denormalize(values: npt.NDArray[np.float32], spec: Preprocessing) -> npt.NDArray[np.float32]:
    """The pixels, whole numbers from 0 to 255 as float32, that :func:`normalize` made these inputs ``(..., 3, H, W)`` of."""
    mean, std = (np.array(triple, np.float64)[:, None, None] for triple in (spec.mean, spec.std))
    pixels: npt.NDArray[np.float32] = np.rint((values * std + mean) * 255).clip(0, 255).astype(np.float32)
    return pixels


def preprocess(image: Image.Image, spec: Preprocessing) -> npt.NDArray[np.float32]:
    """The model input for one RGB image: float32, (1, 3, image_size, image_size), C-contiguous.

    Raises:
        InputError: as :func:`resize_and_crop`.
    """
    return normalize(np.asarray(resize_and_crop(image, spec)), spec)[None]


def random_resized_crop(
    image: Image.Image, size: int, rng: np.random.Generator, scale: tuple[float, float] = (0.35, 1.0)
) -> Image.Image:
    """Cut a random rectangle, resize it to a square (bicubic), mirror it in half of the cases.

    The rectangle's share of the area is uniform in ``scale`` and its aspect ratio log-uniform in 3/4..4/3, as
    in torchvision's RandomResizedCrop. Images too narrow for any such rectangle give their centre at the
    nearest allowed aspect ratio. The same state of ``rng`` gives the same pixels.

    Args:
        image: mode RGB, any size.
        size: side of the result in pixels, at least 1.
        scale: smallest and largest share of the area, 0 < smallest <= largest <= 1.

    Returns:
        Mode RGB, ``size`` x ``size``.

    Raises:
        InputError: not RGB, ``size`` or ``scale`` out of range.
    """
    _require_rgb(image)
    if size < 1 or not 0 < scale[0] <= scale[1] <= 1:
        raise InputError(f"random crop of size {size} and scale {scale}: needs size >= 1 and 0 < low <= high <= 1")
    left, top, width, height = _random_box(image.width, image.height, rng, scale)
    # resize(box=...) does not copy the rectangle first; at its edges the filter sees the pixels around it.
    square = image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
    return square.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else square


def random_crop_views(image: Image.Image, count: int, spec: Preprocessing, seed: int) -> list[npt.NDArray[np.float32]]:
    """Different model inputs made from one image, for when there are no data: see :func:`random_resized_crop`.

    The views depend on ``seed`` alone, and more of them begin with the same ones.

    Args:
        image: mode RGB, any size.
        count: how many, at least 1.
        spec: gives size, mean and std (its resize, crop_pct and interpolation play no part).
        seed: at least 0.

    Returns:
        ``count`` arrays as :func:`preprocess` returns them: float32, (1, 3, image_size, image_size).

    Raises:
        InputError: not RGB, ``count`` or ``seed`` out of range.
    """
    if count < 1 or seed < 0:
        raise InputError(f"random views: count {count} and seed {seed} must be at least 1 and 0")
    rng = np.random.default_rng(seed)
    return [normalize(np.asarray(random_resized_crop(image, spec.image_size, rng)), spec)[None] for _ in range(count)]


def _random_box(
    width: int, height: int, rng: np.random.Generator, scale: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Left, top, width, height of a random rectangle inside ``width`` x ``height``."""
    for _ in range(_ATTEMPTS):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(_ASPECT[0]), math.log(_ASPECT[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 1 <= w <= width and 1 <= h <= height:
            return int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1)), w, h
    # Every draw stuck out of the image: take its centre, as wide or tall as the aspect limits allow.
    w = min(width, max(1, round(height * _ASPECT[1])))
    h = min(height, max(1, round(width / _ASPECT[0])))
    return (width - w) // 2, (height - h) // 2, w, h


def _require_rgb(image: Image.Image) -> None:
    if image.mode != "RGB":
        raise InputError(f"the image has mode {image.mode}, not RGB; read it with tofe_edge.io.images.read_image")

"""tofe_edge.io.preprocessing against timm's evaluation transform and against hand-made cases."""

import dataclasses
import importlib
import importlib.util
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tofe_edge.errors import InputError
from tofe_edge.io.preprocessing import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Preprocessing,
    normalize,
    preprocess,
    random_crop_views,
    random_resized_crop,
    resize_and_crop,
)

SPEC = Preprocessing(224, 0.9, "bicubic", IMAGENET_MEAN, IMAGENET_STD)
# width, height: odd, even, wide, tall, smaller than the crop, exact, a long side that truncates, one pixel
SIZES = [
    (500, 375), (375, 500), (333, 517), (224, 224), (248, 248), (227, 227), (100, 80), (31, 200), (2000, 301), (1, 1),
]  # fmt: skip


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


@pytest.fixture(scope="module")
def create_transform() -> Callable[..., Any]:
    """timm's factory; a minimal edge installation has neither torch nor timm."""
    for module in ("torch", "torchvision", "timm"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    from tofe_edge.model.backbones import timm_vit

    # timm imports torchvision, which does not load beside every torch; the adapter knows how to get around that.
    timm_vit.model_names()
    data = importlib.import_module("timm.data")
    return data.create_transform  # type: ignore[no-any-return]


def timm_transform(create_transform: Callable[..., Any], spec: Preprocessing) -> Any:
    return create_transform(
        (3, spec.image_size, spec.image_size),
        is_training=False,
        interpolation=spec.interpolation,
        mean=spec.mean,
        std=spec.std,
        crop_pct=spec.crop_pct,
    )


def timm_crop(transform: Any, image: Image.Image) -> np.ndarray:
    resize, centre_crop = transform.transforms[:2]
    return np.asarray(centre_crop(resize(image)))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("crop_pct", [0.875, 0.9, 0.95, 1.0])
def test_equals_timm(create_transform: Callable[..., Any], crop_pct: float, interpolation: str) -> None:
    spec = dataclasses.replace(SPEC, crop_pct=crop_pct, interpolation=interpolation)
    theirs = timm_transform(create_transform, spec)
    for width, height in SIZES:
        image = picture(width, height)
        assert np.array_equal(np.asarray(resize_and_crop(image, spec)), timm_crop(theirs, image)), (width, height)
        assert np.array_equal(preprocess(image, spec)[0], theirs(image).numpy()), (width, height)


@pytest.mark.parametrize("image_size", [32, 225, 384])
def test_equals_timm_at_other_sizes(create_transform: Callable[..., Any], image_size: int) -> None:
    spec = dataclasses.replace(SPEC, image_size=image_size, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    image = picture(301, 400)
    assert np.array_equal(preprocess(image, spec)[0], timm_transform(create_transform, spec)(image).numpy())


@settings(max_examples=60, deadline=None)
@given(width=st.integers(1, 400), height=st.integers(1, 400), crop_pct=st.floats(0.5, 1.0))
def test_geometry_equals_timm(create_transform: Callable[..., Any], width: int, height: int, crop_pct: float) -> None:
    spec = dataclasses.replace(SPEC, image_size=32, crop_pct=crop_pct)
    image = picture(width, height)
    expected = timm_crop(timm_transform(create_transform, spec), image)
    assert np.array_equal(np.asarray(resize_and_crop(image, spec)), expected)


def test_centre_of_227_without_resize() -> None:
    image = picture(227, 227)
    spec = dataclasses.replace(SPEC, resize="none")
    # (227 - 224) / 2 = 1.5 rounds to the even 2: rows and columns 2..225 stay.
    assert np.array_equal(np.asarray(resize_and_crop(image, spec)), np.asarray(image)[2:226, 2:226])
    assert preprocess(image, spec).shape == (1, 3, 224, 224)


def test_centre_without_resize_equals_torchvision(create_transform: Callable[..., Any]) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    spec = dataclasses.replace(SPEC, image_size=32, resize="none")
    for width, height in [(32, 32), (33, 34), (35, 36), (37, 90), (227, 224)]:
        image = picture(width, height)
        expected = transforms.CenterCrop(32)(image)
        assert np.array_equal(np.asarray(resize_and_crop(image, spec)), np.asarray(expected))


@pytest.mark.parametrize("size", [(223, 300), (300, 223), (1, 1)])
def test_too_small_without_resize(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=f"{size[0]} x {size[1]} .* smaller than the 224 x 224"):
        resize_and_crop(picture(*size), dataclasses.replace(SPEC, resize="none"))


def test_too_narrow() -> None:
    with pytest.raises(InputError, match=r"2000000 x 1 .* too narrow"):
        resize_and_crop(picture(2_000_000, 1), SPEC)


def test_normalize() -> None:
    pixels = np.zeros((2, 3, 3), np.uint8)
    pixels[1, 2] = (0, 128, 255)
    values = normalize(pixels, SPEC)
    assert values.shape == (3, 2, 3)
    assert values.dtype == np.float32
    assert values.flags.c_contiguous
    expected = (np.array([0, 128, 255]) / 255 - IMAGENET_MEAN) / IMAGENET_STD
    assert np.allclose(values[:, 1, 2], expected, atol=1e-6)
    assert pixels[1, 2].tolist() == [0, 128, 255]


@pytest.mark.parametrize(
    "pixels", [np.zeros((3, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8)]
)
def test_normalize_refuses(pixels: Any) -> None:
    with pytest.raises(InputError, match="uint8 of shape"):
        normalize(pixels, SPEC)


def test_other_modes_are_refused() -> None:
    for image in (Image.new("L", (300, 300)), Image.new("RGBA", (300, 300))):
        with pytest.raises(InputError, match="not RGB"):
            preprocess(image, SPEC)
        with pytest.raises(InputError, match="not RGB"):
            random_crop_views(image, 1, SPEC, 0)


@pytest.mark.parametrize("resize", ["short_side", "none"])
def test_json_round_trip(resize: str) -> None:
    spec = dataclasses.replace(SPEC, resize=resize)
    content = json.loads(json.dumps(spec.to_json()))
    assert Preprocessing.from_json(content) == spec
    assert content["color_order"] == "RGB"
    assert content["layout"] == "NCHW"


def test_json_defaults_and_whole_numbers() -> None:
    content = {**SPEC.to_json(), "crop_pct": 1, "std": [1, 1, 1]}
    del content["resize"]
    spec = Preprocessing.from_json(content)
    assert (spec.resize, spec.crop_pct, spec.std) == ("short_side", 1.0, (1.0, 1.0, 1.0))
    assert type(spec.crop_pct) is float


BAD_VALUES: dict[str, list[Any]] = {
    "image_size": [0, -1, 4097, 224.0, True, "224", None, [224]],
    "crop_pct": [0, 0.05, 1.01, float("nan"), float("inf"), True, "0.9", None, 10**400],
    "interpolation": ["nearest", "", 3, None, ["bicubic"]],
    "mean": [[0.5, 0.5], [0.5] * 4, [123.7, 116.3, 103.5], [0.5, 0.5, "0.5"], 0.5, "abc", None],
    "std": [[0.5, 0.5, 0], [0.5, 0.5, float("nan")], [58.4, 57.1, 57.4], [True] * 3, {}],
    "resize": ["both", None, 256, []],
    "color_order": ["BGR", None],
    "layout": ["NHWC", 1],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in BAD_VALUES.items() for value in values])
def test_json_values_are_checked(key: str, value: object) -> None:
    with pytest.raises(InputError, match=f"^a.json: .*{key}"):
        Preprocessing.from_json({**SPEC.to_json(), key: value}, "a.json")


@pytest.mark.parametrize("key", ["image_size", "crop_pct", "interpolation", "mean", "std", "color_order", "layout"])
def test_json_missing_key(key: str) -> None:
    content = SPEC.to_json()
    del content[key]
    with pytest.raises(InputError, match=f"^preprocessing: key '{key}' is missing"):
        Preprocessing.from_json(content)


def test_json_shape() -> None:
    with pytest.raises(InputError, match="crop_pct"):
        dataclasses.replace(SPEC, crop_pct=1.5)  # the constructor checks too
    # An option that this version does not know would be an option silently not applied.
    with pytest.raises(InputError, match="key 'crop_mode' is unknown"):
        Preprocessing.from_json({**SPEC.to_json(), "crop_mode": "squash"})
    for content in (None, list[int](), "x", 3):
        with pytest.raises(InputError, match="the document has the wrong type"):
            Preprocessing.from_json(content)


def test_views_are_deterministic_and_different() -> None:
    image = picture(320, 240)
    views = random_crop_views(image, 6, SPEC, seed=3)
    assert all(view.shape == (1, 3, 224, 224) and view.dtype == np.float32 for view in views)
    for view, again in zip(views[:4], random_crop_views(image, 4, SPEC, seed=3), strict=True):
        assert np.array_equal(view, again)
    for index, view in enumerate(views):
        assert not any(np.array_equal(view, other) for other in views[:index])
    assert not np.array_equal(views[0], random_crop_views(image, 1, SPEC, seed=4)[0])


def test_random_crop_statistics() -> None:
    """Red is the column and green the row, so a crop tells where it came from."""
    gradient = np.zeros((200, 200, 3), np.uint8)
    gradient[..., 0] = np.arange(200)[None, :]
    gradient[..., 1] = np.arange(200)[:, None]
    image = Image.fromarray(gradient)
    rng = np.random.default_rng(0)
    crops = [np.asarray(random_resized_crop(image, 32, rng)).astype(int) for _ in range(300)]
    widths = np.array([np.ptp(crop[..., 0]) + 1 for crop in crops])
    heights = np.array([np.ptp(crop[..., 1]) + 1 for crop in crops])
    areas, aspects = widths * heights / 200**2, widths / heights
    mirrored = np.mean([crop[0, 0, 0] > crop[0, -1, 0] for crop in crops])
    # Half an output pixel is lost at each edge: 200 / 32 pixels in all at most.
    assert 0.25 < areas.min() < 0.45
    assert 0.8 < areas.max() <= 1.0
    assert 0.7 < aspects.min() < 0.85
    assert 1.2 < aspects.max() < 1.42
    assert 0.4 < mirrored < 0.6


@settings(max_examples=80, deadline=None)
@given(width=st.integers(1, 300), height=st.integers(1, 300), seed=st.integers(0, 1000))
def test_random_crop_takes_any_image(width: int, height: int, seed: int) -> None:
    crop = random_resized_crop(picture(width, height), 16, np.random.default_rng(seed))
    assert (crop.size, crop.mode) == ((16, 16), "RGB")


def test_narrow_image_gives_its_centre() -> None:
    pixels = np.zeros((1000, 10, 3), np.uint8)
    pixels[490:510] = 255
    crop = random_resized_crop(Image.fromarray(pixels), 8, np.random.default_rng(0), (0.9, 1.0))
    assert np.asarray(crop).min() == 255


def test_random_crop_refuses() -> None:
    image, rng = picture(8, 8), np.random.default_rng(0)
    for size, scale in ((0, (0.35, 1.0)), (8, (0.0, 1.0)), (8, (0.9, 0.5)), (8, (0.5, 1.1))):
        with pytest.raises(InputError, match="random crop"):
            random_resized_crop(image, size, rng, scale)
    for count, seed in ((0, 0), (1, -1)):
        with pytest.raises(InputError, match="random views"):
            random_crop_views(image, count, SPEC, seed)

"""What the native runner does before a model runs, compared with hashlib and Pillow: checksums, images, preprocessing."""

import hashlib
import io
import json
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL
import pytest
from conftest import JSON_VALUES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from native_probe import Pixels, Probe, RefusedError, probe
from PIL import Image

from tofe_edge.errors import InputError
from tofe_edge.io.documents import DIGEST, digest_of, signed
from tofe_edge.io.images import read_image
from tofe_edge.io.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing, preprocess
from tofe_edge.runtimes.native_build import Target
from tofe_edge.runtimes.native_runner import BAD_FILE, BAD_INPUT, RUNTIME_ERROR, WRONG_CALL

pytestmark = [
    pytest.mark.toolchain,
    pytest.mark.skipif(
        int(PIL.__version__.split(".")[0]) < 13,
        reason="Pillow 13 resizes tall images in another order; `pip install pillow>=13`",
    ),
]
FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
BORDERS = [0, 1, 54, 55, 56, 57, 63, 64, 65, 119, 120, 127, 128, 129, 4096]
sizes = st.integers(1, 90)


@pytest.fixture(scope="module", params=["host", "aarch64"])
def native(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Probe]:
    target: Target = request.param
    with probe(target, tmp_path_factory) as running:
        yield running


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Probe]:
    with probe("host", tmp_path_factory) as running:
        yield running


def noise(width: int, height: int, seed: int) -> Pixels:
    """Hard edges in half of the cases: there a cubic filter overshoots."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (height, width, 3), np.uint8)
    return np.where(pixels > 127, 255, 0).astype(np.uint8) if seed % 2 else pixels


@given(
    size=st.integers(0, 300) | st.sampled_from(BORDERS),
    cuts=st.lists(st.integers(0, 130), max_size=4),
    seed=st.integers(0, 255),
)
@settings(max_examples=200)
def test_checksums_are_those_of_hashlib(native: Probe, size: int, cuts: list[int], seed: int) -> None:
    content = np.random.default_rng(seed).bytes(size)
    pieces: list[int] = []
    for cut in cuts:
        pieces.append(min(cut, size - sum(pieces)))
    assert native.sha256(content, pieces) == hashlib.sha256(content).hexdigest()


@given(old=st.tuples(sizes, sizes), new=st.tuples(sizes, sizes), how=st.sampled_from(sorted(FILTERS)), data=st.data())
@settings(max_examples=300)
def test_resizing_is_pillows_to_the_byte(
    native: Probe, old: tuple[int, int], new: tuple[int, int], how: str, data: st.DataObject
) -> None:
    image = noise(*old, data.draw(st.integers(0, 99)))
    left, top = data.draw(st.integers(0, new[0] - 1)), data.draw(st.integers(0, new[1] - 1))
    width, height = data.draw(st.integers(1, new[0] - left)), data.draw(st.integers(1, new[1] - top))
    box = (left, top, left + width, top + height)
    wanted = np.asarray(Image.fromarray(image).resize(new, FILTERS[how]).crop(box))
    assert np.array_equal(native.resized(image, new, (left, top, width, height), how), wanted)


@pytest.mark.parametrize("how", sorted(FILTERS))
@pytest.mark.parametrize("size", [(3000, 2000), (2, 1999), (641, 3)])
def test_large_and_narrow_images_too(here: Probe, size: tuple[int, int], how: str) -> None:
    image = noise(*size, seed=3)
    wanted = np.asarray(Image.fromarray(image).resize((256, 170), FILTERS[how]))
    assert np.array_equal(here.resized(image, (256, 170), (0, 0, 256, 170), how), wanted)


@given(
    size=st.tuples(st.integers(1, 120), st.integers(1, 120)),
    image_size=st.integers(1, 48),
    crop_pct=st.sampled_from([0.1, 0.5, 0.875, 0.9, 0.95, 1.0]) | st.floats(0.1, 1.0),
    how=st.sampled_from(sorted(FILTERS)),
    resize=st.sampled_from(["short_side", "none"]),
    seed=st.integers(0, 99),
)
@settings(max_examples=200)
def test_preprocessing_is_pythons_to_the_bit(
    native: Probe, size: tuple[int, int], image_size: int, crop_pct: float, how: str, resize: str, seed: int
) -> None:
    spec = Preprocessing(image_size, crop_pct, how, IMAGENET_MEAN, IMAGENET_STD, resize)
    image = noise(*size, seed)
    try:
        wanted = preprocess(Image.fromarray(image), spec)
    except InputError:
        with pytest.raises(RefusedError, match=f"-{BAD_INPUT} the image of .* is (smaller|too narrow)"):
            native.preprocessed(image, spec)
    else:
        assert native.preprocessed(image, spec).tobytes() == wanted.tobytes()


def saved(image: Image.Image, path: Path, **options: Any) -> Path:
    image.save(path, **options)
    return path


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = orientation
    return found


def test_pngs_of_every_kind_are_read_as_python_reads_them(native: Probe, tmp_path: Path) -> None:
    colours = Image.fromarray(noise(13, 9, seed=0))
    alpha = Image.fromarray(noise(13, 9, seed=2)[..., 0])
    clear = colours.convert("RGBA")
    clear.putalpha(alpha)
    gray_alpha = colours.convert("LA")
    gray_alpha.putalpha(alpha)
    deep = Image.fromarray((np.arange(13 * 9, dtype=np.uint16) * 559).reshape(9, 13))
    palette = colours.quantize(16)
    kinds = {
        "rgb": colours, "gray": colours.convert("L"), "bits": colours.convert("1"), "rgba": clear, "gray_alpha": gray_alpha,
        "palette": palette, "deep": deep,
    }  # fmt: skip
    for name, image in kinds.items():
        path = saved(image, tmp_path / f"{name}.png")
        assert np.array_equal(native.decoded(path), np.asarray(read_image(path))), name
    keyed = saved(palette, tmp_path / "keyed.png", transparency=3)
    assert np.array_equal(native.decoded(keyed), np.asarray(read_image(keyed)))
    for turn in range(1, 9):
        path = saved(colours, tmp_path / f"turned{turn}.png", exif=exif(turn))
        assert np.array_equal(native.decoded(path), np.asarray(read_image(path))), turn


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0, "quality": 95}])
def test_jpegs_are_read_but_for_rounding(native: Probe, tmp_path: Path, options: dict[str, Any]) -> None:
    coarse = Image.fromarray(noise(8, 6, seed=0)).resize((65, 49), Image.Resampling.BICUBIC)
    for turn in range(1, 9):
        path = saved(coarse, tmp_path / "turned.jpg", exif=exif(turn), **options)
        wanted, found = np.asarray(read_image(path)).astype(int), native.decoded(path).astype(int)
        assert found.shape == wanted.shape
        assert np.abs(found - wanted).mean() < 1.0
    gray = saved(coarse.convert("L"), tmp_path / "gray.jpg")
    assert np.abs(native.decoded(gray).astype(int) - np.asarray(read_image(gray))).max() <= 2


def png_bytes() -> bytes:
    stored = io.BytesIO()
    Image.fromarray(noise(13, 9, seed=0)).save(stored, "PNG")
    return stored.getvalue()


def rgb_png(side: int, packed: bytes) -> bytes:
    """A square one, its pixels as they are given."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", packed), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def jpeg_bytes(**options: Any) -> bytes:
    stored = io.BytesIO()
    Image.fromarray(noise(32, 24, seed=0)).save(stored, "JPEG", exif=exif(6), **options)
    return stored.getvalue()


def said_of(native: Probe, path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(RefusedError) as caught:
        native.decoded(path)
    assert caught.value.code == BAD_INPUT
    assert caught.value.message.startswith(f"{path}: ")
    return caught.value.message


def test_what_is_no_image_or_damaged_is_refused(native: Probe, tmp_path: Path) -> None:
    path = tmp_path / "odd"
    assert "is empty" in said_of(native, path, b"")
    assert "is neither PNG nor JPEG" in said_of(native, path, b"GIF89a" + bytes(99))
    flipped = bytearray(png_bytes())
    flipped[60] ^= 1
    assert "the checksum of one of its chunks is wrong" in said_of(native, path, bytes(flipped))
    for whole in (png_bytes(), jpeg_bytes()):
        for share in (0.1, 0.5, 0.9):
            assert "it is cut short" in said_of(native, path, whole[: max(8, int(share * len(whole)))])
    assert "has 144000000 pixels; scale it down" in said_of(native, path, rgb_png(12000, zlib.compress(b"")))
    with pytest.raises(RefusedError, match="cannot be opened"):
        native.decoded(tmp_path / "none.png")


def test_a_png_that_unpacks_to_more_than_its_header_says_is_refused(native: Probe, tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    rows = (b"\0" + bytes(3 * 16)) * 16
    path.write_bytes(rgb_png(16, zlib.compress(rows)))
    assert native.decoded(path).shape == (16, 16, 3)
    bomb = rgb_png(16, zlib.compress(rows + bytes(32 << 20)))
    assert len(bomb) < 1 << 16
    assert "is damaged (it holds more than its header says)" in said_of(native, path, bomb)


def test_a_huffman_table_of_more_codes_than_bytes_is_refused_wherever_it_is(native: Probe, tmp_path: Path) -> None:
    path, whole = tmp_path / "codes.jpg", jpeg_bytes(progressive=True)
    scans = [found.start() for found in re.finditer(b"\xff\xda", whole)]
    assert len(scans) > 1
    for place in (2, scans[0], scans[1], len(whole) - 2):
        for counts, values in ((bytes([16] * 15 + [17]), 257), (bytes([255] * 16), 16 * 255), (bytes(15) + b"\x02", 1)):
            table = b"\x13" + counts + bytes(values)
            segment = b"\xff\xc4" + struct.pack(">H", 2 + len(table)) + table
            said = said_of(native, path, whole[:place] + segment + whole[place:])
            assert "is damaged (one of its Huffman tables is wrong)" in said
        path.write_bytes(whole[:place] + b"\xff\xfe\0\x04hi" + whole[place:])
        assert native.decoded(path).shape == (32, 24, 3)


def test_a_jpeg_of_hundreds_of_scans_is_refused(native: Probe, tmp_path: Path) -> None:
    path, whole = tmp_path / "scans.jpg", jpeg_bytes(progressive=True)
    last = whole.rindex(b"\xff\xda")
    assert "more than 50 scans" in said_of(native, path, whole[:last] + whole[last:-2] * 300 + whole[-2:])


@given(
    places=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8),
    cut=st.floats(0, 1),
    jpeg=st.booleans(),
)
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_hostile_images_are_read_or_refused_and_nothing_else(
    here: Probe, tmp_path: Path, places: list[tuple[float, int]], cut: float, jpeg: bool
) -> None:
    """The probe is compiled with checks that end it at the first byte read out of place."""
    content = bytearray(jpeg_bytes() if jpeg else png_bytes())
    for place, value in places:
        content[int(place * len(content))] = value
    path = tmp_path / "hostile"
    path.write_bytes(content[: int(cut * len(content))] if cut < 0.5 else content)
    code = BAD_INPUT
    try:
        here.decoded(path)
    except RefusedError as error:
        code = error.code
    assert code == BAD_INPUT


@pytest.mark.parametrize(("text", "cores"), [("0", [0]), ("0,2-3", [0, 2, 3]), ("3,1-2,2", [1, 2, 3]), ("7-7", [7])])
def test_lists_of_cores(here: Probe, text: str, cores: list[int]) -> None:
    assert here.cpus(text) == cores


@pytest.mark.parametrize("text", [",", "1,", "-1", "1-", "3-1", "a", "0x1", "1--2", "99999", "1024", "+1", "0-1-2"])
def test_what_is_no_list_of_cores(here: Probe, text: str) -> None:
    with pytest.raises(RefusedError, match=f"-{WRONG_CALL} --cpus takes a list of cores such as 0,2-3, not"):
        here.cpus(text)


@pytest.mark.parametrize(("dtype", "kind"), [("int64", np.int64), ("float32", np.float32)])
def test_a_selection_is_read_within_its_bytes(native: Probe, dtype: str, kind: type[np.generic]) -> None:
    selection = np.array([3, 1], kind).tobytes()
    content = bytes(8) + selection
    assert native.kept(content, dtype, len(selection), 2) == native.kept(content, dtype, len(selection), 1, 2) == [3, 1]
    for size, shape in (
        (len(selection), (3,)),  # more elements than bytes
        (0, (0, 2)),
        (len(selection), (-1,)),
        (len(selection), (1 << 62,)),
        (2 * len(selection), (4,)),  # more bytes than there are
    ):
        with pytest.raises(RefusedError, match=f"-{BAD_FILE} net.json: .* gives other outputs"):
            native.kept(content, dtype, size, *shape)


@given(content=st.dictionaries(st.text(max_size=5), JSON_VALUES, max_size=4))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_digests_of_documents_are_pythons(native: Probe, tmp_path: Path, content: dict[str, Any]) -> None:
    path = tmp_path / "document.json"
    document = {**signed(2, content), "schema": 2}
    document[DIGEST] = digest_of(json.loads(json.dumps(document)))
    try:
        text = json.dumps(document, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:
        return  # NaN, or half of a character
    path.write_bytes(text)
    assert native.has_digest(path, 2) and not native.has_digest(path, 3)
    path.write_bytes(text[:-1] + b', "more": 1}')
    with pytest.raises(RefusedError, match="its digest is not that of its content"):
        native.has_digest(path, 2)


def test_a_key_that_stands_there_twice_is_refused(native: Probe, tmp_path: Path) -> None:
    path = tmp_path / "twice.json"
    path.write_text('{"a": [{"b": 1}, {"b": 1, "c": {"b": 1}, "b": 2}]}')
    with pytest.raises(RefusedError, match=r"key 'b' stands there twice"):
        native.has_digest(path, 2)


def test_logits_that_are_no_numbers_are_a_runtime_error(native: Probe) -> None:
    assert native.ranked([1, 2]) == "ba"
    for value in (np.nan, np.inf, -np.inf):
        with pytest.raises(RefusedError, match=f"-{RUNTIME_ERROR} net.json: .* infinite or not numbers"):
            native.ranked([value, 1])


def test_normalisation_of_every_value_of_every_channel(native: Probe) -> None:
    values: npt.NDArray[np.uint8] = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    spec = Preprocessing(16, 1.0, "bicubic", IMAGENET_MEAN, IMAGENET_STD)
    assert native.preprocessed(values, spec).tobytes() == preprocess(Image.fromarray(values), spec).tobytes()

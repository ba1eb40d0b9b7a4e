"""Each rule of tofe_edge.io.images on a real file."""

import io
import os
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from tofe_edge.errors import InputError
from tofe_edge.io import images
from tofe_edge.io.images import read_image
from tofe_edge.io.listing import list_images

pytestmark = pytest.mark.filterwarnings("error")

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _silent(request: pytest.FixtureRequest, capfd: pytest.CaptureFixture[str]) -> object:
    """No rule may print: not Python's warnings, not logging, not the C libraries.

    One does: libtiff names damage to the terminal by itself, and nothing in Python can stop it.
    """
    yield
    output = capfd.readouterr()
    if "damaged_tiff" not in request.node.name:
        assert output == ("", "")


def colours(height: int = 5, width: int = 7) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    target = io.BytesIO()
    image.save(target, kind, **options)
    return target.getvalue()


def read(folder: Path, content: bytes, name: str = "image.bin") -> np.ndarray:
    path = folder / name
    path.write_bytes(content)
    result = read_image(path)
    assert result.mode == "RGB"
    assert type(result) is Image.Image
    assert result.info == {}
    return np.asarray(result)


def refused(path: Path, *words: str) -> str:
    with pytest.raises(InputError) as caught:
        read_image(path)
    message = str(caught.value)
    assert path.name.replace("\n", " ") in message
    for word in words:
        assert word in message
    return message


def read_or_refused(path: Path) -> None:
    """Whatever the content: an RGB image, or an InputError of one line."""
    message = ""
    try:
        assert read_image(path).mode == "RGB"
    except InputError as error:
        message = str(error)
    assert len(message.splitlines()) <= 1


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_header(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


def tiff(width: int, height: int, bits: Sequence[int], photometric: int, data: bytes, sample_format: int = 1) -> bytes:
    """An uncompressed little-endian TIFF of one strip."""
    extra = 8 + len(data)
    many = struct.pack(f"<{len(bits)}H", *bits)
    bits_value = many.ljust(4, b"\0") if len(many) <= 4 else struct.pack("<I", extra)
    tail = many if len(many) > 4 else b""
    shorts = {256: width, 257: height, 259: 1, 262: photometric, 277: len(bits), 278: height, 339: sample_format}
    entries = [(tag, 3, 1, struct.pack("<HH", value, 0)) for tag, value in shorts.items()]
    entries += [(tag, 4, 1, struct.pack("<I", value)) for tag, value in ((273, 8), (279, len(data)))]
    entries = sorted([*entries, (258, 3, len(bits), bits_value)])
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHI", *e[:3]) + e[3] for e in entries)
    return b"II*\0" + struct.pack("<I", extra + len(tail)) + data + tail + directory + b"\0\0\0\0"


LOSSLESS: list[dict[str, Any]] = [{}, {"lossless": True}]


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
@pytest.mark.parametrize("name", ["x.jpg", "x", "x.txt"])
def test_lossless_formats_are_recognised_by_content(tmp_path: Path, kind: str, name: str) -> None:
    pixels = colours()
    content = encoded(Image.fromarray(pixels), kind, **LOSSLESS[kind == "WEBP"])
    assert np.array_equal(read(tmp_path, content, name), pixels)


def test_jpeg_is_decoded_at_full_size(tmp_path: Path) -> None:
    content = encoded(Image.fromarray(colours(64, 96)), "JPEG")
    assert np.array_equal(read(tmp_path, content), np.asarray(Image.open(io.BytesIO(content))))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_first_frame(tmp_path: Path, kind: str) -> None:
    first, second = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    content = encoded(first, kind, save_all=True, append_images=[second], **LOSSLESS[kind == "WEBP"])
    assert (read(tmp_path, content) == (255, 0, 0)).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(tmp_path: Path, kind: str, orientation: int) -> None:
    upright = Image.fromarray(colours(16, 24))
    exif = Image.Exif()
    exif[274] = orientation
    content = encoded(upright, kind, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    pixels = read(tmp_path, content)
    assert np.array_equal(pixels, np.asarray(expected))
    assert pixels.shape[:2] == ((16, 24) if orientation <= 4 else (24, 16))
    # The tag is gone: a caller who turns again gets the same.
    again = ImageOps.exif_transpose(read_image(tmp_path / "image.bin"))
    assert np.array_equal(np.asarray(again), pixels)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01" * 40]
)
def test_broken_exif_counts_as_upright(tmp_path: Path, exif: bytes) -> None:
    image = Image.fromarray(colours(16, 16))
    assert np.array_equal(read(tmp_path, encoded(image, "JPEG", exif=exif)), read(tmp_path, encoded(image, "JPEG")))


@settings(max_examples=100, deadline=None)
@given(exif=st.binary(max_size=200))
def test_any_exif_block_leaves_the_pixels(exif: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    content = encoded(Image.new("RGB", (8, 8), "red"), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0" + exif)
    assert (read(tmp_path_factory.getbasetemp(), content)[..., 0] > 250).all()


INKS = {"red": (0, 255, 255, 0), "black": (0, 0, 0, 255), "white": (0, 0, 0, 0), "teal": (255, 0, 0, 128)}
INK_RGB = {"red": (255, 0, 0), "black": (0, 0, 0), "white": (255, 255, 255), "teal": (0, 127, 127)}


@pytest.mark.parametrize("name", INKS)
@pytest.mark.parametrize("marker", [True, False])
def test_cmyk_jpeg_is_inverted(tmp_path: Path, name: str, marker: bool) -> None:
    """Pillow writes what Photoshop writes: an Adobe marker, and 255 for no ink."""
    content = encoded(Image.new("CMYK", (16, 16), INKS[name]), "JPEG", quality=100)
    assert content[2:12] == b"\xff\xee\x00\x0eAdobe\x00"[:10]
    if not marker:
        content = content[:2] + content[18:]
    assert np.abs(read(tmp_path, content).astype(int) - INK_RGB[name]).max() <= 1


def test_ycck_jpeg(tmp_path: Path) -> None:
    """Adobe transform 2: the samples are YCbCr of the inverted C, M, Y beside K. Red: no cyan, full magenta, yellow."""
    luma_chroma = Image.new("RGB", (1, 1), (0, 255, 255)).convert("YCbCr").tobytes()
    # Pillow's writer inverts the four samples, so give it their complement.
    image = Image.new("CMYK", (16, 16), (*(255 - value for value in luma_chroma), 0))
    content = bytearray(encoded(image, "JPEG", quality=100))
    assert content[6:11] == b"Adobe"
    assert content[17] == 0
    content[17] = 2
    assert np.abs(read(tmp_path, bytes(content)).astype(int) - (255, 0, 0)).max() <= 2


def test_cmyk_tiff_is_not_inverted(tmp_path: Path) -> None:
    for name, ink in INKS.items():
        pixels = read(tmp_path, encoded(Image.new("CMYK", (4, 4), ink), "TIFF"))
        assert np.abs(pixels.astype(int) - INK_RGB[name]).max() <= 1


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *((kind, "L") for kind in ("PNG", "TIFF", "BMP", "GIF", "PPM")),
        *((kind, "1") for kind in ("PNG", "TIFF", "BMP", "PPM")),
    ],
)
def test_grayscale_and_one_bit(tmp_path: Path, kind: str, mode: str) -> None:
    gray = RNG.integers(0, 256, (4, 6), np.uint8) if mode == "L" else RNG.integers(0, 2, (4, 6), np.uint8) * 255
    content = encoded(Image.fromarray(gray).convert(mode), kind)
    assert np.array_equal(read(tmp_path, content), np.repeat(gray[..., None], 3, 2))


def test_alpha_is_composited_over_white(tmp_path: Path) -> None:
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 128]]], np.uint8)
    expected = [[[10, 20, 30], [255, 255, 255], [127, 127, 127]]]
    for kind, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})):
        assert read(tmp_path, encoded(Image.fromarray(rgba), kind, **options)).tolist() == expected


def test_gray_with_alpha(tmp_path: Path) -> None:
    image = Image.merge("LA", [Image.fromarray(np.array([row], np.uint8)) for row in ([9, 9, 0], [255, 0, 128])])
    for kind in ("PNG", "TIFF"):
        assert read(tmp_path, encoded(image, kind))[0, :, 0].tolist() == [9, 255, 127]


def test_palette(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8)).copy()
    image = Image.frombytes("P", (3, 1), image.tobytes())
    image.putpalette([1, 2, 3, 4, 5, 6, 7, 8, 9])
    plain = [[[1, 2, 3], [4, 5, 6], [7, 8, 9]]]
    clear = [[[1, 2, 3], [255, 255, 255], [7, 8, 9]]]
    for kind in ("PNG", "GIF", "BMP", "TIFF"):
        assert read(tmp_path, encoded(image, kind)).tolist() == plain
    for kind in ("PNG", "GIF"):
        assert read(tmp_path, encoded(image, kind, transparency=1)).tolist() == clear
    partly = read(tmp_path, encoded(image, "PNG", transparency=bytes([255, 0, 128])))[0, :, 0].tolist()
    assert partly[:2] == [1, 255]
    assert abs(partly[2] - (7 * 128 + 255 * 127) / 255) <= 1


def test_transparent_colour_key(tmp_path: Path) -> None:
    rgb = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    assert read(tmp_path, encoded(rgb, "PNG", transparency=(1, 2, 3))).tolist() == [[[255] * 3, [4, 5, 6]]]
    gray = Image.fromarray(np.array([[7, 8]], np.uint8))
    assert read(tmp_path, encoded(gray, "PNG", transparency=7))[0, :, 0].tolist() == [255, 8]
    deep = Image.fromarray(np.array([[7, 51400]], np.uint16))
    assert read(tmp_path, encoded(deep, "PNG", transparency=7))[0, :, 0].tolist() == [255, 200]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_each_16_bit_gray_is_scaled(tmp_path: Path, kind: str) -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    gray = read(tmp_path, encoded(Image.fromarray(values), kind))[..., 0]
    assert np.array_equal(gray, np.rint(values / 257))


@pytest.mark.parametrize(
    ("bits", "photometric", "data", "gray"),
    [
        (16, 0, struct.pack("<3H", 0, 51400, 65535), [255, 55, 0]),  # counts from white
        (16, 1, struct.pack("<3H", 0, 51400, 65535), [0, 200, 255]),
        (8, 0, b"\x00\xc8", [255, 55]),
        (12, 1, b"\xff\xf8\x00", [255, 128]),  # two samples in three bytes: 0xFFF, 0x800
    ],
)
def test_gray_tiff(tmp_path: Path, bits: int, photometric: int, data: bytes, gray: list[int]) -> None:
    assert read(tmp_path, tiff(len(gray), 1, [bits], photometric, data))[0, :, 0].tolist() == gray


def test_16_bit_colour_keeps_the_high_byte(tmp_path: Path) -> None:
    row = b"\x00" + struct.pack(">6H", 0x0100, 0x80FF, 0xFFFF, 0, 0x00FF, 0x1234)
    header = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0))
    content = header + png_chunk(b"IDAT", zlib.compress(row)) + png_chunk(b"IEND", b"")
    assert read(tmp_path, content).tolist() == [[[1, 0x80, 255], [0, 0, 0x12]]]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (tiff(2, 1, [32], 1, struct.pack("<2i", 5, 70000), 2), ("5..70000", "outside 0..65535")),
        (tiff(2, 1, [16], 1, struct.pack("<2h", -1, 7), 2), ("-1..7",)),
        (tiff(2, 1, [32], 1, struct.pack("<2f", 0.5, 1.0), 3), ("floating point",)),
        (b"Pf\n1 1\n-1.0\n\0\0\x80?", ("floating point",)),
        (tiff(1, 1, [8, 8, 8], 8, b"\x80\x00\x00"), ("CIELAB",)),
    ],
)
def test_refused_kinds(tmp_path: Path, content: bytes, words: tuple[str, ...]) -> None:
    path = tmp_path / "x.tif"
    path.write_bytes(content)
    refused(path, *words)


@pytest.mark.parametrize("side", [100_000, 12_000])
def test_huge_image_is_refused_from_its_header(tmp_path: Path, side: int) -> None:
    path = tmp_path / "huge.png"
    path.write_bytes(png_header(side, side) + png_chunk(b"IDAT", b""))
    refused(path, "too large", str(side * side) if side > 20_000 else f"{side} x {side}", "scale it down")


def test_limit_lies_above_pillows_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between Pillow's warning and MAX_PIXELS an image is read, in silence."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 80)
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    pixels = colours(10, 10)
    assert np.array_equal(read(tmp_path, encoded(Image.fromarray(pixels), "PNG")), pixels)
    path = tmp_path / "x.png"
    path.write_bytes(encoded(Image.fromarray(colours(10, 11)), "PNG"))
    refused(path, "11 x 10 pixels")


def test_what_is_not_an_image(tmp_path: Path) -> None:
    (tmp_path / "dangling.jpg").symlink_to("nowhere")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("a text with another name\n" * 9)
    (tmp_path / "x.eps").write_bytes(encoded(Image.new("RGB", (4, 4)), "EPS"))  # a format that runs programs
    for name, *words in [
        ("none.jpg", "does not exist"),
        ("file\nwith break.jpg", "does not exist"),
        ("dangling.jpg", "does not exist"),
        ("loop.jpg", "cannot be read"),
        ("a" * 300, "cannot be read"),
        ("nul\0.jpg", "cannot be read"),
        (".", "is a folder"),
        ("pipe.jpg", "not a regular file"),
        (os.devnull, "not a regular file"),
        ("empty.jpg", "empty (0 bytes)"),
        ("text.jpg", "is not an image", "JPEG"),
        ("x.eps", "not an image"),
    ]:
        refused(tmp_path / name, *words)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_truncated(tmp_path: Path, kind: str) -> None:
    content = encoded(Image.fromarray(colours(40, 40)), kind)
    for part in (0.1, 0.5, 0.9):
        (tmp_path / "x.jpg").write_bytes(content[: int(len(content) * part)])
        refused(tmp_path / "x.jpg")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    start=st.sampled_from([b"", b"\xff\xd8\xff", png_header(3, 3), b"BM", b"GIF89a", b"P6 ", b"P5 3 3 "])
    | st.just(b"RIFF\x40\0\0\0WEBPVP8 "),
    rest=st.binary(max_size=300),
)
def test_random_bytes_raise_input_errors(start: bytes, rest: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "random.bin"
    path.write_bytes(start + rest)
    read_or_refused(path)


def seeds() -> tuple[list[bytes], list[bytes]]:
    """Small valid files to damage: of every format but TIFF, and TIFF."""
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (12, 12, 3), np.uint8))
    exif = Image.Exif()
    exif[274] = 6
    others = [encoded(image, kind, exif=exif) for kind in ("JPEG", "PNG", "WEBP")]
    others += [encoded(image, kind) for kind in ("GIF", "BMP", "PPM")]
    others.append(encoded(image.convert("P"), "PNG", transparency=bytes(range(200))))
    return others, [encoded(image, "TIFF", exif=exif), encoded(image, "TIFF", compression="tiff_lzw")]


SEEDS, TIFF_SEEDS = seeds()


@st.composite
def damaged(draw: st.DrawFn, files: list[bytes]) -> bytes:
    content = bytearray(draw(st.sampled_from(files)))
    for _ in range(draw(st.integers(1, 6))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(content)


@settings(max_examples=300)
@pytest.mark.parametrize("files", [pytest.param(SEEDS, id="others"), pytest.param(TIFF_SEEDS, id="damaged_tiff")])
@given(data=st.data())
def test_damaged_files(files: list[bytes], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.bin"
    path.write_bytes(data.draw(damaged(files)))
    read_or_refused(path)


def test_a_fresh_process_prints_nothing(tmp_path: Path) -> None:
    """Outside pytest, which captures warnings and logging of its own accord."""
    path = tmp_path / "x.tif"
    path.write_bytes(tiff(2, 1, [8] * 9, 1, b"\0" * 18) + b"\0" * 50)
    code = (
        "import sys; from pathlib import Path; from tofe_edge.errors import InputError; from tofe_edge.io.images import "
        "read_image\ntry: read_image(Path(sys.argv[1]))\nexcept InputError: sys.exit(5)"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, cwd=root, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (5, "", "")


def test_jobs_that_overlap_restore_the_filters_last() -> None:
    before = list(warnings.filters)
    first, second = images._quiet_pillow(), images._quiet_pillow()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert list(warnings.filters) != before
    second.__exit__(None, None, None)
    assert list(warnings.filters) == before


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def test_list_images(tmp_path: Path) -> None:
    names = "b/2.jpg b/10.JPEG a.png B.webp b-c/1.tiff c.JFIF .hidden.jpg .git/x.jpg notes.txt jpg"
    touch(tmp_path, *names.split())
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    (tmp_path / "d").symlink_to("b-c")
    (tmp_path / "z.png").symlink_to("a.png")
    (tmp_path / "dangling.png").symlink_to("nowhere")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    found = [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)]
    assert found == ["B.webp", "a.png", "b/10.JPEG", "b/2.jpg", "b-c/1.tiff", "c.JFIF", "d/1.tiff", "z.png"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("none", "does not exist"),
        ("notes.txt", "is not a folder"),
        (".", "holds no image"),
        ("nul\0", "does not exist"),
    ],
)
def test_list_images_errors(tmp_path: Path, name: str, words: str) -> None:
    touch(tmp_path, "notes.txt")
    with pytest.raises(InputError, match=words):
        list_images(tmp_path / name)


def test_unreadable_folder_is_not_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a.jpg")
    monkeypatch.setattr(os, "scandir", Mock(side_effect=PermissionError(13, "Permission denied", "/secret")))
    with pytest.raises(InputError, match="/secret: cannot be read \\(Permission denied"):
        list_images(tmp_path)

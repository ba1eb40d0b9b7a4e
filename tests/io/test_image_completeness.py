"""Images that hold less than they say are refused, and whole ones never are."""

import io
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import refused
from PIL import Image

from tofe_edge.io.images import read_image
from tofe_edge.io.inputs import SAMPLES

WIDTH, HEIGHT = 17, 20
RNG = np.random.default_rng(0)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(rows: int, change: Callable[[bytes], bytes] = lambda packed: packed) -> bytes:
    """A PNG that says it has 20 rows of colours and holds ``rows``."""
    raw = b"".join(b"\0" + RNG.integers(0, 256, 3 * WIDTH, np.uint8).tobytes() for _ in range(rows))
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", change(zlib.compress(raw))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (png(HEIGHT // 2), "it holds 520 of 1040 bytes of its rows"),
        (png(HEIGHT - 1), "it holds 988 of 1040 bytes of its rows"),
        pytest.param(png(0), "damaged or truncated", id="none"),
        (png(HEIGHT, lambda packed: packed[:-1] + bytes([packed[-1] ^ 1])), "damaged or truncated"),
        (png(HEIGHT, lambda packed: packed[:-4]), "the end of its rows is cut off"),
        (png(HEIGHT, lambda packed: packed[:-40]), "damaged or truncated"),
    ],
)
def test_a_png_without_all_of_its_rows_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(content)
    message = refused(path, lambda: read_image(path))
    assert "is damaged or truncated (" in message and words in message


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (17, 9), (300, 200)])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "I;16", "RGB", "RGBA"])
def test_whole_pngs_are_read(tmp_path: Path, mode: str, size: tuple[int, int]) -> None:
    path = tmp_path / "image.png"
    Image.new("I;16", size, 700).save(path) if mode == "I;16" else photo().resize(size).convert(mode).save(path)
    assert read_image(path).size == size


def test_rows_that_are_too_many_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(png(HEIGHT + 5))
    assert read_image(path).size == (WIDTH, HEIGHT)


def test_an_interlaced_png_has_the_rows_of_its_passes(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    # Rows of the seven passes of 5 x 5 pixels of one byte.
    rows = [1, 1, 2, 1, 1, 3, 2, 2, 2, 5, 5]
    for count in (len(rows), len(rows) - 1):
        packed = zlib.compress(b"".join(b"\0" + b"\x50" * width for width in rows[:count]))
        header = struct.pack(">IIBBBBB", 5, 5, 8, 0, 0, 0, 1)
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b""))
        if count == len(rows):
            assert np.asarray(read_image(path)).max() == 0x50
        else:
            assert "it holds 30 of 36" in refused(path, lambda: read_image(path))


def photo() -> Image.Image:
    return Image.open(SAMPLES[0]).convert("RGB")


JPEGS: list[dict[str, Any]] = [
    {}, {"quality": 20}, {"subsampling": 0}, {"restart_marker_rows": 1}, {"optimize": True}, {"progressive": True}
]  # fmt: skip


def cut(jpeg: bytes, share: float) -> bytes:
    """The file with a part of the data of its longest scan alone, and everything that follows."""
    scans = []
    for found in re.finditer(rb"\xff\xda", jpeg):
        begin = found.end() + int.from_bytes(jpeg[found.end() : found.end() + 2], "big")
        end = re.compile(rb"\xff[\xc4\xda\xd9]").search(jpeg, begin)
        assert end is not None
        scans.append((end.start() - begin, begin, end.start()))
    length, begin, end_of = max(scans)
    kept = jpeg[begin : begin + int(length * share)]
    return jpeg[:begin] + kept.rstrip(b"\xff") + jpeg[end_of:]


@pytest.mark.parametrize("options", JPEGS, ids=str)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_cut_inside_is_refused_though_it_has_an_end_mark(tmp_path: Path, mode: str, options: Any) -> None:
    target, path = io.BytesIO(), tmp_path / "image.jpg"
    photo().convert(mode).save(target, "JPEG", **options)
    path.write_bytes(target.getvalue())
    assert read_image(path).size == photo().size
    for share in (0.0, 0.1, 0.5, 0.9, 0.98):
        path.write_bytes(cut(target.getvalue(), share))
        assert "its compressed data end before the picture does" in refused(path, lambda: read_image(path)), share


@pytest.mark.parametrize("progressive", [False, True])
def test_a_gray_picture_is_whole(tmp_path: Path, progressive: bool) -> None:
    """What decoders put in place of missing data is this gray."""
    path = tmp_path / "gray.jpg"
    for size in ((1, 1), (16, 16), (65, 33)):
        for tail in (b"", b"\0" * 100, b"\xff\xd8\xff\xd9"):
            Image.new("RGB", size, (128, 128, 128)).save(path, progressive=progressive)
            path.write_bytes(path.read_bytes() + tail)
            assert read_image(path).getpixel((0, 0)) == (128, 128, 128)


def test_a_jpeg_of_hundreds_of_scans_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    """Each of 141 bytes is a pass over the whole picture: a megabyte of them took a minute."""
    target, path = io.BytesIO(), tmp_path / "scans.jpg"
    photo().save(target, "JPEG", progressive=True)
    content = target.getvalue()
    last = content.rindex(b"\xff\xda")
    for scans, fine in ((1, True), (300, False)):
        path.write_bytes(content[:last] + content[last:-2] * scans + content[-2:])
        if fine:
            read_image(path)
        else:
            assert "scans, more than 50" in refused(path, lambda: read_image(path))

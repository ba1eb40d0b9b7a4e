"""Whether an image file holds all of its picture. Pillow fills in what is missing: a PNG's rows with black, a JPEG's with gray."""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from PIL import Image

_PNG_HEADER = b"\x89PNG\r\n\x1a\n"
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column and row of each pass of an interlaced PNG, and its steps."""
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Per pixel, by colour type."""
_PIECE = 1 << 16

_SOS, _EOI, _APP0, _APP14 = 0xDA, 0xD9, 0xE0, 0xEE
_SCAN_END = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]", re.DOTALL)
_FILLER = bytes.fromhex("a53c96695ac3781e2d4be18712f05bb4936c17e8d24a8e35") * 4
"""Bits that no decoder takes for a marker, and that are no picture of one colour."""
_UNDECODED = (127, 128)
"""A sample of a block that was never decoded; CMYK is inverted."""


def missing_in_png(handle: BinaryIO) -> str | None:
    """What a PNG lacks, or ``None``: its compressed rows are all there, and so is their checksum."""
    inflate, expected, found = zlib.decompressobj(), 0, 0
    try:
        for kind, content in _png_chunks(handle):
            if kind == b"IHDR":
                expected = _png_bytes(content)
            elif kind == b"IDAT":
                while content and not inflate.eof:
                    found += len(inflate.decompress(content, _PIECE))
                    content = inflate.unconsumed_tail
                if found > expected + _PIECE:
                    return None  # more than its rows, which nobody reads
    except zlib.error as error:
        return f"its rows do not unpack ({error})"
    if found < expected:
        return f"it holds {found} of {expected} bytes of its rows"
    return None if inflate.eof else "the end of its rows is cut off"


def _png_chunks(handle: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Header and image data; Pillow has checked that they are well-formed."""
    handle.seek(len(_PNG_HEADER))
    while len(head := handle.read(8)) == 8:
        size, kind = struct.unpack(">I4s", head)
        if kind in (b"IHDR", b"IDAT"):
            yield kind, handle.read(size)
            handle.seek(4, io.SEEK_CUR)
        elif kind == b"IEND":
            return
        else:
            handle.seek(size + 4, io.SEEK_CUR)


def _png_bytes(header: bytes) -> int:
    """The bytes of all rows, each with its filter type."""
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header[:13])
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    total = 0
    for left, top, right, down in passes:
        columns, rows = -(-(width - left) // right), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + (columns * _SAMPLES.get(colour, 1) * depth + 7) // 8)
    return total


def scans_in_jpeg(handle: BinaryIO) -> int:
    """The number of its scans. Each is a pass over the whole picture, however short it is: 1 MB can be a minute of work."""
    handle.seek(0)
    return sum(marker == _SOS for marker, _, _ in _jpeg_segments(handle.read()))


def missing_in_jpeg(handle: BinaryIO, image: Image.Image) -> str | None:
    """What a JPEG lacks, or ``None``.

    A decoder that comes to the end of a scan too early goes on with zeros. So more bytes at that end change the picture,
    and do not if the scan is complete. To save the second decoding of most files: without its last blocks the picture ends
    in exactly medium gray. What is not found is a file of one scan that lacks a part of its last block alone.

    Args:
        image: as decoded, before any conversion.
    """
    handle.seek(0)
    padded, scans = _with_filler(handle.read())
    corner = image.getpixel((image.width - 1, image.height - 1))
    samples = corner if isinstance(corner, tuple) else (corner,)
    if scans == 1 and not all(sample in _UNDECODED for sample in samples):
        return None
    with Image.open(io.BytesIO(padded), formats=("JPEG",)) as other:
        other.load()
        return None if other.tobytes() == image.tobytes() else "its compressed data end before the picture does"


def _with_filler(content: bytes) -> tuple[bytes, int]:
    """The file without metadata and with more bytes at the end of every scan, and the number of its scans."""
    parts, scans = [content[:2]], 0
    for marker, segment, data in _jpeg_segments(content):
        if marker in (_APP0, _APP14) or not _APP0 <= marker <= 0xEF:
            parts.append(segment)
        if marker == _SOS:
            scans += 1
            parts += [data, _FILLER]
    return b"".join((*parts, b"\xff\xd9")), scans


def _jpeg_segments(content: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Marker, segment, and of a scan its data, up to the end of a JPEG or to what is none."""
    place = 2
    while place + 4 <= len(content):
        marker = content[place + 1]
        if content[place] != 0xFF or marker == _EOI:
            return
        if marker == 0xFF:  # padding
            place += 1
            continue
        end = place + 2 + int.from_bytes(content[place + 2 : place + 4], "big")
        segment, place = content[place:end], end
        if marker == _SOS:
            found = _SCAN_END.search(content, end)
            place = found.start() if found else len(content)
        yield marker, segment, content[end:place]

"""Kinds of image files, told by their first bytes: those that are read, and those that are named when they are not."""

from __future__ import annotations

import re

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"}
)
"""Of files that are taken for an image without a look at them, in lower case."""

NAMES = "JPEG, PNG, WebP, BMP, GIF, TIFF or PPM"

HEAD = 64
"""So many bytes tell."""

_READ = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|BM.{4}\0{4}|II[*+]\0|MM\0[*+]|RIFF.{4}WEBP|P[1-6][ \t\r\n]+[#0-9]",
    re.DOTALL,
)
_OTHERS = {
    "AVIF": re.compile(rb".{4}ftypavi[fs]", re.DOTALL),
    "HEIC": re.compile(rb".{4}ftyp(hei[cxmsv]|hev[cxms]|mif[12]|msf1)", re.DOTALL),
    "camera raw": re.compile(rb".{4}ftypcrx |FUJIFILMCCD-RAW|IIU\0|IIR[OS]", re.DOTALL),
    "JPEG XL": re.compile(rb"\xff\x0a|\0\0\0\x0cJXL ", re.DOTALL),
    "JPEG 2000": re.compile(rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  ", re.DOTALL),
    "Photoshop": re.compile(rb"8BPS"),
    "OpenEXR": re.compile(rb"\x76\x2f\x31\x01"),
    "SVG": re.compile(rb"\s*(<\?xml[^>]*>\s*)?<svg"),
}

_RAW = frozenset({".nef", ".cr2", ".cr3", ".dng", ".arw", ".orf", ".rw2", ".pef", ".srw", ".raf", ".nrw"})
"""Most of them are TIFF files, of which one would read the thumbnail."""


def other_format(head: bytes) -> str | None:
    """``AVIF, which is not read``; ``None``: it is none of the kinds that are known."""
    return next((_not_read(name) for name, pattern in _OTHERS.items() if pattern.match(head)), None)


def why_no_image(suffix: str, head: bytes) -> str | None:
    """The cause to leave a file out, by its suffix in lower case and its first bytes; ``None``: it is an image."""
    if suffix in SUFFIXES:
        return None
    if suffix in _RAW:
        return _not_read("camera raw")
    if _READ.match(head):
        return None
    return other_format(head) or ("not an image" if head else "empty")


def _not_read(name: str) -> str:
    return f"{name}, which is not read"

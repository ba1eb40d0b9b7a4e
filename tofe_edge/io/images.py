"""Image files to upright 8-bit RGB, by rules that are chosen rather than inherited.

The same file must give the same pixels on every machine that prepares calibration, parity or
training data, so each way a decoder could differ has one answer here (table in :func:`read_image`).
"""

from __future__ import annotations

import logging
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from tofe_edge.errors import InputError
from tofe_edge.io.image_completeness import missing_in_jpeg, missing_in_png, scans_in_jpeg
from tofe_edge.io.image_formats import HEAD, NAMES, other_format
from tofe_edge.io.quiet import swallow_native_stderr

#: Images with more pixels than this are refused from their header, before any pixel is decoded.
MAX_PIXELS = 100_000_000
#: JPEGs with more scans are refused, too: usual ones have up to 12, and 50 of the largest picture take half a minute.
MAX_SCANS = 50

# An explicit list: Pillow's default also tries formats that start external programs (EPS) and many never tested here.
_JPEGS = ("JPEG", "MPO")
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")

_EXIF_ORIENTATION = 274
_TIFF_BITS, _TIFF_PHOTOMETRIC, _TIFF_WHITE_IS_ZERO = 258, 262, 0
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Without any handler, logging prints Pillow's complaints about damaged files on stderr; the InputError says it already.
logging.getLogger("PIL").addHandler(logging.NullHandler())

_quiet_lock = threading.Lock()
_quiet_readers = 0
_quiet_saved: warnings.catch_warnings[None] | None = None


def read_image(path: Path) -> Image.Image:
    """Read one image file as upright 8-bit RGB.

    ======================  ===============================================================================
    what the file holds     what is returned
    ======================  ===============================================================================
    format                  JPEG, PNG, WebP, BMP, GIF, TIFF or PPM/PGM/PBM, told by content, not by suffix
    several frames, pages   the first one
    EXIF or XMP orientation applied, and gone from the result; a broken EXIF block counts as "upright"
    RGB, YCbCr              as decoded at full size (no JPEG draft mode); ICC profiles are not applied
    CMYK, YCCK JPEG         inverted samples (255 = no ink), with or without the Adobe marker, as Pillow and
                            the browsers read them; RGB = (255 - ink) * (255 - black) / 255, no ICC profile
    CMYK TIFF               plain samples (0 = no ink)
    grayscale, 1 bit        the gray value three times; 1 bit gives 0 and 255
    palette                 its colours
    alpha, transparent key  composited over white (premultiplied alpha is undone first)
    16-bit gray             v / 257 rounded: 0..65535 covers 0..255; 12-bit TIFF: v * 255 / 4095 rounded;
                            TIFF that counts from white is inverted
    16-bit colour           the high byte of each sample
    integer gray outside    refused (32-bit and signed TIFF): its scale is not known, and clipping would
    0..65535                hide it
    float, CIELAB           refused
    more than MAX_PIXELS    refused, from the header
    a part of its picture   refused: a PNG with too few rows, a JPEG whose data end early
    ======================  ===============================================================================

    Nothing is printed, with one exception: libtiff, which decodes compressed TIFF, names damage on stderr by
    itself. Only redirecting the whole process's stderr would stop it.

    Args:
        path: a regular file, or a link to one.

    Returns:
        An image of mode ``RGB``, at least 1 x 1, with an empty ``info``, independent of the file.

    Raises:
        InputError: missing, unreadable, not a regular file, empty, not an image, truncated or damaged,
            or refused by a rule above.
    """
    _require_regular_file(path)
    try:
        with path.open("rb") as handle:
            return decode_image(handle, path)
    except OSError as error:
        raise _refusal(path, f"cannot be read ({_reason(error)}); copy or export it again") from error


def decode_image(handle: BinaryIO, path: Path) -> Image.Image:
    """Decode an open file by the rules of :func:`read_image`; ``path`` names it in messages.

    Raises:
        InputError: as :func:`read_image`, of the content.
    """
    try:
        with _quiet_pillow():
            return _decode(handle, path)
    except InputError:
        raise
    except UnidentifiedImageError as error:
        handle.seek(0)
        what = other_format(handle.read(HEAD)) or "not an image this program reads"
        raise _refusal(path, f"is {what}; give {NAMES}") from error
    except Image.DecompressionBombError as error:
        # Pillow's own limit lies above MAX_PIXELS and strikes before the size can be asked for.
        raise _refusal(path, f"is too large ({error}); scale it down to {MAX_PIXELS} pixels or less") from error
    except MemoryError as error:
        raise _refusal(path, "does not fit into memory; scale it down") from error
    except Exception as error:
        # Damaged files make the decoders raise nearly anything: OSError, SyntaxError, struct.error, KeyError, ...
        raise _refusal(path, f"is damaged or truncated ({error}); copy or export it again") from error


def _require_regular_file(path: Path) -> None:
    """Raise InputError unless ``path`` is a file with content. Opening a FIFO would wait for ever, so ask first."""
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise _refusal(path, "does not exist; check the path") from error
    except (OSError, ValueError) as error:
        raise _refusal(path, f"cannot be read ({_reason(error)}); check the path and its permissions") from error
    if stat.S_ISDIR(status.st_mode):
        raise _refusal(path, "is a folder; give an image file")
    if not stat.S_ISREG(status.st_mode):
        raise _refusal(path, "is not a regular file; give an image file")
    if status.st_size == 0:
        raise _refusal(path, "is empty (0 bytes); copy or export it again")
    if not os.access(path, os.R_OK):
        raise _refusal(path, "cannot be read (permission denied); change its permissions")


def _decode(handle: BinaryIO, path: Path) -> Image.Image:
    """Open, bound, decode, convert and turn one image; errors of Pillow pass through."""
    with Image.open(handle, formats=_FORMATS) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise _refusal(
                path, f"is too large ({width} x {height} pixels); scale it down to {MAX_PIXELS} pixels or less"
            )
        if image.format in _JPEGS and (scans := scans_in_jpeg(handle)) > MAX_SCANS:
            raise _refusal(path, f"is damaged (it has {scans} scans, more than {MAX_SCANS}); export it again")
        # libtiff writes to stderr what it cannot read, and we say it, too.
        with swallow_native_stderr() if image.format == "TIFF" else nullcontext():
            image.load()
        missing = _missing(handle, image)
        if missing is not None:
            raise _refusal(path, f"is damaged or truncated ({missing}); copy or export it again")
        turn = _UPRIGHT.get(_orientation(image))
        rgb = _to_rgb(image, path)
    # Left in place, the orientation tag would make a caller turn the image a second time.
    rgb.info = {}
    return rgb if turn is None else rgb.transpose(turn)


def _missing(handle: BinaryIO, image: Image.Image) -> str | None:
    """What of the picture the file lacks."""
    if image.format == "PNG":
        return missing_in_png(handle)
    return missing_in_jpeg(handle, image) if image.format in _JPEGS else None


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8 of a decoded image, 1 if it cannot be read.

    ``ImageOps.exif_transpose`` is not used: it writes the EXIF block anew and fails, after turning, on blocks
    with an odd entry elsewhere.
    """
    try:
        value = image.getexif().get(_EXIF_ORIENTATION, 1)
        return int(value)
    except Exception:
        # A metadata block of unknown origin can raise anything, and none of it concerns the pixels.
        return 1


def _to_rgb(image: Image.Image, path: Path) -> Image.Image:
    """A new RGB image from a decoded one of any mode Pillow's decoders give."""
    if image.mode == "F":
        raise _refusal(path, "holds floating point pixels, whose range is not known; export it with 8 bits a channel")
    if image.mode == "LAB":
        raise _refusal(path, "holds CIELAB colours; export it as RGB")
    if image.mode.startswith("I"):
        return _deep_gray_to_rgb(image, path)
    if not image.has_transparency_data:
        return image.convert("RGB")
    # Pillow has no direct way from premultiplied gray to RGBA.
    straight = image.convert("LA") if image.mode == "La" else image
    rgba = straight.convert("RGBA")
    canvas = Image.new("RGB", rgba.size, "white")
    canvas.paste(rgba, mask=rgba.getchannel("A"))
    return canvas


def _deep_gray_to_rgb(image: Image.Image, path: Path) -> Image.Image:
    """Gray of more than 8 bits (modes I and I;16*) scaled to 8 bits. Pillow's own conversion clips at 255."""
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise _refusal(
            path, f"holds gray values {values.min()}..{values.max()}, outside 0..65535; export it with 8 or 16 bits"
        )
    tags = getattr(image, "tag_v2", {})
    full_scale = 4095 if tags.get(_TIFF_BITS) == (12,) else 65535
    gray = ((values.astype(np.uint32) * 255 + full_scale // 2) // full_scale).astype(np.uint8)
    if tags.get(_TIFF_PHOTOMETRIC) == _TIFF_WHITE_IS_ZERO:
        gray = 255 - gray
    key = image.info.get("transparency")
    if isinstance(key, int):
        gray[values == key] = 255
    return Image.fromarray(gray).convert("RGB")


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Ignore Python warnings issued from inside Pillow, in any number of threads.

    ``warnings.catch_warnings`` alone is not safe here: of two overlapping readers the later one would restore
    the filters that the earlier one had set. The first reader in saves the filters, the last one out restores.
    """
    global _quiet_readers, _quiet_saved
    with _quiet_lock:
        _quiet_readers += 1
        if _quiet_saved is None:
            _quiet_saved = warnings.catch_warnings()
            _quiet_saved.__enter__()
            warnings.filterwarnings("ignore", module=r"PIL\b")
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_readers -= 1
            if _quiet_readers == 0 and _quiet_saved is not None:
                _quiet_saved.__exit__(None, None, None)
                _quiet_saved = None


def _refusal(path: Path, what: str) -> InputError:
    """An InputError of one line, whatever a file name or a decoder's message holds."""
    return InputError(" ".join(f"{path}: {what}".splitlines()))


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)

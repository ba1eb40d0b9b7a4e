"""Tar archives that the tests write: any member in any format, and headers that lie."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from tofe_edge.io.dataset import Sample, find_samples

IDS = ["n01440764", "n01443537", "n01484850"]
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def png(colour: int = 0) -> bytes:
    """A PNG of 5 x 4 pixels, all of them this red."""
    target = io.BytesIO()
    Image.new("RGB", (5, 4), (colour, 0, 0)).save(target, "PNG")
    return target.getvalue()


def link(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    """A member of any type without content."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


Part = tuple[str, bytes] | tarfile.TarInfo


def tar(parts: Sequence[Part], form: int = tarfile.PAX_FORMAT) -> bytes:
    """An archive of files ``(name, content)`` and members without content; surrogates in names become bytes."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=form, errors="surrogateescape") as archive:
        for part in parts:
            if isinstance(part, tarfile.TarInfo):
                archive.addfile(part)
                continue
            info = tarfile.TarInfo(part[0])
            info.size = len(part[1])
            archive.addfile(info, io.BytesIO(part[1]))
    return target.getvalue()


def find(shard: Path, content: bytes) -> list[Sample]:
    """The samples of a shard with this content."""
    shard.write_bytes(content)
    return find_samples(shard, IDS)


def with_size(content: bytes, size: bytes) -> bytes:
    """The first header claims another size, with a valid checksum."""
    header = bytearray(content[:512])
    header[124:136] = size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + content[512:]

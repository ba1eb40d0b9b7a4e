"""Golden vectors and programs that were tampered with."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tofe_edge.evaluation.golden import DOCUMENT


def edit(folder: Path, change: Callable[[Any], object]) -> None:
    """Change the document of a folder of golden vectors."""
    document = json.loads((folder / DOCUMENT).read_text())
    change(document)
    (folder / DOCUMENT).write_text(json.dumps(document))


def spoilt_weight(program: bytes) -> bytes:
    """The program with one bit of one weight's highest byte flipped: it is 2^128 times larger. The weight stands among
    64 floats that look like weights, in the file's second half."""
    start = len(program) // 8 * 4
    values = np.frombuffer(program, "<f4", (len(program) - start) // 4, start)
    plausible = (np.abs(values) > 1e-4) & (np.abs(values) < 1)
    together = np.convolve(plausible, np.ones(64), "valid")
    assert together.max() == 64
    position = start + 4 * (int(together.argmax()) + 32)
    spoilt = bytearray(program)
    spoilt[position + 3] ^= 0x40
    return bytes(spoilt)

"""What native libraries write to stderr."""

import io
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import refused
from PIL import Image

from tofe_edge.io.images import read_image
from tofe_edge.io.quiet import swallow_native_stderr


def test_nothing_reaches_stderr_until_the_last_thread_is_out(capfd: pytest.CaptureFixture[str]) -> None:
    inside, leave = threading.Event(), threading.Event()

    def first() -> None:
        with swallow_native_stderr():
            inside.set()
            leave.wait(60)

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait(60)
    with swallow_native_stderr():
        leave.set()
        thread.join()
        os.write(2, b"not seen\n")
    os.write(2, b"seen\n")
    assert capfd.readouterr().err == "seen\n"


def test_a_damaged_tiff_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    target, path = io.BytesIO(), tmp_path / "damaged.tif"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)).save(
        target, compression="tiff_deflate", format="TIFF"
    )
    content = bytearray(target.getvalue())
    content[len(content) // 2 : len(content) // 2 + 16] = bytes(16)
    path.write_bytes(content)
    assert "is damaged or truncated" in refused(path, lambda: read_image(path))
    assert capfd.readouterr().err == ""

"""Keeping the chatter of libraries off the user's screen: of Python ones, and of native ones."""

from __future__ import annotations

import io
import logging
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import IO


@contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings, log records below ERROR and progress bars of torch, torchao, executorch and coremltools.

    They warn of their own deprecations and of GPU kernels that a CPU build lacks; nothing a user of
    ``tofe-edge convert`` could act on. What fails raises an exception, which is not silenced.
    """
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)


_MOST_BYTES = 1 << 16
_lock = threading.Lock()
_readers = 0
_saved = -1
_sink: IO[bytes] | None = None


@contextmanager
def swallow_native_stderr() -> Iterator[None]:
    """Send file descriptor 2 to a temporary file; if the block raises, its last line joins the exception as a note.

    ExecuTorch's CPU detection reports missing /sys files of other boards, six lines at each start; libtiff what it cannot
    read. In any number of threads: the first one in turns stderr away, the last one out turns it back.
    """
    with _lock:
        _turn_away()
    try:
        yield
    except Exception as error:
        assert _sink is not None
        lines = os.pread(_sink.fileno(), _MOST_BYTES, 0).decode(errors="replace").strip().splitlines()
        if lines:
            error.add_note(lines[-1])
        raise
    finally:
        with _lock:
            _turn_back()


def _turn_away() -> None:
    global _readers, _saved, _sink
    if _readers == 0:
        sys.stderr.flush()
        _saved, _sink = os.dup(2), tempfile.TemporaryFile()  # noqa: SIM115
        os.dup2(_sink.fileno(), 2)
    _readers += 1


def _turn_back() -> None:
    global _readers, _sink
    _readers -= 1
    if _readers == 0 and _sink is not None:
        os.dup2(_saved, 2)
        os.close(_saved)
        _sink.close()
        _sink = None

"""Keeping the chatter of libraries off the user's screen: of Python ones, and of native ones."""

from __future__ import annotations

import io
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr


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


@contextmanager
def swallow_native_stderr() -> Iterator[None]:
    """Send file descriptor 2 to a temporary file; if the block raises, its last line joins the exception as a note.

    ExecuTorch's CPU detection reports missing /sys files of other boards, six lines at each start.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as sink:
        os.dup2(sink.fileno(), 2)
        try:
            yield
        except Exception as error:
            sink.seek(0)
            lines = sink.read().decode(errors="replace").strip().splitlines()
            if lines and hasattr(error, "add_note"):  # Python 3.11
                error.add_note(lines[-1])
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)

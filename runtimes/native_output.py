"""Keeps what native libraries write to stderr off the user's screen."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


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

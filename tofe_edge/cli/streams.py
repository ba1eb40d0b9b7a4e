"""Standard streams that are closed, full, or read by somebody who leaves."""

from __future__ import annotations

import os
import sys
from typing import TextIO

from tofe_edge.errors import DeviceError


def open_standard_streams() -> None:
    """Give a process that was started with closed streams (by cron, say) empty ones.

    Without them the first file that is opened becomes stdout to whatever prints there.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            try:
                os.fstat(number)
            except OSError:
                os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
            setattr(sys, name, open(os.devnull, "r+", encoding="utf-8"))  # noqa: SIM115


def write_out(text: str, stream: TextIO) -> None:
    """Write and flush.

    Raises:
        BrokenPipeError: the reader has gone.
        DeviceError: the stream takes no more.
    """
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise DeviceError(_lost(error)) from error


def written() -> bool:
    """Write out what was printed; if that fails (a full disk), say so in one line. A reader that has gone is no failure."""
    error = flush()
    if error is None or isinstance(error, BrokenPipeError):
        return True
    print(f"tofe-edge: error: {_lost(error)}", file=sys.stderr)
    return False


def flush() -> OSError | None:
    """Write out what was printed, or drop it."""
    try:
        sys.stdout.flush()
    except OSError as error:
        discard_output()
        return error
    return None


def discard_output() -> None:
    """Keep Python from writing, and complaining, once more at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _lost(error: OSError) -> str:
    return f"the output cannot be written ({error.strerror}); the work itself is done"

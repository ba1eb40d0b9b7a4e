"""Keeping the export libraries' chatter off the user's screen."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings, log records below ERROR and progress bars of torch, torchao, executorch and coremltools.

    They warn of their own deprecations and of GPU kernels that a CPU build lacks; nothing a user of
    ``tofe-edge convert`` could act on. What fails raises an exception, which is not silenced.
    """
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)

"""Keeping the export libraries' chatter off the user's screen."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings and log records below ERROR of torch, torchao and executorch, for a while.

    They warn of their own deprecations and of GPU kernels that a CPU build lacks; nothing a user of
    ``tofe-edge convert`` could act on.
    """
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)

"""Progress bars on stderr, silent where nobody watches."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm


def progress_bar(what: str, total: float, initial: int = 0, unit: str = "it") -> Any:
    """A tqdm bar on stderr; shown only on a terminal, so that logs and pipes stay clean."""
    return tqdm(
        desc=what,
        total=total,
        initial=initial,
        unit=unit,
        file=sys.stderr,
        disable=not sys.stderr.isatty(),
        dynamic_ncols=True,
        smoothing=0.1,
    )

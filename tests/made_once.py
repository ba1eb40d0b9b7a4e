"""What is costly to make and only read by tests: made by one process of a test run, found there by the others."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

_place: Path | None = None


def share_in(place: Path | None) -> Path | None:
    """Look in this folder for what other processes made, and leave there what this one makes; returns the former one.

    A process that was told of none makes everything itself: such as one that has to make the same again.
    """
    global _place
    former, _place = _place, place
    return former


def made_once(name: str, make: Callable[[Path], object]) -> Path:
    """The folder that ``make`` filled, in this process of the run or in another; change copies of it alone.

    Whoever asks while another process makes it waits. A failure leaves nothing behind: the next one to ask makes it.
    """
    if _place is None:
        folder = Path(tempfile.mkdtemp(prefix="tofe-edge-tests-"))
        make(folder)
        return folder
    folder = _place / name
    with FileLock(_place / f"{name}.lock"):
        if not folder.is_dir():
            draft = Path(tempfile.mkdtemp(prefix="draft-", dir=_place))
            make(draft)
            draft.rename(folder)
    return folder

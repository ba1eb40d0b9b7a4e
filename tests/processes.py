"""What runs on this machine, from /proc: tests look for what should have ended."""

import os
import time
from collections.abc import Callable
from pathlib import Path


def programs_in(folder: Path) -> list[int]:
    """Processes whose program lies below ``folder``."""
    return [pid for pid in _pids() if Path(_link(pid, "exe")).is_relative_to(folder.resolve())]


def working_in(folder: Path) -> list[int]:
    """Processes whose working directory is ``folder`` or below."""
    return [pid for pid in _pids() if Path(_link(pid, "cwd")).is_relative_to(folder.resolve())]


def descendants(pid: int, program: str) -> list[int]:
    """Children, grandchildren and so on of a process that run a program of this name."""
    parents = {one: _parent(one) for one in _pids()}

    def descends(one: int) -> bool:
        while one := parents.get(one, 0):
            if one == pid:
                return True
        return False

    return [one for one in parents if descends(one) and Path(_link(one, "exe")).name == program]


def is_running(pid: int) -> bool:
    """Whether there is such a process, and it has not ended unnoticed by whoever should have waited for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition: Callable[[], object], timeout_s: float = 20.0) -> bool:
    """Wait until something holds; False where it does not come to that."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def _pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").glob("[0-9]*")]


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _link(pid: int, name: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/{name}")
    except OSError:
        return "/proc/gone"

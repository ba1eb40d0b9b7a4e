"""What an error comes to for who called a command: an exit code and one line."""

from __future__ import annotations

import re

from tofe_edge.errors import TofeEdgeError


def failure_of(error: Exception) -> tuple[int, str]:
    """The exit code and the one line of an error."""
    from tofe_edge.profiles import ProfileError  # here, so that help stays fast

    line = " ".join(str(error).split())
    if isinstance(error, TofeEdgeError):
        return error.exit_code, line
    if isinstance(error, (ProfileError, OSError)):  # OSError: a name that is too long, a folder without permission
        return 2, line
    if (needed := _memory_needed(error)) is not None:
        advice = "close other programs, or take a smaller --batch, smaller images or a machine with more"
        return 3, f"there is not enough memory{needed}; {advice}"
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("tofe_edge"):
        return 3, _missing(error.name.partition(".")[0])
    # A defect of this program or of a library. Exit code 1 is kept for gates.
    return 3, f"internal error ({type(error).__name__}: {line[:200]}); run again with --debug and report it"


def _missing(package: str) -> str:
    """What to install: the extra that has the package, or what it is a dependency of."""
    from importlib.metadata import PackageNotFoundError, requires

    try:
        needs = requires("tofe-edge") or []
    except PackageNotFoundError:  # run from a checkout
        needs = []
    extras = [found[1] for one in needs if (found := re.match(rf"{package}\b.*extra == ['\"](\w+)", one))]
    advice = f"pip install 'tofe-edge{f'[{extras[0]}]' if extras else ''}'"
    if package == "coremltools":
        advice = "it has wheels for macOS and for Linux on x86-64; convert and check Core ML packages there"
    return f"this needs the Python package {package}, which is not installed; {advice}"


def _memory_needed(error: Exception) -> str | None:
    """How much memory was asked for, in brackets, as far as the error says; ``None``: it is another error."""
    text = str(error)
    # PyTorch's allocators raise RuntimeError, those of GPUs a class of their own.
    refused = re.search(
        r"DefaultCPUAllocator|not enough memory|out of memory|can't allocate memory", text, re.IGNORECASE
    )
    if not isinstance(error, MemoryError) and not (isinstance(error, RuntimeError) and refused):
        return None
    asked = re.search(r"([\d.]+ ?[KMGT]?i?B|\d+ bytes)\b", text)
    return f" ({asked[1]} more were asked for)" if asked else ""

"""Errors a user can act on: one line saying what is wrong, where, and what to try.

Each class carries the process exit code of the command line. Anything that is not a
:class:`TofeEdgeError` is a defect of this program (exit code 3; the traceback shows with ``--debug``).
"""

from __future__ import annotations


class TofeEdgeError(Exception):
    """Base class. ``str(error)`` is the one line shown to the user."""

    exit_code = 2


class InputError(TofeEdgeError):
    """The call or a file given to it is wrong (exit code 2)."""

    exit_code = 2


class GateError(TofeEdgeError):
    """A gate failed: parity below its threshold, a budget nothing fits (exit code 1)."""

    exit_code = 1


class DeviceError(TofeEdgeError):
    """A device or an inference runtime failed while running a valid model (exit code 3)."""

    exit_code = 3


def require(condition: bool, message: str) -> None:
    """Raise :class:`InputError` with ``message`` unless ``condition``."""
    if not condition:
        raise InputError(message)

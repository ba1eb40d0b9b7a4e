"""The shipped checkpoints: every ``.safetensors`` file in this folder, described by its own header."""

from __future__ import annotations

import difflib
from pathlib import Path

from tofe_edge.errors import InputError, require
from tofe_edge.model.checkpoint import Checkpoint, read_header

_FOLDER = Path(__file__).parent


def shipped_checkpoints() -> list[Checkpoint]:
    """Headers of the shipped checkpoints, largest first."""
    checkpoints = [read_header(path) for path in _FOLDER.glob("*.safetensors")]
    for checkpoint in checkpoints:
        # Headers of ours that nobody changed are known: see the table in :mod:`tofe_edge.model.digests`.
        known = checkpoint.weights_sha256 is not None
        require(known, f"{checkpoint.path}: its header is not the one that was shipped; install tofe-edge again")
    return sorted(checkpoints, key=lambda checkpoint: -checkpoint.gmacs)


def find_checkpoint(name_or_path: str) -> Checkpoint:
    """A shipped checkpoint by name, or one from a file.

    Raises:
        InputError: there is no such name or file, or the file is unfit.
    """
    path = Path(name_or_path)
    if path.suffix or len(path.parts) > 1:
        return read_header(path)
    checkpoints = {checkpoint.name: checkpoint for checkpoint in shipped_checkpoints()}
    if name_or_path not in checkpoints:
        near = difflib.get_close_matches(name_or_path, checkpoints, n=2) or list(checkpoints)
        raise InputError(f"checkpoint {name_or_path!r}: neither a shipped one ({', '.join(near)}) nor a file")
    return checkpoints[name_or_path]


def find_by_checksum(sha256: str) -> Checkpoint | None:
    """The shipped checkpoint with this checksum, if there is one."""
    return next((checkpoint for checkpoint in shipped_checkpoints() if checkpoint.sha256() == sha256), None)

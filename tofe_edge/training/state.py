"""The state of an interrupted training run: saved every few minutes, read back to go on where it was."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tofe_edge.backbones import TokenCounts
from tofe_edge.errors import InputError
from tofe_edge.files import write_atomically
from tofe_edge.tofe import ToFe
from tofe_edge.training.config import TrainingConfig


@dataclass(frozen=True)
class Progress:
    """How far a run has come. Random numbers need no place here: they follow from (seed, step)."""

    step: int
    unreadable: int
    counts: TokenCounts | None = None
    """That the blocks are trained with, once tokens are gathered."""


def save_state(
    path: Path, model: ToFe, optimizer: torch.optim.Optimizer, config: TrainingConfig, progress: Progress
) -> None:
    """Write the state atomically. Raises :class:`InputError` where the disk is full or read-only."""
    content = {
        "config": json.dumps(config.to_json(), sort_keys=True),
        "step": progress.step,
        "unreadable": progress.unreadable,
        "counts": list(progress.counts.kept) if progress.counts else [],
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    write_atomically(path, lambda temporary: _save(content, temporary))


def load_state(path: Path, model: ToFe, optimizer: torch.optim.Optimizer, config: TrainingConfig) -> Progress:
    """Put a saved state back into model and optimizer.

    Raises:
        InputError: the file is damaged, or belongs to a run with other hyper-parameters.
    """
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        stored = json.loads(content["config"])
        counts = TokenCounts(tuple(content["counts"])) if content["counts"] else None
        progress = Progress(int(content["step"]), int(content["unreadable"]), counts)
        weights, moments = content["model"], content["optimizer"]
    except Exception as error:  # torch.load raises anything from EOFError to RuntimeError on damaged files
        raise InputError(
            f"{path}: cannot be read as a training state ({type(error).__name__}); delete it to start anew"
        ) from error
    changed = sorted(key for key, value in config.to_json().items() if stored.get(key) != value)
    if changed:
        raise InputError(
            f"{path}: belongs to a run with another {', '.join(changed)}; use the same options, another --out, or delete it"
        )
    try:
        model.load_state_dict(weights)
        optimizer.load_state_dict(moments)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{path}: belongs to another net; use another --out, or delete it") from error
    return progress


def _save(content: dict[str, Any], path: Path) -> None:
    try:
        torch.save(content, path)
    except RuntimeError as error:
        # torch's own writer reports a full disk as a RuntimeError that speaks of file positions.
        raise OSError("not all of it could be written, as on a full disk") from error

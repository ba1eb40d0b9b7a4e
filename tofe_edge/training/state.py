"""The state of an interrupted training run: saved every few minutes, read back to go on where it was."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tofe_edge.errors import InputError
from tofe_edge.io.files import write_atomically
from tofe_edge.model.backbones import TokenCounts
from tofe_edge.model.tofe import ToFe
from tofe_edge.training.recipe import TrainingConfig


@dataclass(frozen=True)
class Progress:
    """The progress of a run. Random numbers need no place here: they follow from (seed, step)."""

    step: int
    unreadable: int
    counts: TokenCounts | None = None
    """The counts that the blocks are trained with, once tokens are gathered."""


def save_state(
    path: Path,
    model: ToFe,
    optimizer: torch.optim.Optimizer,
    config: TrainingConfig,
    progress: Progress,
    origin: Mapping[str, str],
    average: nn.Module | None = None,
) -> None:
    """Write the state atomically.

    Args:
        origin: what a run that goes on from it must have in common beside ``config``, by names.
        average: the running mean of the weights, if there is one.

    Raises:
        InputError: the disk is full or read-only.
    """
    content = {
        "config": json.dumps(config.to_json(), sort_keys=True),
        "origin": dict(origin),
        "step": progress.step,
        "unreadable": progress.unreadable,
        "counts": list(progress.counts.kept) if progress.counts else [],
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "average": average.state_dict() if average else {},
    }
    with _undisturbed():
        write_atomically(path, lambda temporary: _save(content, temporary))


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Signals that ask for the end wait for that of the block: a second one would cut off what the first has begun to save."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []
    before = {}
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not None:
            before[number] = signal.signal(number, lambda received, _: waiting.append(received))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if waiting:
        signal.raise_signal(waiting[0])


def check_state(path: Path, config: TrainingConfig) -> None:
    """Raise :class:`InputError` if a run with ``config`` cannot go on from this state, before hours are spent."""
    _require_same(path, _read(path), config)


def load_state(
    path: Path,
    model: ToFe,
    optimizer: torch.optim.Optimizer,
    config: TrainingConfig,
    origin: Mapping[str, str],
    average: nn.Module | None = None,
) -> Progress:
    """Put a saved state back into model, optimizer and running mean.

    Raises:
        InputError: the file is damaged, or belongs to a run with other hyper-parameters or another origin.
    """
    content = _read(path)
    _require_same(path, content, config)
    try:
        came_from = dict(content["origin"])
        counts = TokenCounts(tuple(content["counts"])) if content["counts"] else None
        progress = Progress(int(content["step"]), int(content["unreadable"]), counts)
        weights, moments, mean = content["model"], content["optimizer"], content["average"]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: is of another version of this program; delete it to start anew") from error
    changed = sorted(key for key, value in origin.items() if came_from.get(key) != value)
    if changed:
        raise InputError(f"{path}: belongs to a run with other {', '.join(changed)}; use another --out, or delete it")
    try:
        model.load_state_dict(weights)
        optimizer.load_state_dict(moments)
        if average is not None:
            average.load_state_dict(mean)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{path}: belongs to another net; use another --out, or delete it") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, error) from error
    return progress


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        json.loads(content["config"]).items()  # a JSON object, and no list
    except Exception as error:  # torch.load raises anything from EOFError to RuntimeError on damaged files
        raise _damaged(path, error) from error
    return content


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(f"{path}: cannot be read as a training state ({type(error).__name__}); delete it to start anew")


def _require_same(path: Path, content: dict[str, Any], config: TrainingConfig) -> None:
    stored, expected = json.loads(content["config"]), config.to_json()
    changed = sorted(key for key in stored.keys() | expected.keys() if stored.get(key) != expected.get(key))
    if changed:
        raise InputError(
            f"{path}: belongs to a run with another {', '.join(changed)}; use the same options, another --out, or delete it"
        )


def _save(content: dict[str, Any], path: Path) -> None:
    try:
        torch.save(content, path)
    except RuntimeError as error:
        # torch's own writer reports a full disk as a RuntimeError that speaks of file positions.
        raise OSError("not all of it could be written, as on a full disk") from error

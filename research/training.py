"""One training loop for all methods: the same steps on the same views with the same optimizer, resumable."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from research.method import Method, Step
from tofe_edge.errors import InputError
from tofe_edge.io.progress import progress_bar
from tofe_edge.training.batches import weights_digest
from tofe_edge.training.config import TrainingConfig
from tofe_edge.training.schedule import Schedule, gumbel_sampler, make_optimizer, noise_scale, set_learning_rates
from tofe_edge.training.state import write_state
from tofe_edge.training.teacher import TrainingBatch
from tofe_edge.training.views import Views

SAVE_EVERY_SECONDS = 60.0
_LOG_EVERY_STEPS = 10

TrainingBatches = Callable[[range], Iterator[TrainingBatch]]
"""Steps to their batches."""


@dataclass(frozen=True)
class Course:
    """How long all methods learn, and how."""

    config: TrainingConfig
    steps: int
    selecting_share: float
    """Of the steps, those in which selectors learn on masked tokens, for methods that have any to learn."""
    samples: str
    """Digest of the images that views are of, as of ``samples_digest``."""

    @property
    def selecting(self) -> int:
        """Those steps."""
        return round(self.steps * self.selecting_share)

    def schedule(self, method: Method) -> Schedule:
        """The method's steps in its two forms."""
        selecting = self.selecting if method.selects else 0
        return Schedule(selecting, self.steps - selecting, 0)

    def of(self, method: Method, views: int) -> dict[str, Any]:
        """What a saved state must have in common with a run that goes on from it.

        Args:
            method: at its start.
            views: how many are drawn from.
        """
        schedule = self.schedule(method)
        origin = {
            "method": type(method).__name__,
            "start": weights_digest(method),
            "selections": method.spec.stages,
            "samples": self.samples,
            "drawn_views": views,
            "selecting": schedule.selecting,
            "gathered": schedule.gathered,
        }
        as_written: dict[str, Any] = json.loads(json.dumps({**self.config.to_json(), **origin}))
        return as_written


@dataclass(frozen=True)
class Fit:
    """A finished run."""

    steps: int
    images: int
    """Seen, repeats counted."""
    seconds: float
    """Of training, those before an interruption included."""


def fit(method: Method, batches: TrainingBatches, views: Views, course: Course, out: Path) -> Fit:
    """Train ``method`` in place; its state is in ``OUT.state``, its log in ``OUT.log.jsonl``.

    A run that was interrupted goes on from its last saved state, to where it would have come without.

    Args:
        views: on which learned token counts are measured.

    Raises:
        InputError: the saved state is damaged or of another run, the training diverges, or the disk is full.
    """
    config, schedule = course.config, course.schedule(method)
    state_path, log_path = out.with_suffix(".state"), out.with_suffix(".log.jsonl")
    method.eval()  # as in ToFe's own training: no dropout
    optimizer = optimizer_of(method, config)
    state = _State(state_path, method, optimizer, course.of(method, len(views)))
    begin, seconds_before = state.load() if state_path.exists() else (0, 0.0)
    begun = saved_at = time.monotonic()
    done, whole = begin, True
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with (
            progress_bar(out.name, total=schedule.steps, initial=begin, unit="step") as bar,
            log_path.open("a") as log,
        ):
            for batch in _ahead(batches(range(begin, schedule.steps))):
                parts = _step(method, optimizer, batch, views, config, schedule)
                whole = False
                optimizer.step()
                done, whole = batch.step + 1, True
                bar.update(1)
                if done % _LOG_EVERY_STEPS == 0 or done == schedule.steps:
                    rate = (done - begin) * config.batch_size / (time.monotonic() - begun)
                    record = {"step": done, **parts, "images_per_second": round(rate, 1)}
                    log.write(json.dumps(record) + "\n")
                    log.flush()
                    bar.set_postfix_str(f"loss {sum(parts.values()):.3f}, {rate:.0f} images/s")
                if time.monotonic() - saved_at > SAVE_EVERY_SECONDS:
                    state.save(done, seconds_before + time.monotonic() - begun)
                    saved_at = time.monotonic()
    except (KeyboardInterrupt, SystemExit):
        if whole:
            state.save(done, seconds_before + time.monotonic() - begun)
        raise
    except OSError as error:
        raise InputError(f"{log_path}: cannot be written ({error.strerror or error}); free some space") from error
    seconds = seconds_before + time.monotonic() - begun
    if done > begin:
        state.save(done, seconds)
    return Fit(schedule.steps, schedule.steps * config.batch_size, seconds if done > begin else seconds_before)


def optimizer_of(method: Method, config: TrainingConfig) -> torch.optim.Optimizer:
    """ToFe's own, with the backbone's learning rate for all that starts from the dense net."""
    return make_optimizer(method, config, type(method).pretrained)


def _ahead(batches: Iterator[TrainingBatch]) -> Iterator[TrainingBatch]:
    """The same, each fetched while the one before is learned: views that are not in memory wait for the disk."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        coming = pool.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = pool.submit(next, batches, None)
            yield batch


def _step(
    method: Method,
    optimizer: torch.optim.Optimizer,
    batch: TrainingBatch,
    views: Views,
    config: TrainingConfig,
    schedule: Schedule,
) -> dict[str, float]:
    """Gradients of one step."""
    gathers = schedule.gathers(batch.step)
    if 0 < schedule.selecting == batch.step:  # without masked steps counts stay those that it was made with
        method.settle(views, config, noise_scale(batch.step - 1, schedule.selecting, config.noise_decay_start))
    set_learning_rates(optimizer, config, schedule, batch.step)
    noise = noise_scale(batch.step, schedule.selecting, config.noise_decay_start)
    gumbel = None if gathers else gumbel_sampler(config.seed, batch.step, noise)
    optimizer.zero_grad(set_to_none=True)
    parts = method.losses(Step(batch, config, gumbel))
    loss = torch.stack(list(parts.values())).sum()
    loss.backward()
    with_gradient = [parameter for parameter in method.parameters() if parameter.grad is not None]
    norm = torch.nn.utils.clip_grad_norm_(with_gradient, config.gradient_clip)
    if not (torch.isfinite(loss) and torch.isfinite(norm)):
        raise InputError(
            f"training {type(method).__name__}: the loss is {float(loss.detach()):g} with a gradient of {float(norm):g} at "
            f"step {batch.step + 1}; lower --learning-rate or --backbone-learning-rate and use another --out"
        )
    return {name: round(float(value.detach()), 4) for name, value in parts.items()}


class _State:
    """The file that an interrupted run goes on from."""

    def __init__(self, path: Path, method: Method, optimizer: torch.optim.Optimizer, course: dict[str, Any]) -> None:
        self._path, self._method, self._optimizer, self._course = path, method, optimizer, course

    def save(self, step: int, seconds: float) -> None:
        content = {
            "course": json.dumps(self._course, sort_keys=True),
            "step": step,
            "seconds": seconds,
            "method": self._method.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }
        write_state(self._path, content)

    def load(self) -> tuple[int, float]:
        try:
            content: dict[str, Any] = torch.load(self._path, map_location="cpu", weights_only=True)
            course, step, seconds = dict(json.loads(content["course"])), int(content["step"]), float(content["seconds"])
            weights, moments = content["method"], content["optimizer"]
        except Exception as error:  # torch.load raises anything from EOFError to RuntimeError on damaged files
            raise InputError(
                f"{self._path}: cannot be read as a training state ({type(error).__name__}); delete it to start anew"
            ) from error
        wanted = self._course
        changed = sorted(key for key in course.keys() | wanted.keys() if course.get(key) != wanted.get(key))
        if changed:
            raise InputError(
                f"{self._path}: belongs to a run with another {', '.join(changed)}; use another --states, or delete it"
            )
        try:
            self._method.load_state_dict(weights)
            self._optimizer.load_state_dict(moments)
        except (RuntimeError, ValueError) as error:
            raise InputError(f"{self._path}: belongs to another net; use another --states, or delete it") from error
        return step, seconds

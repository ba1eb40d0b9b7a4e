"""One training loop for all methods: the same steps on the same crops with the same optimizer."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from research.method import Method, Step
from tofe_edge.errors import InputError
from tofe_edge.io.progress import progress_bar
from tofe_edge.training.recipe import TrainingConfig
from tofe_edge.training.schedule import Schedule, gumbel_sampler, make_optimizer, noise_scale, set_learning_rates
from tofe_edge.training.trainer import TrainingBatch

_LOG_EVERY_STEPS = 10

TrainingBatches = Callable[[range], Iterator[TrainingBatch]]
"""Steps to their batches."""


@dataclass(frozen=True)
class Course:
    """How long all methods learn, and how."""

    config: TrainingConfig
    steps: int
    selecting_share: float
    """The share of the steps in which selectors learn on masked tokens, for methods that have any to learn."""

    @property
    def selecting(self) -> int:
        """Those steps."""
        return round(self.steps * self.selecting_share)

    def schedule(self, method: Method) -> Schedule:
        """The method's steps in its two forms."""
        selecting = self.selecting if method.selects else 0
        return Schedule(selecting, self.steps - selecting, 0)


@dataclass(frozen=True)
class Fit:
    """A finished run."""

    steps: int
    images: int
    """Seen, repeats counted."""
    seconds: float


def fit(method: Method, batches: TrainingBatches, images: Tensor, course: Course, out: Path) -> Fit:
    """Train ``method`` in place; its log is in ``OUT.log.jsonl``.

    Args:
        images: ``(B, 3, H, W)``, on which learned token counts are measured.

    Raises:
        InputError: the training diverges, or the disk is full.
    """
    config, schedule = course.config, course.schedule(method)
    log_path = out.with_suffix(".log.jsonl")
    method.eval()  # as in ToFe's own training: no dropout
    optimizer, begun = make_optimizer(method, config), time.monotonic()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with (
            progress_bar(out.name, total=schedule.steps, unit="step") as bar,
            log_path.open("w") as log,
        ):
            for batch in batches(range(schedule.steps)):
                parts = _step(method, optimizer, batch, images, config, schedule)
                optimizer.step()
                bar.update(1)
                done = batch.step + 1
                if done % _LOG_EVERY_STEPS == 0 or done == schedule.steps:
                    rate = done * config.batch_size / (time.monotonic() - begun)
                    log.write(json.dumps({"step": done, **parts, "images_per_second": round(rate, 1)}) + "\n")
                    bar.set_postfix_str(f"loss {sum(parts.values()):.3f}, {rate:.0f} images/s")
    except OSError as error:
        raise InputError(f"{log_path}: cannot be written ({error.strerror or error}); free some space") from error
    return Fit(schedule.steps, schedule.steps * config.batch_size, time.monotonic() - begun)


def _step(
    method: Method,
    optimizer: torch.optim.Optimizer,
    batch: TrainingBatch,
    images: Tensor,
    config: TrainingConfig,
    schedule: Schedule,
) -> dict[str, float]:
    """Gradients of one step."""
    gathers = schedule.gathers(batch.step)
    if 0 < schedule.selecting == batch.step:  # without masked steps counts stay those that it was made with
        method.settle(images, config, noise_scale(batch.step - 1, schedule.selecting, config.noise_decay_start))
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
            f"step {batch.step + 1}; lower --learning-rate or --backbone-learning-rate"
        )
    return {name: round(float(value.detach()), 4) for name, value in parts.items()}

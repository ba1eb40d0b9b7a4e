"""The training loop: paper's losses and schedule, resumable, with a log a plot can be made from."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from tofe_edge.budget.cost import Cost, fit_to_budget
from tofe_edge.errors import InputError
from tofe_edge.io.dataset import sample_evenly
from tofe_edge.io.progress import progress_bar
from tofe_edge.model.backbones import TokenCounts
from tofe_edge.model.tofe import ToFe, TrainingOutput
from tofe_edge.training.batches import TrainingBatch, TrainingSet, batches_from_images, samples_digest, weights_digest
from tofe_edge.training.counts import measure_counts, read_images
from tofe_edge.training.losses import (
    approximation_loss,
    budget_loss,
    classification_loss,
    distillation_loss,
    guidance_loss,
)
from tofe_edge.training.recipe import TrainingConfig
from tofe_edge.training.schedule import Schedule, gumbel_sampler, make_optimizer, noise_scale, set_learning_rates
from tofe_edge.training.state import Progress, load_state, save_state
from tofe_edge.training.views import Views, batches_from_views

SAVE_EVERY_SECONDS = 180.0
_LOG_EVERY_STEPS = 10
_COUNTED_IMAGES = 256


@dataclass(frozen=True)
class TrainingResult:
    """What a finished run came to."""

    steps: int
    unreadable: int
    counts: TokenCounts | None
    """The counts that the blocks were trained with; ``None`` if tokens were masked to the end."""


def train(
    model: ToFe,
    data: TrainingSet,
    config: TrainingConfig,
    cost: Cost,
    out: Path,
    device: torch.device,
    teacher: ToFe | None = None,
    views: Views | None = None,
) -> TrainingResult:
    """Train ``model`` in place to the target of ``cost``; state and log stand beside ``out``.

    An interrupted run (Ctrl-C, kill, power) goes on from the last saved state when called again with the
    same arguments, and then follows the same path as one that was never interrupted.

    Args:
        teacher: has the dense weights to learn from; ``None``: ``model`` as it comes has them.
        views: of the teacher on ``data``, to train on in place of fresh crops. Up to the first selection ``model``
            must be the teacher, and stays it.

    Raises:
        InputError: the data or a saved state is unfit, or the disk is full.
    """
    # 1. Teacher, student and optimizer; the state of an interrupted run
    state_path, log_path = out.with_suffix(".state"), out.with_suffix(".log.jsonl")
    start = weights_digest(model)
    teacher = copy.deepcopy(teacher or model).to(device).eval().requires_grad_(False)
    # eval mode: no dropout or stochastic depth at fine-tuning, and LV-ViT's BatchNorm statistics stay put.
    model.to(device).eval()
    optimizer = make_optimizer(model, config)
    origin = {
        "weights": weights_digest(teacher.backbone),
        "start": start,
        "images": samples_digest(data.train),
        "selections": ",".join(map(str, model.backbone.spec.stages)),
    }
    # Of the start, before a state is put in its place: so it is the same after a resume.
    starts_as_teacher = weights_digest(model.backbone) == origin["weights"]
    begin = load_state(state_path, model, optimizer, config, origin) if state_path.exists() else Progress(0, 0)
    schedule = Schedule.of(config, len(data.train))
    progress, begun, saved_at = begin, time.monotonic(), time.monotonic()
    steps, whole = range(begin.step, schedule.steps), True
    # 2. What each step learns from, and where the log and the state go
    stream: Iterator[TrainingBatch] = (
        batches_from_images(data, teacher, config, steps, device)
        if views is None
        else batches_from_views(views, config, steps, device)
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with (
            progress_bar(
                f"training (log: {log_path.name})", total=schedule.steps, initial=begin.step, unit="step"
            ) as bar,
            log_path.open("a") as log,
        ):
            for batch in stream:
                # 3. Gradients, with what this step trains
                if schedule.gathers(batch.step) and progress.counts is None:
                    progress = replace(progress, counts=_counts_to_train(model, data, config, cost))
                set_learning_rates(optimizer, config, schedule, batch.step)
                model.backbone.requires_grad_(not schedule.fixes_backbone(batch.step))
                optimizer.zero_grad(set_to_none=True)
                if starts_as_teacher and schedule.fixes_backbone(batch.step):
                    batch = replace(batch, images=None)  # student and teacher are one net up to the first selector
                parts, kept = _gradients(model, batch, config, cost, schedule, progress.counts)
                # 4. Update: stopped in here, weights and step do not belong together
                whole = False
                optimizer.step()
                progress = replace(progress, step=batch.step + 1, unreadable=progress.unreadable + batch.unreadable)
                whole = True
                # 5. Log and save
                rate = (progress.step - begin.step) * config.batch_size / (time.monotonic() - begun)
                if progress.step % _LOG_EVERY_STEPS == 0 or progress.step == schedule.steps:
                    record = {"step": progress.step, **parts, "kept": kept, "images_per_second": round(rate, 2)}
                    log.write(json.dumps(record) + "\n")
                    log.flush()
                bar.set_postfix_str(f"loss {parts['loss']:.3f}, kept {kept}, {rate:.1f} images/s")
                bar.update(1)
                if time.monotonic() - saved_at > SAVE_EVERY_SECONDS:
                    save_state(state_path, model, optimizer, config, progress, origin)
                    saved_at = time.monotonic()
    except (KeyboardInterrupt, SystemExit):  # Ctrl-C, or a signal that asks for the end
        # Stopped inside an update, weights and step do not belong together: the state saved before is the one to keep.
        if whole:
            save_state(state_path, model, optimizer, config, progress, origin)
        raise
    except OSError as error:
        raise InputError(f"{log_path}: cannot be written ({error.strerror or error}); free some space") from error
    save_state(state_path, model, optimizer, config, progress, origin)
    model.to("cpu")
    return TrainingResult(schedule.steps, progress.unreadable, progress.counts)


def _counts_to_train(model: ToFe, data: TrainingSet, config: TrainingConfig, cost: Cost) -> TokenCounts:
    """Return what the selectors have learned to keep, in counts that meet the target; or the counts that are set.

    If the noise stays to the end, learned are the means with it, as in the paper: without it, undecided selectors
    keep all of some stages and little of others.
    """
    if config.token_counts is not None:
        return TokenCounts.parse(config.token_counts)
    device = next(model.parameters()).device
    images = read_images(data.held_out or sample_evenly(data.train, _COUNTED_IMAGES), model.backbone.preprocessing)
    measured = measure_counts(model.to("cpu"), images, config.seed)
    model.to(device)
    return fit_to_budget(measured.sampled_means if config.noise_decay_start >= 1 else measured.means, cost).counts


def _gradients(
    model: ToFe,
    batch: TrainingBatch,
    config: TrainingConfig,
    cost: Cost,
    schedule: Schedule,
    counts: TokenCounts | None,
) -> tuple[dict[str, float], list[float]]:
    view, device = batch.view, batch.labels.device
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
        output = _forward(model, batch, config, schedule, counts)
        parts = {
            "classification": config.cls_weight * classification_loss(output.logits, batch.labels),
            "approximation": config.approximation_weight
            * approximation_loss(output.rearranged, view.stages, output.masks),
        }
        if not schedule.gathers(batch.step):
            parts["budget"] = config.budget_weight * budget_loss(output.masks, cost, config.budget == "per_sample")
        if config.distillation_weight:
            parts["distillation"] = config.distillation_weight * distillation_loss(output.logits, view.logits)
        if config.guidance_weight:
            parts["guidance"] = config.guidance_weight * guidance_loss(output.scores, view.importance.unbind(dim=1))
    loss = torch.stack(list(parts.values())).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    with_gradient = [parameter for parameter in model.parameters() if parameter.grad is not None]
    norm = torch.nn.utils.clip_grad_norm_(with_gradient, config.gradient_clip)
    if not (torch.isfinite(loss) and torch.isfinite(norm)):
        raise InputError(
            f"training: the loss is {float(loss.detach()):g} with a gradient of {float(norm):g} at step {batch.step + 1}; "
            "lower learning_rate or backbone_learning_rate and use another --out"
        )
    kept = [round(float(mask.detach().sum(dim=1).mean()), 1) for mask in output.masks]
    values = {name: round(float(value.detach()), 4) for name, value in parts.items()}
    return {"loss": round(float(loss.detach()), 4), **values}, kept


def _forward(
    model: ToFe, batch: TrainingBatch, config: TrainingConfig, schedule: Schedule, counts: TokenCounts | None
) -> TrainingOutput:
    stem = batch.view.stem if batch.images is None else model.stem(batch.images)
    if counts is not None:
        return model.gathered_from(stem, counts)
    noise = noise_scale(batch.step, schedule.selecting, config.noise_decay_start)
    return model.masked_from(stem, gumbel_sampler(config.seed, batch.step, noise))

"""The training loop: paper's losses and schedule, resumable, by any number of processes, with a log a plot can be made from."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tofe_edge.budget.cost import Cost, fit_to_budget
from tofe_edge.errors import InputError
from tofe_edge.io.progress import progress_bar
from tofe_edge.model.backbones import TokenCounts
from tofe_edge.model.digests import digest_of_tensors
from tofe_edge.model.tofe import ToFe, TrainingOutput
from tofe_edge.training.batches import Crop, TrainingSet, batches, normalized
from tofe_edge.training.counts import measure_counts, read_images
from tofe_edge.training.losses import approximation_loss, budget_loss, classification_loss, distillation_loss
from tofe_edge.training.recipe import TrainingConfig
from tofe_edge.training.running import Running
from tofe_edge.training.schedule import Schedule, gumbel_sampler, make_optimizer, noise_scale, set_learning_rates
from tofe_edge.training.state import Progress, load_state, save_state
from tofe_edge.training.teacher import Teacher, TeacherView, kept_logits, samples_digest

SAVE_EVERY_SECONDS = 180.0
_LOG_EVERY_STEPS = 10


@dataclass(frozen=True)
class TrainingResult:
    """What a finished run came to."""

    steps: int
    unreadable: int
    counts: TokenCounts | None
    """The counts that the blocks were trained with, the main ones of several; ``None`` if tokens were masked to the end."""


@dataclass(frozen=True)
class TrainingBatch:
    """A part of a step's examples, on the device that trains."""

    step: int
    part: int
    crops: Sequence[Crop]
    images: Tensor
    """``(B, 3, H, W)``"""
    labels: Tensor
    view: TeacherView
    unreadable: int


def train(
    model: ToFe,
    data: TrainingSet,
    config: TrainingConfig,
    cost: Cost,
    out: Path,
    running: Running,
    teacher: ToFe | None = None,
) -> TrainingResult:
    """Train ``model`` in place to the target of ``cost``; state and log stand beside ``out``.

    An interrupted run (Ctrl-C, kill, power) goes on from the last saved state when called again with the
    same arguments, by whatever number of processes, and then follows the same path as one that was never interrupted.

    Args:
        teacher: has the dense weights to learn from; ``None``: ``model`` as it comes has them.

    Raises:
        InputError: the data or a saved state is unfit, or the disk is full.
        DeviceError: another process of the run, or one that decodes images, has ended.
    """
    # 1. Teacher, student and optimizer; the state of an interrupted run
    state_path, log_path = out.with_suffix(".state"), out.with_suffix(".log.jsonl")
    processes, start = running.processes, digest_of_tensors(model.state_dict())
    dense = copy.deepcopy(teacher or model).to(running.device).eval().requires_grad_(False)
    # eval mode: no dropout or stochastic depth at fine-tuning, and LV-ViT's BatchNorm statistics stay put.
    model.to(running.device).eval()
    optimizer = make_optimizer(model, config)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema)) if config.ema else None
    origin = {
        "weights": digest_of_tensors(dense.backbone.state_dict()),
        "start": start,
        "images": samples_digest(data.train),
        "selections": ",".join(map(str, model.backbone.spec.stages)),
    }
    # Of the start, before a state is put in its place: so it is the same after a resume.
    starts_as_teacher = digest_of_tensors(model.backbone.state_dict()) == origin["weights"]
    schedule = Schedule.of(config, len(data.train))
    progress = Progress(0, 0)
    if state_path.exists():
        progress = load_state(state_path, model, optimizer, config, origin, average)
    if processes.agreed([progress.step], running.device) != (progress.step,):
        raise InputError(f"{state_path}: is not there for all processes; give an --out on a disk that they share")
    begin, begun, saved_at, whole = progress.step, time.monotonic(), time.monotonic(), True
    # 2. What each step learns from, and where the log and the state go
    budgets = config.budgets() or ((progress.counts,) if progress.counts else ())
    of_tokens = config.approximation_weight > 0
    # Tokens are computed, and logits with them: nothing is kept then.
    kept = kept_logits(running.logits, dense, data.train, config) if running.logits and not of_tokens else None
    looks = Teacher(dense, of_tokens, kept)
    stream = examples(data, looks, config, range(begin, schedule.steps), running)
    out.parent.mkdir(parents=True, exist_ok=True)

    def save() -> None:
        if processes.is_first:
            save_state(state_path, model, optimizer, config, progress, origin, average)

    try:
        with (
            progress_bar(f"training (log: {log_path.name})", total=schedule.steps, initial=begin, unit="step") as bar,
            log_path.open("a") if processes.is_first else nullcontext() as log,
            running.compiled(model, dense),
        ):
            for step in range(begin, schedule.steps):
                # 3. Gradients, with what this step trains
                batch = list(islice(stream, running.parts))
                fixed, gathers = schedule.fixes_backbone(step), schedule.gathers(step)
                if gathers and not budgets:
                    learned = _counts_to_train(model, data, config, cost)
                    learned = TokenCounts(processes.agreed(learned.kept, running.device))
                    progress, budgets = replace(progress, counts=learned), (learned,)
                set_learning_rates(optimizer, config, schedule, step)
                model.backbone.requires_grad_(not fixed)
                optimizer.zero_grad(set_to_none=True)
                at = budgets if gathers else ()
                values = _gradients(model, batch, config, cost, schedule, at, running, fixed and starts_as_teacher)
                # 4. Update: stopped in here, weights and step do not belong together, and the state saved before is the one to keep
                whole = False
                optimizer.step()
                if average is not None:
                    average.update_parameters(model)
                progress = replace(progress, step=step + 1, unreadable=progress.unreadable + values.unreadable)
                whole = True
                # 5. Log and save
                rate = (progress.step - begin) * config.batch_size / (time.monotonic() - begun)
                if log is not None and (progress.step % _LOG_EVERY_STEPS == 0 or progress.step == schedule.steps):
                    record = {
                        "step": progress.step,
                        **values.losses,
                        "kept": values.kept,
                        "images_per_second": round(rate, 2),
                    }
                    log.write(json.dumps(record) + "\n")
                    log.flush()
                bar.set_postfix_str(f"loss {values.losses['loss']:.3f}, kept {values.kept}, {rate:.1f} images/s")
                bar.update(1)
                if time.monotonic() - saved_at > SAVE_EVERY_SECONDS:
                    save()
                    saved_at = time.monotonic()
    except BaseException as error:
        # Ctrl-C, a signal that asks for the end, images that are gone, another process that died.
        if whole and not isinstance(error, OSError | _DivergedError):
            save()
        if isinstance(error, OSError):
            raise InputError(f"{log_path}: cannot be written ({error.strerror or error}); free some space") from error
        raise
    save()
    if average is not None:
        model.load_state_dict(average.module.state_dict())
    model.to("cpu")
    return TrainingResult(schedule.steps, progress.unreadable, next(iter(budgets), None))


def examples(
    data: TrainingSet, teacher: Teacher, config: TrainingConfig, steps: range, running: Running
) -> Iterator[TrainingBatch]:
    """The process's parts of each step's batch, in order, and what the teacher makes of them."""
    preprocessing = teacher.net.backbone.preprocessing
    size, share = preprocessing.image_size, running.share(config.batch_size)
    stream = batches(
        data.train, size, config.batch_size, steps, config.seed, config.augmentation, share, running.workers
    )
    for batch in stream:
        images = normalized(batch.pixels.to(running.device), preprocessing)
        with running.autocast(enabled=teacher.kept is None):  # logits that are kept serve other runs, too
            view = teacher.view(images, batch.crops)
        yield TrainingBatch(
            batch.step, batch.part, batch.crops, images, batch.labels.to(running.device), view, len(batch.unreadable)
        )


def _counts_to_train(model: ToFe, data: TrainingSet, config: TrainingConfig, cost: Cost) -> TokenCounts:
    """Return what the selectors have learned to keep, in counts that meet the target.

    If the noise stays to the end, learned are the means with it, as in the paper: without it, undecided selectors
    keep all of some stages and little of others.
    """
    device = next(model.parameters()).device
    images = read_images(data.counted, model.backbone.preprocessing)
    measured = measure_counts(model.to("cpu"), images, config.seed)
    model.to(device)
    return fit_to_budget(measured.sampled_means if config.noise_decay_start >= 1 else measured.means, cost).counts


class _DivergedError(InputError):
    """There is nothing to go on from."""


@dataclass(frozen=True)
class _Values:
    """What a step came to, over all processes."""

    losses: dict[str, float]
    kept: list[float]
    unreadable: int


def _gradients(
    model: ToFe,
    parts: Sequence[TrainingBatch],
    config: TrainingConfig,
    cost: Cost,
    schedule: Schedule,
    budgets: Sequence[TokenCounts],
    running: Running,
    stem_of_teacher: bool,
) -> _Values:
    """Leave the mean gradient over all parts, budgets and processes in the parameters."""
    sums: dict[str, Tensor] = {}
    kept = torch.zeros(len(model.selectors), device=running.device)
    for batch in parts:
        losses: dict[str, Tensor] = {}
        with running.autocast():
            # Student and teacher may be one net up to the first selector.
            stem = batch.view.stem if stem_of_teacher and batch.view.stem is not None else model.stem(batch.images)
            for counts, some in _served(batch, budgets):
                if counts is None:
                    output = _masked(model, stem, batch, config, schedule, running)
                else:
                    output = model.gathered_from(stem[some], counts)
                share = len(some) / len(stem) / len(parts)
                for name, loss in _losses(
                    output, batch.labels[some], batch.view.of(some), config, cost if counts is None else None
                ).items():
                    losses[name] = losses.get(name, 0) + share * loss
                kept += share * torch.stack([mask.detach().sum(dim=1).mean() for mask in output.masks])
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        for name, value in losses.items():
            sums[name] = sums.get(name, 0) + value.detach().float()
    with_gradient = [parameter for parameter in model.parameters() if parameter.grad is not None]
    unreadable = torch.tensor(float(sum(batch.unreadable for batch in parts)), device=running.device)
    gradients = [parameter.grad for parameter in with_gradient if parameter.grad is not None]
    running.processes.average([*gradients, *sums.values(), kept, unreadable])
    norm = float(torch.nn.utils.clip_grad_norm_(with_gradient, config.gradient_clip))
    values = {name: float(value) for name, value in sums.items()}
    total = sum(values.values())
    if not (math.isfinite(total) and math.isfinite(norm)):
        raise _DivergedError(
            f"training: the loss is {total:g} with a gradient of {norm:g} at step {parts[0].step + 1}; "
            "lower learning_rate or backbone_learning_rate and use another --out"
        )
    return _Values(
        {name: round(value, 4) for name, value in {"loss": total, **values}.items()},
        [round(value, 1) for value in kept.tolist()],
        round(float(unreadable) * running.processes.count),
    )


def _served(batch: TrainingBatch, budgets: Sequence[TokenCounts]) -> Iterator[tuple[TokenCounts | None, Tensor]]:
    """Token counts, and the positions ``(b,)`` of the images that are trained with them.

    A net for several budgets learns at all of them in each step, each image at one, in turns: a step costs what it costs a net for
    one. Which image meets which does not depend on the processes that share the batch.
    """
    if len(budgets) < 2:
        yield next(iter(budgets), None), torch.arange(len(batch.images))
        return
    turns = torch.tensor([(crop.image + batch.step) % len(budgets) for crop in batch.crops])
    for turn, counts in enumerate(budgets):
        some = torch.nonzero(turns == turn).flatten()
        if len(some):
            yield counts, some


def _masked(
    model: ToFe, stem: Tensor, batch: TrainingBatch, config: TrainingConfig, schedule: Schedule, running: Running
) -> TrainingOutput:
    noise = noise_scale(batch.step, schedule.selecting, config.noise_decay_start)
    parts = running.share(config.batch_size).parts
    return model.masked_from(stem, gumbel_sampler(config.seed, batch.step, noise, batch.part, parts))


def _losses(
    output: TrainingOutput, labels: Tensor, view: TeacherView, config: TrainingConfig, cost: Cost | None
) -> dict[str, Tensor]:
    """The losses that weigh something; that of the budget if ``cost`` is given."""
    losses = {}
    if config.cls_weight:
        losses["classification"] = config.cls_weight * classification_loss(output.logits, labels)
    if config.approximation_weight:
        missed = approximation_loss(output.rearranged, view.stages, output.masks)
        losses["approximation"] = config.approximation_weight * missed
    if cost is not None:
        missed = budget_loss(output.masks, cost, config.budget == "per_sample")
        losses["budget"] = config.budget_weight * missed
    if config.distillation_weight:
        losses["distillation"] = config.distillation_weight * distillation_loss(output.logits, view.logits)
    return losses

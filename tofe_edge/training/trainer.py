"""The training loop: paper's losses and schedule, resumable, with a log a plot can be made from."""

from __future__ import annotations

import copy
import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tofe_edge.errors import InputError
from tofe_edge.progress import progress_bar
from tofe_edge.tofe import ToFe
from tofe_edge.training.batches import Batch, TrainingSet, batches
from tofe_edge.training.config import TrainingConfig
from tofe_edge.training.losses import approximation_loss, budget_loss, classification_loss, distillation_loss
from tofe_edge.training.noise import gumbel_sampler, noise_scale
from tofe_edge.training.optimizer import make_optimizer, set_learning_rates
from tofe_edge.training.state import Progress, load_state, save_state

SAVE_EVERY_SECONDS = 180.0
_LOG_EVERY_STEPS = 10


@dataclass(frozen=True)
class TeacherView:
    """What the student learns from the dense model on one batch."""

    stem: Tensor
    """Tokens ``(B, P + N, D)`` at the input of block l_1."""
    stages: tuple[Tensor, ...]
    """Patch tokens ``(B, N, D)`` at the input of blocks l_2 … l_S."""
    logits: Tensor


@dataclass(frozen=True)
class TrainingResult:
    """Where a finished run ended."""

    steps: int
    unreadable: int
    images_per_second: float


def total_steps(config: TrainingConfig, samples: int) -> int:
    """Steps of the whole run: epochs over ``samples`` images, rounded, at least one."""
    return max(1, round(config.epochs * samples / config.batch_size))


def train(model: ToFe, data: TrainingSet, config: TrainingConfig, out: Path, device: torch.device) -> TrainingResult:
    """Train ``model`` in place from its dense weights; state and log stand beside ``out``.

    An interrupted run (Ctrl-C, kill, power) goes on from the last saved state when called again with the
    same arguments, and then follows the same path as one that was never interrupted.

    Raises:
        InputError: the data or a saved state is unfit, or the disk is full.
    """
    state_path, log_path = out.with_suffix(".state"), out.with_suffix(".log.jsonl")
    teacher = copy.deepcopy(model).to(device).eval().requires_grad_(False)
    # eval mode: no dropout or stochastic depth at fine-tuning, and LV-ViT's BatchNorm statistics stay put.
    model.to(device).eval()
    optimizer = make_optimizer(model, config)
    progress = load_state(state_path, model, optimizer, config) if state_path.exists() else Progress(0, 0)
    samples = len(data.train)
    steps, free_at = total_steps(config, samples), round(config.fixed_epochs * samples / config.batch_size)
    unreadable, begun, saved_at = progress.unreadable, time.monotonic(), time.monotonic()
    step, whole = progress.step, True
    stream = batches(
        data.train, model.backbone.preprocessing, config.batch_size, range(step, steps), config.seed, config.crop_scale
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with progress_bar("training", total=steps, initial=step, unit="step") as bar, log_path.open("a") as log:
            for batch in stream:
                set_learning_rates(optimizer, config, batch.step, steps, free_at)
                fixed = batch.step < free_at
                noise = noise_scale(batch.step, steps, config.noise_decay_start)
                model.backbone.requires_grad_(not fixed)
                parts, kept = _gradients(model, teacher, optimizer, batch, config, device, noise, share_stem=fixed)
                whole = False
                optimizer.step()
                step, unreadable = batch.step + 1, unreadable + len(batch.unreadable)
                whole = True
                rate = (step - progress.step) * config.batch_size / (time.monotonic() - begun)
                if step % _LOG_EVERY_STEPS == 0 or step == steps:
                    record = {"step": step, **parts, "kept": kept, "images_per_second": round(rate, 2)}
                    log.write(json.dumps(record) + "\n")
                    log.flush()
                bar.set_postfix_str(f"loss {parts['loss']:.3f}, kept {kept}, {rate:.1f} images/s")
                bar.update(1)
                if time.monotonic() - saved_at > SAVE_EVERY_SECONDS:
                    save_state(state_path, model, optimizer, config, Progress(step, unreadable))
                    saved_at = time.monotonic()
    except KeyboardInterrupt:
        # Stopped inside an update, weights and step do not belong together: the state saved before is the one to keep.
        if whole:
            save_state(state_path, model, optimizer, config, Progress(step, unreadable))
        raise
    except OSError as error:
        raise InputError(f"{log_path}: cannot be written ({error.strerror or error}); free some space") from error
    save_state(state_path, model, optimizer, config, Progress(step, unreadable))
    model.to("cpu")
    seconds = max(1e-9, time.monotonic() - begun)
    return TrainingResult(steps, unreadable, (step - progress.step) * config.batch_size / seconds)


def _gradients(
    model: ToFe,
    teacher: ToFe,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    config: TrainingConfig,
    device: torch.device,
    noise: float,
    share_stem: bool,
) -> tuple[dict[str, float], list[float]]:
    images, labels = batch.images.to(device), batch.labels.to(device)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
        view = look(teacher, images)
        # With the backbone fixed, student and teacher are one net up to the first selector.
        output = model.forward_masked(
            images, gumbel_sampler(config.seed, batch.step, noise), stem=view.stem if share_stem else None
        )
        parts = {
            "classification": config.cls_weight * classification_loss(output.logits, labels),
            "approximation": config.approximation_weight
            * approximation_loss(output.rearranged, view.stages, output.masks),
            "budget": config.budget_weight
            * budget_loss(output.masks, model.backbone.spec, config.target_gmacs, config.budget == "per_sample"),
        }
        if config.distillation_weight:
            parts["distillation"] = config.distillation_weight * distillation_loss(output.logits, view.logits)
    loss = torch.stack(list(parts.values())).sum()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], config.gradient_clip)
    kept = [round(float(mask.detach().sum(dim=1).mean()), 1) for mask in output.masks]
    values = {name: round(float(value.detach()), 4) for name, value in parts.items()}
    return {"loss": round(float(loss.detach()), 4), **values}, kept


@torch.no_grad()
def look(teacher: ToFe, images: Tensor) -> TeacherView:
    """Run the dense teacher and note its residual stream where the student is compared with it."""
    prefix = teacher.backbone.spec.prefix_tokens
    tokens = stem = teacher.run_blocks(0, teacher.backbone.embed(images))
    stages = []
    for stage in range(1, len(teacher.selectors) + 1):
        tokens = teacher.run_blocks(stage, tokens)
        if stage <= len(teacher.approximators):
            stages.append(tokens[:, prefix:])
    return TeacherView(stem, tuple(stages), teacher.backbone.logits(tokens))

"""A whole training run: dense weights and images in, a checkpoint with measured counts and accuracy out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tofe_edge.backbones import TokenCounts, create_host
from tofe_edge.checkpoint import Checkpoint, Classes, default_classes, describe, load_model, read_tensors, save
from tofe_edge.dataset import find_samples, sample_evenly
from tofe_edge.errors import InputError
from tofe_edge.evaluation import Evaluation, evaluate_samples
from tofe_edge.files import workshop
from tofe_edge.reference import Mode, Reference, pick_device
from tofe_edge.tofe import ToFe
from tofe_edge.training.batches import Source, TrainingSet
from tofe_edge.training.config import TrainingConfig
from tofe_edge.training.counts import MeasuredCounts, fit_counts, measure_counts
from tofe_edge.training.trainer import TrainingResult, train

_COUNT_TOLERANCE = 2.0
"""Tokens by which sampled and noise-free means may differ before a warning is recorded."""


@dataclass(frozen=True)
class TrainingRequest:
    """Where a run takes its weights and images from, and where its checkpoint goes."""

    backbone: str
    weights: Path | None
    pretrained: bool
    data: tuple[str, ...]
    validation: Path | None
    validation_resize: str
    validation_name: str | None
    name: str
    out: Path
    device: str


def train_checkpoint(request: TrainingRequest, config: TrainingConfig) -> Checkpoint:
    """Train, measure token counts and accuracy, and write the checkpoint.

    Raises:
        InputError: weights or images are unfit, or the output cannot be written.
    """
    device = pick_device(request.device)
    with workshop(request.out.parent):
        pass  # find out now, not after hours, that the folder cannot be written to
    # Weights of new modules; batches and noise have their own numbers, from (seed, step).
    torch.manual_seed(config.seed)
    host = create_host(request.backbone, pretrained=request.pretrained)
    if request.weights is not None:
        host.load_dense(read_tensors(request.weights))
    elif not request.pretrained:
        raise InputError("train needs dense weights to start from: --weights FILE, or --pretrained for timm's")
    model, classes = ToFe(host), default_classes(host.spec.classes)
    sources = tuple(Source.parse(text) for text in request.data)
    data = TrainingSet.find(sources, classes.ids, config.held_out, config.seed)
    dense = _accuracy(request, model, None, classes)
    result = train(model, data, config, request.out, device)
    measured = measure_counts(model, data.held_out or sample_evenly(data.train, 256), config.seed)
    fitted = fit_counts(measured.means, host.spec, config.target_gmacs)
    record = {**_record(request, config, data, result, measured), "counts_scaled_by": round(fitted.factor, 3)}
    if dense is not None and dense.unreadable:
        record["warnings"].append(f"{len(dense.unreadable)} validation images could not be read and are not counted")
    header = describe(request.name, host.spec, host.preprocessing, classes, fitted.counts, None, record)
    saved = save(request.out, model, header)
    if dense is None:
        return saved
    # Accuracy is that of the stored, half-precision weights.
    tofe = _accuracy(request, load_model(saved), fitted.counts, classes)
    assert tofe is not None and request.validation is not None
    accuracy = {
        "top1": tofe.top1,
        "top1_interval": list(tofe.top1_interval),
        "top5": tofe.top5,
        "dense_top1": dense.top1,
        "dense_top5": dense.top5,
        "images": tofe.images,
        "dataset": request.validation_name or request.validation.resolve().name,
        "mode": "batch",
    }
    return save(request.out, model, replace(header, accuracy=accuracy))


def _accuracy(request: TrainingRequest, model: ToFe, counts: TokenCounts | None, classes: Classes) -> Evaluation | None:
    if request.validation is None:
        return None
    spec = replace(model.backbone.preprocessing, resize=request.validation_resize)
    samples = sample_evenly(find_samples(request.validation, classes.ids), limit=None)
    mode: Mode = "dense" if counts is None else "batch"
    reference = Reference(model.eval(), counts, mode, torch.device("cpu"), model.backbone.preprocessing)
    return evaluate_samples(reference, request.validation, samples, spec)


def _record(
    request: TrainingRequest,
    config: TrainingConfig,
    data: TrainingSet,
    result: TrainingResult,
    measured: MeasuredCounts,
) -> dict[str, Any]:
    """The training record of a checkpoint's header: names of folders, never paths of the machine."""
    gaps = [abs(a - b) for a, b in zip(measured.means, measured.sampled_means)]
    warnings = []
    if max(gaps) > _COUNT_TOLERANCE:
        warnings.append(
            f"sampled and noise-free token counts differ by up to {max(gaps):.1f} tokens: the selectors are not decided everywhere"
        )
    if result.unreadable:
        warnings.append(f"{result.unreadable} times an image could not be read and was left out of its batch")
    return {
        "hyper_parameters": config.to_json(),
        "start": request.weights.name if request.weights else f"timm {request.backbone}",
        "data": [Source.parse(text).folder.resolve().name + f" x{Source.parse(text).repeats}" for text in request.data],
        "images_per_epoch": len(data.train),
        "held_out_images": measured.images,
        "steps": result.steps,
        "mean_kept": [round(mean, 3) for mean in measured.means],
        "mean_kept_sampled": [round(mean, 3) for mean in measured.sampled_means],
        "device": pick_device(request.device).type,
        "torch": str(torch.__version__),
        "warnings": warnings,
    }

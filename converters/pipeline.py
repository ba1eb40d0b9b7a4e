"""One call from a checkpoint to an exported program and its manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Literal

import torch

from converters import executorch
from converters.quantize import Int8Mode, gather_statistics, layers_of, plan_int8, quantize
from converters.selection import select_by_rank, select_by_topk
from converters.sensitivity import MixedPlan, choose_layers
from converters.smoothing import loudest_normalised, smooth_residual
from converters.static_graph import StaticToFe, build_static_graph
from tofe_edge import __version__
from tofe_edge.artifact import DEFAULT_METHOD, Manifest, Method
from tofe_edge.backbones import Backbone, TokenCounts
from tofe_edge.checkpoint import Checkpoint, load_model
from tofe_edge.errors import InputError
from tofe_edge.macs import dense_macs, gmacs, tofe_macs
from tofe_edge.resolution import at_image_size
from tofe_edge.training.counts import fit_counts

_LIBRARIES = ("torch", "executorch", "torchao", "timm")
_BUDGET_TOLERANCE = 0.05
"""Share by which a further budget may be missed: counts are whole tokens, and kept in the checkpoint's proportions."""

_SMOOTHING_IMAGES = 16
"""Enough to tell the loud channels of the residual stream: they are the same in every image."""

_SELECTIONS = {"topk": select_by_topk, "rank": select_by_rank}


@dataclass(frozen=True)
class Calibration:
    """Inputs ``(1, 3, H, W)`` that int8 may look at, and their classes where known."""

    images: tuple[torch.Tensor, ...]
    labels: tuple[int, ...] | None


@dataclass(frozen=True)
class ConvertRequest:
    """What to make."""

    checkpoint: Checkpoint
    target: str
    precision: str
    profile: str | None
    file_name: str
    int8_mode: Int8Mode = "dynamic"
    calibration: Calibration | None = None
    max_accuracy_drop: float | None = None
    """In points, see ``Int8Cost.drop``; layers go back to fp32 until it is met. ``None``: all in int8, cost not measured."""
    further_gmacs: tuple[float, ...] = ()
    """Budgets that the program offers as further methods."""
    batch: int = 1
    image_size: int | None = None
    """Side of the input; ``None`` is the checkpoint's."""
    selection: Literal["topk", "rank"] = "topk"


@dataclass(frozen=True)
class Conversion:
    """The exported program and the manifest that goes beside it."""

    program: bytes
    manifest: Manifest


def convert(request: ConvertRequest) -> Conversion:
    """Build the static graph of a checkpoint, quantize it and lower it.

    Raises:
        InputError: the target or precision is not available, a budget does not fit, or the net cannot be rewritten.
    """
    _check(request)
    checkpoint = request.checkpoint
    model, counts, preprocessing = load_model(checkpoint), checkpoint.token_counts, checkpoint.preprocessing
    if request.image_size is not None and request.image_size != preprocessing.image_size:
        resized = at_image_size(model, counts, preprocessing, request.image_size)
        model, counts, preprocessing = resized.model, resized.counts, resized.preprocessing
    spec = model.backbone.spec
    graph = build_static_graph(model, counts, _SELECTIONS[request.selection])
    budgets = _budgets(spec, counts, request.further_gmacs)
    graph, mixed = _quantized(graph, request)
    lowered = executorch.lower(
        {name: graph if kept is None else graph.with_counts(kept.kept) for name, kept in budgets.items()},
        (request.batch, 3, spec.image_size, spec.image_size),
    )
    default, *further = (_describe(spec, name, budgets[name], lowered.methods[name]) for name in budgets)
    int8 = request.precision == "int8"
    manifest = Manifest(
        artifact=request.file_name,
        sha256=hashlib.sha256(lowered.program).hexdigest(),
        size_bytes=len(lowered.program),
        target=request.target,
        backend="xnnpack",
        precision=request.precision,
        int8_mode=request.int8_mode if int8 else None,
        checkpoint=checkpoint.name,
        checkpoint_sha256=checkpoint.sha256(),
        backbone=spec.name,
        profile=request.profile,
        token_counts=default.token_counts,
        gmacs=default.gmacs,
        delegates=default.delegates,
        fallback_ops=default.fallback_ops,
        planned_memory_bytes=default.planned_memory_bytes,
        further_methods=further,
        batch=request.batch,
        selection=request.selection if counts else None,
        stage_blocks=list(spec.stage_lengths()) if counts else [spec.depth],
        patch_tokens=spec.patch_tokens,
        fp32_layers=sorted(layers_of(graph)) if int8 else [],
        quantization=_report(mixed),
        preprocessing=preprocessing,
        class_names=list(checkpoint.classes.names),
        class_ids=list(checkpoint.classes.ids),
        parity=None,
        versions=_versions(_LIBRARIES),
    )
    return Conversion(lowered.program, manifest)


def _check(request: ConvertRequest) -> None:
    if request.target != "executorch":
        raise InputError(f"target {request.target!r} is not available in this version; use --target executorch")
    if request.precision not in ("fp32", "int8"):
        raise InputError(
            f"precision {request.precision!r}: XNNPACK computes GELU in fp32 alone; use --precision int8 or fp32"
        )
    if request.further_gmacs and request.checkpoint.token_counts is None:
        raise InputError(f"{request.checkpoint.name}: a dense model has one budget; leave --elastic out")
    if request.batch < 1:
        raise InputError(f"batch must be at least 1, not {request.batch}")


def _quantized(graph: StaticToFe, request: ConvertRequest) -> tuple[StaticToFe, MixedPlan | None]:
    if request.precision != "int8":
        return graph, None
    plan = plan_int8(graph, request.int8_mode)
    if request.calibration is None:
        return quantize(graph, plan), None
    images = request.calibration.images
    graph = smooth_residual(graph, loudest_normalised(graph, images[:_SMOOTHING_IMAGES]))
    statistics = gather_statistics(graph, images)
    mixed = None
    if request.max_accuracy_drop is not None:
        mixed = choose_layers(graph, plan, statistics, images, request.calibration.labels, request.max_accuracy_drop)
        plan = mixed.plan
    return quantize(graph, plan, statistics), mixed


def _report(mixed: MixedPlan | None) -> dict[str, Any] | None:
    if mixed is None:
        return None
    return {"cost": mixed.cost.to_json(), "all_int8": mixed.all_int8.to_json(), "fp32_because": mixed.reasons}


def _budgets(spec: Backbone, counts: TokenCounts | None, further: Sequence[float]) -> dict[str, TokenCounts | None]:
    """Token counts by method name, the default first, then from the largest to the smallest."""
    found: dict[str, TokenCounts | None] = {DEFAULT_METHOD: counts}
    if counts is None:
        return found
    for target in sorted(further, reverse=True):
        scaled = fit_counts(counts.kept, spec, target).counts
        reached = gmacs(tofe_macs(spec, scaled.kept))
        if abs(reached / target - 1) > _BUDGET_TOLERANCE:
            low, high = (
                gmacs(tofe_macs(spec, fit_counts(counts.kept, spec, extreme).counts.kept)) for extreme in (1e-9, 1e9)
            )
            raise InputError(
                f"--elastic {target:g}: the nearest that {spec.name} reaches is {reached:.3g} GMACs; choose a budget between "
                f"{low:.3g} and {high:.3g}"
            )
        if scaled != counts:
            found["_".join((DEFAULT_METHOD, *map(str, scaled.kept)))] = scaled
    return found


def _describe(spec: Backbone, name: str, counts: TokenCounts | None, lowered: executorch.LoweredMethod) -> Method:
    macs = dense_macs(spec) if counts is None else tofe_macs(spec, counts.kept)
    return Method(
        name=name,
        token_counts=None if counts is None else list(counts.kept),
        gmacs=round(gmacs(macs), 6),
        delegates=lowered.delegates,
        fallback_ops=lowered.fallback_ops,
        planned_memory_bytes=lowered.planned_memory_bytes,
    )


def _versions(names: Sequence[str]) -> dict[str, str]:
    return {**{name: metadata.version(name) for name in names}, "tofe-edge": __version__}

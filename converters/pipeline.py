"""One call from a checkpoint to an exported program and its manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata

import torch

from converters import executorch
from converters.static_graph import build_static_graph
from tofe_edge import __version__
from tofe_edge.artifact import Manifest
from tofe_edge.checkpoint import Checkpoint, load_model
from tofe_edge.errors import InputError

_LIBRARIES = ("torch", "executorch", "torchao", "timm")


@dataclass(frozen=True)
class ConvertRequest:
    """What to make. ``calibration`` holds inputs ``(1, 3, H, W)``; with it int8 is static, without it dynamic."""

    checkpoint: Checkpoint
    target: str
    precision: str
    profile: str | None
    file_name: str
    calibration: tuple[torch.Tensor, ...] = ()


@dataclass(frozen=True)
class Conversion:
    """The exported program and the manifest that goes beside it."""

    program: bytes
    manifest: Manifest


def convert(request: ConvertRequest) -> Conversion:
    """Build the static graph of a checkpoint and lower it.

    Raises:
        InputError: the target or precision is not available, or the net cannot be rewritten.
    """
    precision = _executorch_precision(request)
    checkpoint = request.checkpoint
    model = load_model(checkpoint)
    spec = model.backbone.spec
    graph = build_static_graph(model, checkpoint.token_counts)
    lowered = executorch.lower(graph, spec.image_size, precision, request.calibration)
    manifest = Manifest(
        artifact=request.file_name,
        sha256=hashlib.sha256(lowered.program).hexdigest(),
        size_bytes=len(lowered.program),
        target=request.target,
        backend="xnnpack",
        precision=request.precision,
        int8_mode=precision.removeprefix("int8-") if request.precision == "int8" else None,
        checkpoint=checkpoint.name,
        checkpoint_sha256=checkpoint.sha256(),
        backbone=spec.name,
        profile=request.profile,
        token_counts=list(checkpoint.token_counts.kept) if checkpoint.token_counts else None,
        stage_blocks=list(spec.stage_lengths()) if checkpoint.token_counts else [spec.depth],
        patch_tokens=spec.patch_tokens,
        gmacs=round(checkpoint.gmacs, 6),
        delegates=lowered.delegates,
        fallback_ops=lowered.fallback_ops,
        fp32_layers=lowered.fp32_layers,
        planned_memory_bytes=lowered.planned_memory_bytes,
        preprocessing=checkpoint.preprocessing,
        class_names=list(checkpoint.classes.names),
        class_ids=list(checkpoint.classes.ids),
        parity=None,
        versions=_versions(_LIBRARIES),
    )
    return Conversion(lowered.program, manifest)


def _executorch_precision(request: ConvertRequest) -> executorch.Precision:
    if request.target != "executorch":
        raise InputError(f"target {request.target!r} is not available in this version; use --target executorch")
    if request.precision == "fp32":
        return "fp32"
    if request.precision == "int8":
        return "int8-static" if request.calibration else "int8-dynamic"
    raise InputError(
        f"precision {request.precision!r}: XNNPACK computes GELU in fp32 alone; use --precision int8 or fp32"
    )


def _versions(names: Sequence[str]) -> dict[str, str]:
    return {**{name: metadata.version(name) for name in names}, "tofe-edge": __version__}

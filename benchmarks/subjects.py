"""The two nets of a comparison, dense and ToFe, from a checkpoint or with random weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.contenders.contender import Pixels, Subject
from benchmarks.host import is_pinned
from tofe_edge.errors import InputError
from tofe_edge.io.inputs import load_photographs, load_unlabelled
from tofe_edge.io.preprocessing import Preprocessing
from tofe_edge.io.tensors import read_tensors
from tofe_edge.model.backbones import TokenCounts, create_backbone
from tofe_edge.model.checkpoint import load_model
from tofe_edge.model.macs import dense_macs, gmacs, tofe_macs
from tofe_edge.model.tofe import ToFe
from tofe_edge.model.zoo import find_checkpoint

CALIBRATION_IMAGES = 32
_CHECK_IMAGES = 8


@dataclass(frozen=True)
class Nets:
    """What is compared, and how it came to be."""

    dense: ToFe
    tofe: ToFe
    counts: TokenCounts
    weights: dict[str, str]
    """The origin of the weights of ``dense`` and ``ToFe`` are from."""

    @property
    def backbone(self) -> str:
        """The backbone's name, without timm's suffix of the published size: ``deit_tiny``."""
        return self.dense.backbone.spec.name.removesuffix("_patch16_224")

    def gmacs(self) -> dict[str, float]:
        """The cost of ``dense`` and ``ToFe`` per image."""
        spec = self.dense.backbone.spec
        return {
            "dense": round(gmacs(dense_macs(spec)), 4),
            "ToFe": round(gmacs(tofe_macs(spec, self.counts.kept)), 4),
        }

    def subjects(self, calibration: tuple[Pixels, ...], threads: int) -> tuple[Subject, Subject]:
        """The dense backbone and the ToFe net."""
        pinned = is_pinned()
        return (
            Subject("dense", self.dense, None, calibration, threads, pinned),
            Subject("ToFe", self.tofe, self.counts, calibration, threads, pinned),
        )


def from_checkpoint(name: str, dense_weights: Path | None) -> Nets:
    """A shipped ToFe checkpoint (or a file) and its dense backbone.

    Raises:
        InputError: there is no such checkpoint, it has no token counts, or the dense weights do not fit.
    """
    checkpoint = find_checkpoint(name)
    if checkpoint.token_counts is None:
        raise InputError(f"checkpoint {name!r} has no token counts: it is a dense backbone, nothing to compare it with")
    dense = _dense(checkpoint.backbone_name, checkpoint.overrides, dense_weights, checkpoint.stages)
    weights = {"dense": _origin(dense_weights), "ToFe": checkpoint.name}
    return Nets(dense, load_model(checkpoint).eval(), checkpoint.token_counts, weights)


def from_backbone(name: str, counts: TokenCounts, dense_weights: Path | None) -> Nets:
    """A backbone with random selectors: latencies do not depend on weights, agreement with the reference does.

    Args:
        name: as of :func:`create_backbone`; ``deit_tiny`` and the like without timm's suffix too.

    Raises:
        InputError: the name is unknown, or counts or weights do not fit.
    """
    if name in ("deit_tiny", "deit_small", "deit_base"):
        name += "_patch16_224"
    dense = _dense(name, {}, dense_weights)
    counts.check(dense.backbone.spec)
    # One net serves both groups: without counts its selectors do not run.
    return Nets(dense, dense, counts, {"dense": _origin(dense_weights), "ToFe": "random selectors"})


def _dense(name: str, overrides: dict[str, int], weights: Path | None, stages: tuple[int, ...] | None = None) -> ToFe:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ToFe(create_backbone(name, overrides, stages=stages))
    if weights is not None:
        model.backbone.load_dense(read_tensors(weights))
    return model.eval()


def _origin(weights: Path | None) -> str:
    return "random" if weights is None else weights.name


def calibration_inputs(folder: Path | None, preprocessing: Preprocessing) -> tuple[tuple[Pixels, ...], str]:
    """At most 32 inputs to calibrate static int8 with, and where they are from."""
    if folder is None:
        inputs = load_photographs(preprocessing)
        return _contiguous(inputs.pixels), inputs.source
    inputs = load_unlabelled(folder, preprocessing, CALIBRATION_IMAGES)
    # The folder's name alone: where it is on one machine says nothing to others.
    return _contiguous(inputs.pixels), f"images of {folder.name}"


def check_inputs(preprocessing: Preprocessing) -> tuple[Pixels, ...]:
    """A handful of inputs to compare logits on: other crops of the photographs than those of the calibration."""
    pixels = load_photographs(preprocessing, seed=1).pixels
    return _contiguous(pixels[:: max(1, len(pixels) // _CHECK_IMAGES)][:_CHECK_IMAGES])


def _contiguous(pixels: Sequence[Pixels]) -> tuple[Pixels, ...]:
    # Native runtimes read strided inputs as if they were dense. Copies, because an axis that numpy added has stride 0,
    # which passes for contiguous and which ExecuTorch's quantized export refuses.
    return tuple(np.array(array, dtype=np.float32, order="C") for array in pixels)


NAMED = {
    # Counts that fall by the same factor per stage, whose whole net has 1.997 GMACs. The paper says that of its DeiT-S at
    # 2.0 of 4.6 GMACs, 2.30 times the dense net's throughput on an RTX 4090, without naming its counts.
    "deit_small_2.0": "deit_small:81,33,13",
}


@dataclass(frozen=True)
class Entry:
    """Dense and ToFe, under the name by which they were asked for."""

    name: str
    nets: Nets


def open_net(text: str) -> Entry:
    """A name of :data:`NAMED`, ``BACKBONE:A,B,C``, a shipped checkpoint's name or a checkpoint file.

    Raises:
        InputError: there is none such, or it has no token counts.
    """
    backbone, colon, counts = NAMED.get(text, text).partition(":")
    if colon and not Path(text).exists():
        return Entry(text, from_backbone(backbone, TokenCounts.parse(counts), None))
    nets = from_checkpoint(text, None)
    return Entry(nets.weights["ToFe"], nets)

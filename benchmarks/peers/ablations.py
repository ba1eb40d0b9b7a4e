"""The paper's ablations: ToFe with other parts (Tables III to V), and how a trained one is run (VI and VII)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers.approximators import DepthWise, Identity, TransformerBlock
from benchmarks.peers.freezing import Freezing
from benchmarks.peers.method import equal
from benchmarks.peers.selectors import ClassAttentionSelector, LocalGlobalSelector, RandomSelector
from tofe_edge.macs import gmacs
from tofe_edge.progress import progress_bar
from tofe_edge.statistics import Interval, top_k_accuracy

BATCHES = (1, 8, 32, 128)


class IdentityToFe(Freezing):
    """Frozen tokens come back as they were."""

    paper = "ToFe, Table IV"
    approximator = Identity


class DepthWiseToFe(Freezing):
    """A depth-wise convolution in place of the bottleneck."""

    paper = "ToFe, Table IV"
    approximator = DepthWise


class TransformerToFe(Freezing):
    """A transformer block in place of the bottleneck."""

    paper = "ToFe, Table IV"
    approximator = TransformerBlock


class LocalGlobalToFe(Freezing):
    """DynamicViT's predictor as the selector."""

    paper = "ToFe, Table III"
    selector = LocalGlobalSelector


class ClassAttentionToFe(Freezing):
    """CLS attention as the selector; counts fall by the same factor a stage."""

    paper = "ToFe, Table III"
    selector = ClassAttentionSelector


class RandomToFe(Freezing):
    """Random tokens, with ToFe's reuse and approximators; counts fall by the same factor a stage."""

    paper = "random selection"
    selector = RandomSelector


class EqualToFe(Freezing):
    """The same count in all stages, held by DynamicViT's loss."""

    paper = "ToFe, Table V"
    learns_counts = False

    @staticmethod
    def shares(ratio: float) -> Sequence[float]:
        return equal(ratio)


class GeometricToFe(Freezing):
    """Counts that fall by the same factor a stage, held by DynamicViT's loss."""

    paper = "ToFe, Table V"
    learns_counts = False


class GivenToFe(Freezing):
    """Counts given, and no masked steps: selectors learn by guidance alone, as those of the shipped checkpoints did."""

    paper = "ToFe, Table V"
    learns_counts = False

    @property
    def selects(self) -> bool:
        return False

    @staticmethod
    def shares(ratio: float) -> Sequence[float]:
        """In the proportions of (82, 68, 43), which did best of those tried at 0.63 GMACs."""
        return ratio, ratio * 68 / 82, ratio * 43 / 82


@dataclass(frozen=True)
class BatchRow:
    """A line of Table VI."""

    batch: int
    top1: Interval
    gmacs: float
    """Mean over images."""


@torch.inference_mode()
def accuracy_by_batch(
    method: Freezing, stems: Tensor, labels: Tensor, batches: Sequence[int] = BATCHES
) -> list[BatchRow]:
    """Accuracy where each batch keeps as many tokens as its images want on average: instance-adaptive for a batch of 1."""
    rows = []
    for batch in batches:
        logits, costs = [], []
        with progress_bar(f"batches of {batch}", total=len(stems), unit="image") as bar:
            for images in stems.split(batch):
                inference = method.gathered_from(images, wanted_count).inference
                logits.append(inference.logits)
                kept = [index.shape[1] for index in inference.kept]
                costs.append(len(images) * gmacs(method.macs_of(kept)))
                bar.update(len(images))
        top1 = top_k_accuracy(torch.cat(logits).numpy(), labels.numpy())
        rows.append(BatchRow(batch, top1, sum(costs) / len(stems)))
    return rows


def wanted_count(stage: int, scores: Tensor) -> int:
    """Mean number of tokens with a positive score in a batch ``(B, N)``, rounded half up; at least one."""
    del stage
    return max(1, math.floor(float((scores > 0).sum(dim=1).double().mean()) + 0.5))


@dataclass(frozen=True)
class ReuseRow:
    """A line of Table VII: means over images."""

    stage: int
    """From 2 on."""
    kept: float
    reused: float

    @property
    def share(self) -> float:
        """Of the kept tokens."""
        return self.reused / self.kept


@torch.inference_mode()
def reuse_by_stage(method: Freezing, stems: Tensor, batch: int = 100) -> list[ReuseRow]:
    """How many of a stage's tokens an earlier one had frozen, with the method's own counts."""
    reused = np.zeros(len(method.counts))
    for images in stems.split(batch):
        frozen = torch.zeros(len(images), method.spec.patch_tokens, dtype=torch.bool)
        for stage, index in enumerate(method.gathered_from(images).inference.kept):
            mask = torch.zeros_like(frozen).scatter(1, index, True)
            reused[stage] += int((mask & frozen).sum())
            frozen |= ~mask
    return [
        ReuseRow(stage + 1, float(method.counts[stage]), float(reused[stage] / len(stems)))
        for stage in range(1, len(method.counts))
    ]

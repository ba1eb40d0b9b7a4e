"""How a trained ToFe is run: the paper's Tables VI and VII."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from research.freezing import Freezing
from tofe_edge.evaluation.statistics import Interval, top_k_accuracy
from tofe_edge.io.progress import progress_bar
from tofe_edge.model.macs import gmacs

BATCHES = (1, 8, 32, 128)


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
        """Reused tokens as a share of the kept ones."""
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

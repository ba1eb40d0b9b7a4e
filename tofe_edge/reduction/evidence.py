"""What the dense net does with the images that a reduction is fitted to and judged on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tofe_edge.io.progress import progress_bar
from tofe_edge.model.backbones import BackboneAdapter
from tofe_edge.training.losses import distillation_loss

BATCH = 16
"""Images that run at once: more are not faster on a CPU, and attention maps of a few fit its cache."""


@dataclass(frozen=True)
class Evidence:
    """The dense net on B images.

    Attributes:
        embedded: ``(B, P + N, D)``, the input of block 0.
        importance: ``(B, depth, N)``, how much attention each patch token receives in each block.
        states: patch tokens ``(b, depth + 1, N, D)`` at the input of each block, and behind the last, of the first b images;
            in half precision.
        logits: ``(B, classes)``.
    """

    embedded: Tensor
    importance: Tensor
    states: Tensor
    logits: Tensor

    def __len__(self) -> int:
        return len(self.embedded)

    def future_importance(self, block: int) -> Tensor:
        """The attention that each token receives from ``block`` on: ``(B, N)``."""
        return self.importance[:, block:].sum(dim=1)

    def part(self, images: slice) -> Evidence:
        """Some of the images; ``states`` of those that have some."""
        return Evidence(self.embedded[images], self.importance[images], self.states[images], self.logits[images])


@torch.inference_mode()
def examine(backbone: BackboneAdapter, images: Tensor, with_states: int) -> Evidence:
    """Run the dense net on images ``(B, 3, H, W)``; states are kept of the first ``with_states``."""
    prefix, depth = backbone.spec.prefix_tokens, backbone.spec.depth
    parts: list[Sequence[Tensor]] = []
    states: list[Tensor] = []
    with progress_bar("dense net", total=len(images), unit="image") as bar:
        for start in range(0, len(images), BATCH):
            tokens = embedded = backbone.embed(images[start : start + BATCH])
            received, stream = [], [tokens[:, prefix:].half()]
            for index in range(depth):
                received.append(backbone.attention_received(index, tokens))
                tokens = backbone.block(index, tokens)
                stream.append(tokens[:, prefix:].half())
            parts.append((embedded, torch.stack(received, dim=1), backbone.logits(tokens)))
            if start < with_states:
                states.append(torch.stack(stream, dim=1)[: with_states - start])
            bar.update(len(embedded))
    embedded, importance, logits = (torch.cat(part) for part in zip(*parts, strict=True))
    return Evidence(embedded, importance, torch.cat(states), logits)


def divergence(logits: Tensor, dense: Tensor) -> float:
    """Mean Kullback-Leibler divergence of predictions from the dense net's, in nats; logits ``(B, classes)``."""
    return float(distillation_loss(logits, dense))


def agreement(logits: Tensor, dense: Tensor) -> float:
    """Percentage of images on which the best class is the dense net's."""
    return 100 * float((logits.argmax(dim=1) == dense.argmax(dim=1)).double().mean())

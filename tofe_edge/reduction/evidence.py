"""What the dense net does with the images that a reduction is fitted to and judged on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
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
        outputs: logits ``(B, classes)``, or embeddings ``(B, D)`` of a net without a head.
        classifies: whether outputs are logits.
    """

    embedded: Tensor
    importance: Tensor
    states: Tensor
    outputs: Tensor
    classifies: bool = True

    def __len__(self) -> int:
        return len(self.embedded)

    def future_importance(self, block: int) -> Tensor:
        """The attention that each token receives from ``block`` on: ``(B, N)``."""
        return self.importance[:, block:].sum(dim=1)

    def part(self, images: slice) -> Evidence:
        """Some of the images; ``states`` of those that have some."""
        return replace(
            self,
            embedded=self.embedded[images],
            importance=self.importance[images],
            states=self.states[images],
            outputs=self.outputs[images],
        )

    def divergence(self, outputs: Tensor) -> float:
        """How far outputs are from the dense net's, see :func:`distance`."""
        return float(distance(outputs, self.outputs, self.classifies))

    def agreement(self, outputs: Tensor) -> float:
        """Percentage of images with the dense net's best class; of embeddings, with its nearest neighbour among the images."""
        ours, dense = (one if self.classifies else _similarities(one) for one in (outputs, self.outputs))
        return 100 * float((ours.argmax(dim=1) == dense.argmax(dim=1)).double().mean())


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
    embedded, importance, outputs = (torch.cat(part) for part in zip(*parts, strict=True))
    return Evidence(embedded, importance, torch.cat(states), outputs, backbone.spec.classes > 0)


def distance(outputs: Tensor, dense: Tensor, classifies: bool) -> Tensor:
    """Mean distance of outputs from the dense net's.

    Of logits ``(B, classes)`` the Kullback-Leibler divergence of the predictions, in nats; of embeddings ``(B, D)`` one less
    the cosine.
    """
    return distillation_loss(outputs, dense) if classifies else (1 - F.cosine_similarity(outputs, dense)).mean()


def _similarities(embeddings: Tensor) -> Tensor:
    """Cosines ``(B, B)`` of embeddings; an image is not its own neighbour."""
    directions = F.normalize(embeddings, dim=1)
    return (directions @ directions.T).fill_diagonal_(-2.0)

"""What ranks tokens: ToFe's MLP, DynamicViT's predictor, CLS attention, chance (Table III)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from research.anatomy import class_attention, class_attention_macs
from tofe_edge.model.backbones import Backbone
from tofe_edge.model.backbones.timm_vit import TimmVit
from tofe_edge.model.macs import Number, selector_macs
from tofe_edge.model.tofe import KEEP, TokenSelector


@dataclass(frozen=True)
class Scene:
    """What a selector may look at."""

    backbone: TimmVit
    stage: int
    """0-based."""
    tokens: Tensor
    """``(B, 1 + n, D)`` at the selection."""
    stem: Tensor
    """``(B, 1 + N, D)`` at the first one."""


class Selector(nn.Module, ABC):
    """One stage's."""

    learned: ClassVar[bool] = True

    @abstractmethod
    def score(self, scene: Scene) -> Tensor:
        """How much each patch token is wanted: ``(B, n)``."""

    @abstractmethod
    def macs(self, tokens: Number, spec: Backbone) -> Number:
        """For ``tokens`` patch tokens."""


class LearnedSelector(Selector):
    """Decides between keep and freeze, so that it can be learned with masks drawn from its decisions."""

    @abstractmethod
    def decide(self, patches: Tensor, present: Tensor | None = None) -> Tensor:
        """Patch tokens ``(B, n, D)`` to logits ``(B, n, 2)``; ``present`` ``(B, n)`` marks those not gone for good."""

    def score(self, scene: Scene) -> Tensor:
        logits = self.decide(scene.tokens[:, 1:])
        return logits[..., KEEP] - logits[..., 1 - KEEP]


class MlpSelector(LearnedSelector):
    """ToFe's: each token by itself."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.net = TokenSelector(dim)

    def decide(self, patches: Tensor, present: Tensor | None = None) -> Tensor:
        del present
        logits: Tensor = self.net(patches)
        return logits

    def macs(self, tokens: Number, spec: Backbone) -> Number:
        return selector_macs(tokens, spec.dim)


class LocalGlobalSelector(LearnedSelector):
    """DynamicViT's: half of a token's features beside the mean over all tokens of the other half."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.features = nn.Linear(dim, dim)
        self.fc1 = nn.Linear(dim, dim // 2)
        self.fc2 = nn.Linear(dim // 2, dim // 4)
        self.fc3 = nn.Linear(dim // 4, 2)

    def decide(self, patches: Tensor, present: Tensor | None = None) -> Tensor:
        local, own = F.gelu(self.features(self.norm(patches))).chunk(2, dim=-1)
        if present is None:
            context = own.mean(dim=1, keepdim=True)
        else:
            weights = present[..., None]
            context = (own * weights).sum(dim=1, keepdim=True) / weights.sum(dim=1, keepdim=True).clamp(min=1e-6)
        joined = torch.cat((local, context.expand_as(own)), dim=-1)
        out: Tensor = self.fc3(F.gelu(self.fc2(F.gelu(self.fc1(joined)))))
        return out

    def macs(self, tokens: Number, spec: Backbone) -> Number:
        return tokens * spec.dim**2 + selector_macs(tokens, spec.dim)


class ClassAttentionSelector(Selector):
    """CLS attention of the block that follows, over all tokens; nothing is learned."""

    learned = False

    def __init__(self, dim: int) -> None:
        super().__init__()

    def score(self, scene: Scene) -> Tensor:
        with torch.no_grad():
            return class_attention(scene.backbone, scene.backbone.spec.stages[scene.stage], scene.tokens)

    def macs(self, tokens: Number, spec: Backbone) -> Number:
        del tokens  # it looks at all of them
        return class_attention_macs(spec)


class RandomSelector(Selector):
    """Chance: another order for each image and stage, always the same one for the same image."""

    learned = False

    def __init__(self, dim: int) -> None:
        super().__init__()

    def score(self, scene: Scene) -> Tensor:
        bits = scene.stem[:, 0].detach().half().cpu().numpy().view(np.uint16).astype(np.uint64)
        drawn = chance(bits, scene.stage, scene.tokens.shape[1] - 1)
        return torch.from_numpy(drawn).to(scene.tokens)

    def macs(self, tokens: Number, spec: Backbone) -> Number:
        del tokens, spec
        return 0


def chance(images: npt.NDArray[np.uint64], stage: int, tokens: int) -> npt.NDArray[np.float64]:
    """Numbers ``(B, tokens)`` in [0, 1) that follow from an image's content ``(B, D)`` and the stage.

    A hash in place of a generator: in whatever batch an image comes, its numbers are the same.
    """
    with np.errstate(over="ignore"):
        places = _mix(np.arange(1, images.shape[1] + 1, dtype=np.uint64))
        image = _mix((_mix(images + places)).sum(axis=1, dtype=np.uint64))
        # In each dimension its own range of numbers, far apart.
        item = np.arange(tokens, dtype=np.uint64) + np.uint64(stage << 32)
        return (_mix(image[:, None] ^ _mix(item)) >> np.uint64(11)).astype(np.float64) / 2**53


def _mix(numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finalizer of SplitMix64 (Steele, Lea and Flood 2014)."""
    numbers = numbers + np.uint64(0x9E3779B97F4A7C15)
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))

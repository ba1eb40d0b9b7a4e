"""Every hyper-parameter of a training run, in one frozen record that ends up in the checkpoint's header."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from tofe_edge.errors import InputError
from tofe_edge.model.backbones.spec import TokenCounts


@dataclass(frozen=True)
class Augmentation:
    """What a crop is drawn with."""

    crop_scale: float
    """Least share of an image's area."""
    cutmix: float = 0.0
    """Share of a batch's crops that get a rectangle of another one."""


@dataclass(frozen=True)
class TrainingConfig:
    """Defaults follow the paper (Section VI-A) where it speaks; see the fields for what it leaves open."""

    target_gmacs: float | None = None
    """Whole-net budget, in 1e9 multiply-accumulates. Either this or the next."""
    target_ms: float | None = None
    """Whole-net budget, in milliseconds that a device's latency table predicts."""
    latency_table: str | None = None
    """Which table that is: its fingerprint, so that a run does not go on with another one."""
    epochs: float = 30.0
    fixed_epochs: float = 5.0
    """The backbone is fixed for the first of these epochs."""
    batch_size: int = 32
    learning_rate: float = 1e-4
    """Of selectors and approximators, after warm-up; decays to ``final_learning_rate`` along a cosine."""
    backbone_learning_rate: float = 1e-4
    """Of the backbone once it is free (paper: the same; DynamicViT's recipe: a hundredth)."""
    gathered_epochs: float = 0.0
    """Of all epochs, the last ones, with the token counts fixed: blocks and approximators are trained in the form that is
    exported, frozen tokens left out, at the same learning rates along a second cosine; 0 is the paper's recipe. The budget is met
    already, and a step costs a fraction."""
    token_counts: str | None = None
    """Of those epochs, such as ``"118,98,61"``; ``None``: what the selectors have learned to keep."""
    final_learning_rate: float = 2e-6
    weight_decay: float = 0.05
    """On matrices only. Not in the paper; the recipe of the family."""
    cls_weight: float = 1.0
    approximation_weight: float = 2.0
    budget_weight: float = 5.0
    """Of a gap in GMACs, squared. A gap in milliseconds weighs as much as the same share of the dense net's GMACs."""
    distillation_weight: float = 0.0
    """Of the KL divergence to the dense teacher's logits; 0 is the paper's recipe."""
    guidance_weight: float = 0.0
    """Of the selectors' gap to the attention that the dense model pays from each stage on; 0 is the paper's recipe. Drawn
    samples alone teach selectors slowly: after some hundred steps they hardly tell tokens apart."""
    budget: Literal["per_sample", "per_batch"] = "per_sample"
    """Eq. 14 squares each sample's gap; ``per_batch`` squares the gap of the batch mean."""
    noise_decay_start: float = 1.0
    """Share of the steps that mask tokens (all before the gathered epochs) after which the Gumbel noise falls linearly to
    zero, reached halfway through what is left of them; 1 keeps it to the end (the paper says nothing). With the noise on
    to the end, selectors of a short run stay undecided: the counts sampled in training and those without noise differ by
    20 tokens, and the net never sees the selection that it will run with."""
    views: int = 0
    """Crops prepared once and drawn from in every epoch; 0 draws fresh crops. See ``tofe_edge.training.views``."""
    crop_scale: float = 0.35
    """Least share of an image's area in a random crop."""
    cutmix: float = 0.0
    """Share of the crops that get a rectangle of another one; for distillation alone, as no label fits them."""
    gradient_clip: float = 5.0
    seed: int = 0
    held_out: int = 256
    """Images kept out of training, on which token counts are measured at the end."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise InputError(f"training: {name} must be a finite number, not {value}")
        if not 0 <= self.seed < 2**31:
            raise InputError(f"training: seed must lie in [0, 2^31), not {self.seed}")
        targets = [name for name in ("target_gmacs", "target_ms") if getattr(self, name) is not None]
        if len(targets) != 1:
            raise InputError("training: a run has one target, either target_gmacs or target_ms")
        if self.latency_table is not None and self.target_ms is None:
            raise InputError("training: latency_table is for a target in milliseconds, and this one is in GMACs")
        if self.token_counts is not None:
            TokenCounts.parse(self.token_counts)
            if not self.gathered_epochs:
                raise InputError("training: token_counts are for gathered epochs, and there are none")
        positive = (
            "epochs",
            "batch_size",
            "learning_rate",
            "backbone_learning_rate",
            "gradient_clip",
        )
        for name in (*targets, *positive):
            if not getattr(self, name) > 0:
                raise InputError(f"training: {name} must be greater than 0, not {getattr(self, name)}")
        weights = (
            "cls_weight",
            "approximation_weight",
            "budget_weight",
            "distillation_weight",
            "guidance_weight",
            "weight_decay",
        )
        for name in (*weights, "fixed_epochs", "gathered_epochs", "views", "held_out", "final_learning_rate"):
            if getattr(self, name) < 0:
                raise InputError(f"training: {name} must not be negative, not {getattr(self, name)}")
        if not 0 <= self.cutmix <= 1:
            raise InputError(f"training: cutmix must lie in [0, 1], not {self.cutmix}")
        if self.cutmix and self.cls_weight:
            raise InputError("training: no label fits an image that cutmix mixed; set cls_weight to 0 and distil")
        for name in ("crop_scale", "noise_decay_start"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(f"training: {name} must lie in (0, 1], not {getattr(self, name)}")

    @property
    def augmentation(self) -> Augmentation:
        """What crops are drawn with."""
        return Augmentation(self.crop_scale, self.cutmix)

    def to_json(self) -> dict[str, Any]:
        """All fields that are set, for the checkpoint's header."""
        return {name: value for name, value in asdict(self).items() if value is not None}

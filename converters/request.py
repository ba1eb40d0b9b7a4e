"""What to convert, and into what."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from tofe_edge import __version__
from tofe_edge.converters.quantize import Int8Mode
from tofe_edge.errors import InputError, require
from tofe_edge.io.artifact import MOST_IMAGES, OUTPUTS
from tofe_edge.io.preprocessing import Preprocessing
from tofe_edge.io.targets import Precision, Target
from tofe_edge.model.backbones import Backbone, TokenCounts
from tofe_edge.model.backbones.spec import Output
from tofe_edge.model.checkpoint import Checkpoint
from tofe_edge.model.tofe import ToFe

Selection = Literal["topk", "rank"]


@dataclass(frozen=True)
class Calibration:
    """Inputs ``(1, 3, H, W)`` that quantization may look at, and their classes if known."""

    images: tuple[torch.Tensor, ...]
    labels: tuple[int, ...] | None


@dataclass(frozen=True)
class ConvertRequest:
    """What to make."""

    checkpoint: Checkpoint
    target: Target
    precision: str
    profile: str | None
    file_name: str
    int8_mode: Int8Mode = "dynamic"
    """Read if the precision is int8."""
    calibration: Calibration | None = None
    max_accuracy_drop: float | None = None
    """In points, see ``Int8Cost.drop``; layers go back to float until it is met. ``None``: all quantized, cost not measured."""
    further_gmacs: tuple[float, ...] = ()
    """Budgets that the model offers as further methods."""
    batch: int = 1
    image_size: int | None = None
    """Side of the input; ``None`` is the checkpoint's."""
    selection: Selection = "topk"
    reproducible: bool = False
    """The same bytes on every CPU, see :mod:`tofe_edge.converters.reproducible`; not every target can."""
    token_counts: TokenCounts | None = None
    """In place of the checkpoint's own."""
    options: Any = None
    """The target's own, of :meth:`Target.options_from`."""
    output: Output = "logits"
    """What the model gives first."""
    normalize: bool = False
    """Give an embedding the length 1."""

    @property
    def counts(self) -> TokenCounts | None:
        """Patch tokens kept per stage, at the checkpoint's image size; ``None`` for a dense model."""
        return self.token_counts or self.checkpoint.token_counts

    @property
    def storage(self) -> Precision:
        """How weights are stored."""
        return self.target.precisions[self.precision]

    @property
    def quantizes(self) -> bool:
        """Whether weights are stored in less than 16 bits."""
        return self.storage.quantizes

    def check(self) -> ConvertRequest:
        """Return this request. Raises :class:`InputError` if the target does not have what it asks for."""
        target = self.target
        if self.precision not in target.precisions:
            raise InputError(
                f"precision {self.precision!r} for {target.name}: {target.precision_hint}use one of "
                f"{', '.join(target.precisions)}"
            )
        modes = self.storage.int8_modes
        if modes and self.int8_mode not in modes:
            raise InputError(f"--int8-mode {self.int8_mode} for {target.name}: use one of {', '.join(modes)}")
        if self.selection not in target.selections:
            raise InputError(
                f"--selection {self.selection} for {target.name}: use one of {', '.join(target.selections)}"
            )
        if self.token_counts is not None and self.checkpoint.token_counts is None:
            raise InputError(f"{self.checkpoint.name}: a dense model keeps all tokens; leave token counts out")
        if self.further_gmacs and self.checkpoint.token_counts is None:
            raise InputError(f"{self.checkpoint.name}: a dense model has one budget; leave --elastic out")
        if not 1 <= self.batch <= MOST_IMAGES:
            raise InputError(f"batch must be at least 1 and at most {MOST_IMAGES}, not {self.batch}")
        require(self.output in OUTPUTS, f"--output {self.output}: is not one of {', '.join(OUTPUTS)}")
        require(
            self.output != "logits" or bool(self.checkpoint.classes.ids),
            f"--output logits: {self.checkpoint.name} has no head; use --output embedding or features",
        )
        require(
            not self.normalize or self.output == "embedding",
            f"--normalize: is for --output embedding, not for {self.output}; leave it out",
        )
        target.check(self)
        return self


@dataclass(frozen=True)
class Build:
    """A request with the net that it is made from, at its input size: what a target's functions are given."""

    request: ConvertRequest
    model: ToFe
    preprocessing: Preprocessing
    budgets: Mapping[str, TokenCounts | None]
    """Token counts by method name, the default first; ``None`` for the dense net."""
    images: tuple[torch.Tensor, ...] = ()
    """Calibration inputs as the target's graph takes them."""

    @property
    def backbone(self) -> Backbone:
        """The net's dimensions."""
        return self.model.backbone.spec

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """``(B, 3, H, W)``."""
        return (self.request.batch, 3, self.backbone.image_size, self.backbone.image_size)

    @property
    def notes(self) -> dict[str, str]:
        """What a model file says of itself; the manifest beside it, which holds the file's checksum, says more."""
        request = self.request
        return {
            "tofe_edge.checkpoint": request.checkpoint.name,
            "tofe_edge.checkpoint_sha256": request.checkpoint.sha256(),
            "tofe_edge.backbone": self.backbone.name,
            "tofe_edge.precision": request.precision,
            "tofe_edge.profile": request.profile or "",
            "tofe_edge.preprocessing": json.dumps(self.preprocessing.to_json(), sort_keys=True),
            "tofe_edge.version": __version__,
        }

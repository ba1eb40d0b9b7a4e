"""What to convert, and into what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from tofe_edge.converters.quantize import Int8Mode
from tofe_edge.errors import InputError
from tofe_edge.model.backbones import TokenCounts
from tofe_edge.model.checkpoint import Checkpoint
from tofe_edge.profiles.schema import DEPLOYMENT_TARGETS

Target = Literal["executorch", "coreml"]
Selection = Literal["topk", "rank"]
Layout = Literal["tokens_first", "channels_first"]

PALETTE_BITS = {"pal6": 6, "pal4": 4}

_EXACT_IN_FLOAT16 = 2048

_PRECISIONS = {"executorch": ("fp32", "int8"), "coreml": ("fp32", "fp16", "int8", "pal6", "pal4")}
_INT8_MODES = {"executorch": ("dynamic", "static"), "coreml": ("weights", "static")}


@dataclass(frozen=True)
class Calibration:
    """Inputs ``(1, 3, H, W)`` that quantization may look at, and their classes where known."""

    images: tuple[torch.Tensor, ...]
    labels: tuple[int, ...] | None


@dataclass(frozen=True)
class CoreMlRequest:
    """What only a Core ML package has."""

    deployment_target: str
    io: Literal["image", "tensor"] = "image"
    layout: Layout = "tokens_first"
    float32_selectors: bool = False
    author: str = ""
    license: str = ""


@dataclass(frozen=True)
class ConvertRequest:
    """What to make."""

    checkpoint: Checkpoint
    target: Target
    precision: str
    profile: str | None
    file_name: str
    int8_mode: Int8Mode = "dynamic"
    """Read where the precision is int8."""
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
    """The same bytes on every CPU, see :mod:`tofe_edge.converters.reproducible`; XNNPACK, fp32 or static int8."""
    token_counts: TokenCounts | None = None
    """In place of the checkpoint's own."""
    coreml: CoreMlRequest | None = None
    """Set where the target is ``coreml``, or ExecuTorch hands the net to Core ML."""

    @property
    def counts(self) -> TokenCounts | None:
        """Patch tokens kept a stage, at the checkpoint's image size; ``None`` for a dense model."""
        return self.token_counts or self.checkpoint.token_counts

    @property
    def delegated(self) -> bool:
        """Whether Core ML computes within an ExecuTorch program."""
        return self.target == "executorch" and self.coreml is not None

    @property
    def quantizes(self) -> bool:
        """Whether weights are stored in less than 16 bits."""
        return self.precision == "int8" or self.precision in PALETTE_BITS

    def check(self) -> ConvertRequest:
        """This request. Raises :class:`InputError` where the target does not have what it asks for."""
        computes_on = "coreml" if self.coreml else "executorch"
        precisions, modes = _PRECISIONS[computes_on], _INT8_MODES[computes_on]
        if self.precision not in precisions:
            reason = "" if self.coreml else "XNNPACK computes GELU in fp32 alone; "
            raise InputError(
                f"precision {self.precision!r} for {computes_on}: {reason}use one of {', '.join(precisions)}"
            )
        if self.precision == "int8" and self.int8_mode not in modes:
            raise InputError(f"--int8-mode {self.int8_mode} for {computes_on}: use one of {', '.join(modes)}")
        if self.reproducible:
            self._check_reproducible()
        if self.token_counts is not None and self.checkpoint.token_counts is None:
            raise InputError(f"{self.checkpoint.name}: a dense model keeps all tokens; leave token counts out")
        if self.further_gmacs and self.checkpoint.token_counts is None:
            raise InputError(f"{self.checkpoint.name}: a dense model has one budget; leave --elastic out")
        if self.batch < 1:
            raise InputError(f"batch must be at least 1, not {self.batch}")
        if self.delegated:
            self._check_delegated()
        if self.coreml is not None and self.batch > 1:
            raise InputError(
                "--batch: a Core ML package takes one image a run; hand it several with MLArrayBatchProvider"
            )
        if self.coreml is not None:
            if self.coreml.float32_selectors and self.precision == "fp32":
                raise InputError("--float32-selectors: at --precision fp32 everything is; leave it out")
            self._check_system(self.coreml.deployment_target)
        assert self.coreml is not None or self.target != "coreml", "a package needs the options of Core ML"
        return self

    def check_tokens(self, patch_tokens: int) -> None:
        """Refuse ranks that the computation cannot count. Raises :class:`InputError`."""
        halves = self.coreml is not None and self.precision != "fp32"
        if halves and self.selection == "rank" and patch_tokens > _EXACT_IN_FLOAT16:
            raise InputError(
                f"{patch_tokens} tokens cannot be ranked: float16 counts to {_EXACT_IN_FLOAT16}; use --selection topk or "
                "--precision fp32"
            )

    def _check_reproducible(self) -> None:
        if self.coreml is not None:
            raise InputError(
                "--reproducible: Core ML chooses processor and rounding itself; use XNNPACK (--target executorch)"
            )
        if self.precision == "int8" and self.int8_mode != "static":
            raise InputError(
                "--reproducible: XNNPACK rounds dynamic int8 differently where a CPU has dot products; use --int8-mode static"
            )

    def _check_delegated(self) -> None:
        """ExecuTorch converts the net itself, and stores each method with weights of its own."""
        assert self.coreml is not None
        if self.further_gmacs:
            raise InputError("--elastic: with --backend coreml each budget stores all weights; use --target coreml")
        if self.precision in PALETTE_BITS or self.coreml.float32_selectors:
            raise InputError("--backend coreml has no palettes and no --float32-selectors; use --target coreml")

    def _check_system(self, target: str) -> None:
        if target not in DEPLOYMENT_TARGETS:
            raise InputError(f"--deployment-target {target!r} is not one of {', '.join(DEPLOYMENT_TARGETS)}")
        needs = {"several budgets in one package": "iOS18"} if self.further_gmacs else {}
        if self.precision == "int8":
            # Before it, coremltools 9.0 has no int8 zero points.
            needs["int8 weights"] = "iOS17"
        for what, needed in needs.items():
            if DEPLOYMENT_TARGETS.index(target) < DEPLOYMENT_TARGETS.index(needed):
                raise InputError(f"{what} need {needed}, not {target}; add --deployment-target {needed}")

"""The dense net on smaller images: what needs no method at all."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from research.method import Method, Step, taught
from tofe_edge.errors import InputError
from tofe_edge.model.backbones import BackboneAdapter
from tofe_edge.model.macs import dense_macs, gmacs


class LowerResolution(Method):
    """Images are made smaller until the dense net costs what it may; all of its blocks are trained.

    Sizes are multiples of the patch, so the budget is met as nearly as they allow.
    """

    paper = "the dense net at a lower resolution"
    from_images = True

    def __init__(self, host: BackboneAdapter, target_gmacs: float) -> None:
        super().__init__(_nearest(host, target_gmacs))
        self.requires_grad_(True)

    def infer(self, stem: Tensor) -> Tensor:
        raise InputError(f"{type(self).__name__}: starts from images of {self.image_size} pixels, not from tokens")

    def infer_images(self, images: Tensor) -> Tensor:
        tokens = self.backbone.embed(images)
        for index in range(self.spec.depth):
            tokens = self.backbone.block(index, tokens)
        return self.backbone.logits(tokens)

    def losses(self, step: Step) -> dict[str, Tensor]:
        assert step.batch.images is not None
        return taught(self.infer_images(step.batch.images), step)

    def macs(self) -> int:
        return dense_macs(self.spec)

    def describe(self) -> str:
        return f"{self.image_size} px"


def _nearest(host: BackboneAdapter, target_gmacs: float) -> BackboneAdapter:
    spec, patch = host.spec, host.spec.stem[-1].downsampling
    sizes = range(2 * patch, spec.image_size, patch)
    if not sizes:
        raise InputError(f"{spec.name}: there is no smaller image of at least two patches a side")
    smaller = [replace(spec, image_size=size, patch_tokens=(size // patch) ** 2) for size in sizes]
    best = min(smaller, key=lambda net: abs(gmacs(dense_macs(net)) - target_gmacs))
    return host.resized(best.image_size)

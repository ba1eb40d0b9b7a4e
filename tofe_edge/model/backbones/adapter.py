"""What ToFe asks of a dense vision transformer. One implementation for timm, one for LV-ViT."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn

from tofe_edge.errors import InputError
from tofe_edge.io.preprocessing import Preprocessing
from tofe_edge.model.backbones.spec import Backbone, Output


class BackboneAdapter(nn.Module, ABC):
    """A dense vision transformer taken apart where ToFe needs to reach in.

    Shapes: B images, P prefix tokens (CLS first if there is one, then any distillation or register tokens), N patch
    tokens, D channels. Token tensors are ``(B, P + n, D)`` with the prefix in front.
    """

    spec: Backbone
    preprocessing: Preprocessing

    @abstractmethod
    def embed(self, images: Tensor) -> Tensor:
        """Images ``(B, 3, H, W)`` to tokens ``(B, P + N, D)``, position embedding added."""

    @abstractmethod
    def block(self, index: int, tokens: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Run block ``index`` as the dense model does.

        ``sizes`` ``(B, P + n)``: how many tokens each one stands for. Attention weighs a token by its size, as if all
        of them were there (proportional attention of ToMe, arXiv 2210.09461). ``None``: 1 each.
        """

    @abstractmethod
    def attention_received(self, index: int, tokens: Tensor) -> Tensor:
        """How much block ``index`` attends to each patch token: ``(B, n)``.

        What CLS pays it (if the head reads CLS), plus the mean of what all tokens pay it; mean over heads.
        """

    @abstractmethod
    def masked_block(self, index: int, tokens: Tensor, keep: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Run block ``index`` with masked attention; ``keep`` is ``(B, P + N)``, 1 for the prefix; ``sizes`` as above."""

    @abstractmethod
    def features(self, tokens: Tensor) -> Tensor:
        """Patch tokens ``(B, n, D)`` of the last block's, behind the last norm."""

    @abstractmethod
    def pooled(self, tokens: Tensor) -> Tensor:
        """What the head reads of the last block's tokens: ``(B, D)``, behind all norms.

        Patch tokens are read if ``spec.pool`` says so; all of them are to be there then, in any order.
        """

    @abstractmethod
    def logits(self, tokens: Tensor, keep: Tensor | None = None) -> Tensor:
        """Class scores ``(B, classes)`` of the last block's tokens; what is pooled if the net has no head.

        ``keep`` ``(B, n)`` marks the patch tokens that count if some are only masked; ``None``: all. It is read by a head
        that looks at kept patch tokens alone (LV-ViT's).
        """

    def read(self, output: Output, tokens: Tensor, keep: Tensor | None = None) -> Tensor:
        """One output of the last block's tokens; ``keep`` as in :meth:`logits`."""
        if output == "features":
            return self.features(tokens)
        return self.pooled(tokens) if output == "embedding" else self.logits(tokens, keep)

    @abstractmethod
    def load_dense(self, weights: Mapping[str, Tensor]) -> None:
        """Load the dense model's own state dict, strictly.

        Raises:
            InputError: a key is missing, unknown or of another shape.
        """

    def resized(self, image_size: int) -> BackboneAdapter:
        """The same net with the same weights for inputs ``(B, 3, image_size, image_size)``, in eval mode.

        The position embedding of the patch tokens is interpolated; that of the prefix, if it has one, is
        copied. Tensors are new, in fp32 on the CPU. ``image_size`` is a multiple of the patch size.

        Raises:
            InputError: the net cannot be built at this size, or this kind of net at no other.
        """
        raise InputError(f"image size {image_size}: {type(self).__name__} has one size alone; leave it at its own")

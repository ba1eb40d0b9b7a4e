"""The ToFe net as a peer runtime likes it best: the backbone's own blocks, batch 1, static token counts.

No layer is rewritten: LayerNorm stays ``nn.LayerNorm``, attention stays ``scaled_dot_product_attention``
behind one fused qkv product. What ToFe adds is one ``topk`` and one ``index_select`` a stage, as in
:mod:`tofe_edge.converters.static_graph`, so that every runtime computes the same thing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tofe_edge.model.backbones import TokenCounts
from tofe_edge.model.tofe import ToFe


class PlainToFe(nn.Module):
    """Image ``(1, 3, H, W)`` to logits ``(1, classes)``.

    Agrees with :meth:`ToFe.forward_batch` up to rounding, or with ``forward_dense`` where ``counts`` is
    ``None``. Shares its parameters with ``model``.

    Raises:
        InputError: the counts do not fit the backbone.
    """

    def __init__(self, model: ToFe, counts: TokenCounts | None) -> None:
        super().__init__()
        self.kept = () if counts is None else counts.check(model.backbone.spec).kept
        self.prefix = model.backbone.spec.prefix_tokens
        self.model = model
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        if not self.kept:
            return self.model.forward_dense(image)
        model, prefix = self.model, self.prefix
        tokens = model.run_blocks(0, model.backbone.embed(image))
        frozen: Tensor | None = None
        for stage, kept in enumerate(self.kept):
            patches = tokens[:, prefix:]
            if frozen is not None:
                # Token order does not matter to attention and MLPs, so frozen tokens are appended, not put back.
                patches = torch.cat((patches, model.approximators[stage - 1](frozen)), dim=1)
            total, last = patches.shape[1], stage + 1 == len(self.kept)
            order = torch.topk(model.score(stage, patches).reshape(total), kept if last else total).indices
            chosen = patches.index_select(1, order)
            # A stage that keeps everything has no frozen tokens, and a runtime need not see empty tensors.
            all_stay = last or kept == total
            frozen = None if all_stay else chosen[:, kept:]
            tokens = torch.cat((tokens[:, :prefix], chosen if all_stay else chosen[:, :kept]), dim=1)
            tokens = model.run_blocks(stage + 1, tokens)
        return model.backbone.logits(tokens)

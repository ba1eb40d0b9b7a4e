"""Where selectors say keep: moved so that both modes of inference keep as much.

Batch-adaptive inference reads the order of the scores alone. Instance-adaptive inference also reads where their zero is,
and neither noise in training, nor scaled counts, nor training with fixed counts leave it where the mean count is N^s.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tofe_edge.backbones import TokenCounts
from tofe_edge.tofe import KEEP, ToFe

_BATCH = 16


@torch.no_grad()
def center_selectors(model: ToFe, counts: TokenCounts, images: Tensor) -> None:
    """Shift each selector, in place, by the one number with which instance mode keeps N^s tokens on average.

    Stage by stage, since what a stage keeps changes the scores of the next. The order of the scores stays.

    Args:
        images: ``(B, 3, H, W)`` on which the mean is to hold.
    """
    stems = [model.stem(some) for some in images.split(_BATCH)]
    for stage, wanted in enumerate(counts.check(model.backbone.spec).kept):
        scores = torch.cat([_scores(model, stage, stem) for stem in stems]).flatten()
        bias = model.selectors[stage].get_submodule("fc3").get_parameter("bias")
        bias[KEEP] -= _threshold(scores, round(wanted * len(images)))


def _scores(model: ToFe, stage: int, stem: Tensor) -> Tensor:
    """Of selector ``stage`` in instance mode, ``(B, N)``."""
    if stage == 0:
        return model.score(stage, stem[:, model.backbone.spec.prefix_tokens :])
    return model.score(stage, model.masked_from(stem).rearranged[stage - 1])


def _threshold(scores: Sequence[float] | Tensor, above: int) -> Tensor:
    """A number that ``above`` of the scores are greater than, as near as ties let it."""
    ranked = torch.as_tensor(scores).sort(descending=True).values
    if above >= len(ranked):
        return ranked[-1] - 1
    return (ranked[above - 1] + ranked[above]) / 2

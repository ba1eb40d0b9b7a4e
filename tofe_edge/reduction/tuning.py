"""The last step of a reduction: small parameters are tuned by gradient until outputs come nearer to the dense net's.

What changes are the approximators and the vectors of the blocks behind the first selection: biases, gains of norms and of
LayerScale, 2 % of a net's parameters. Matrices stay, so there is little to learn by heart from a few hundred images (the same
vectors alone suffice to adapt a net to another task: BitFit, arXiv 2106.10199).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tofe_edge.io.progress import progress_bar
from tofe_edge.model.backbones import TokenCounts
from tofe_edge.model.tofe import ToFe
from tofe_edge.reduction.evidence import BATCH, Evidence, distance
from tofe_edge.training.schedule import set_one_rate

_LEARNING_RATE = 1e-3
_WARM_UP = 20


def tune(model: ToFe, budgets: Sequence[TokenCounts], stems: Tensor, dense: Evidence, steps: int, seed: int) -> ToFe:
    """A copy of the net whose outputs are nearer to the dense net's.

    Args:
        budgets: token counts that the net is to serve; steps take turns.
        stems: ``(B, P + N, D)``, tokens at the first selection; the blocks before it stay as they are.
        dense: the dense net on the same images.
        steps: of one batch each.
    """
    tuned = copy.deepcopy(model)
    parameters = _tuned_parameters(tuned)
    optimizer = torch.optim.AdamW(parameters, lr=_LEARNING_RATE, weight_decay=0.0)
    generator = torch.Generator().manual_seed(seed)
    batches: list[Tensor] = []
    with progress_bar("tuning", total=steps, unit="step") as bar, torch.enable_grad():
        for step in range(steps):
            if not batches:
                batches = list(torch.randperm(len(stems), generator=generator).split(BATCH))
            some = batches.pop()
            set_one_rate(optimizer, _LEARNING_RATE, step, steps, _WARM_UP)
            outputs = tuned.gathered_from(stems[some], budgets[step % len(budgets)]).output
            loss = distance(outputs, dense.outputs[some], dense.classifies)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            bar.update()
    return tuned.requires_grad_(False).eval()


def _tuned_parameters(model: ToFe) -> list[nn.Parameter]:
    """The parameters that are tuned; only they require a gradient. Those of blocks before the first selection will get none."""
    model.requires_grad_(False)
    vectors = [parameter for parameter in model.backbone.parameters() if parameter.ndim == 1]
    parameters = [*model.approximators.parameters(), *vectors]
    for parameter in parameters:
        parameter.requires_grad_(True)
    return parameters

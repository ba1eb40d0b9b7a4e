"""The reference and the training graph keep every tensor on the device that they are given.

Where there is no GPU, ``meta`` stands in for it: a device that no tensor reaches by itself. PyTorch refuses most
operators that meet two devices; :class:`OneDevice` refuses all of them.
"""

from typing import Any

import pytest
import torch
from conftest import tiny_tofe
from latency_tables import NET, table_for
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tofe_edge.budget.cost import Cost, GmacsCost, LatencyCost
from tofe_edge.model.backbones import TokenCounts
from tofe_edge.model.tofe import ToFe, masks_of
from tofe_edge.training.losses import approximation_loss, budget_loss, classification_loss, distillation_loss
from tofe_edge.training.schedule import gumbel_sampler
from tofe_edge.training.teacher import teacher_targets

FAMILIES = ["deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "deit3_small_patch16_224", "lvvit_s"]
COUNTS = [(9, 5, 3), (16, 16, 16), (1, 16, 1)]
_COPIES = (torch.ops.aten._to_copy, torch.ops.aten.copy_)


class OneDevice(TorchDispatchMode):
    """Raises ``RuntimeError`` where an operator meets tensors of two devices; copies and scalars aside, as on CUDA."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.dim()]
        if len(devices(*tensors)) > 1 and function.overloadpacket not in _COPIES:
            raise RuntimeError(f"{function} meets two devices")
        return function(*args, **(kwargs or {}))


def devices(*tensors: Tensor) -> set[str]:
    return {tensor.device.type for tensor in tensors}


def on_meta(model: ToFe) -> tuple[ToFe, Tensor]:
    """The net moved as the reference moves it, and images."""
    return model.to("meta"), torch.zeros(2, 3, 64, 64).to("meta")


@pytest.mark.parametrize("counts", COUNTS, ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_inference_stays_on_the_device(name: str, counts: tuple[int, ...]) -> None:
    model, images = on_meta(tiny_tofe(name))
    with torch.inference_mode(), OneDevice():
        found = model.forward_batch(images, TokenCounts(counts))
        masks = masks_of(found, 16)
        dense = model.forward_dense(images)
    assert devices(dense, found.logits, *found.kept, *found.margins, *masks) == {"meta"}
    assert [tuple(index.shape) for index in found.kept] == [(2, count) for count in counts]


@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "lvvit_s"])
def test_training_stays_on_the_device(name: str) -> None:
    """All that a step computes up to its gradients, with sampled masks, given ones, and gathered tokens."""
    model, images = on_meta(tiny_tofe(name))
    labels, cost = torch.zeros(2, dtype=torch.long, device="meta"), GmacsCost(model.backbone.spec, 0.002)
    with OneDevice():
        view = teacher_targets(model, images)
        sampled = model.forward_masked(images, gumbel_sampler(0, 0))
        given = model.masked_from(model.stem(images), masks=[mask.detach() for mask in sampled.masks])
        gathered = model.gathered_from(model.stem(images), TokenCounts((9, 5, 3)))
        losses = []
        for output in (sampled, given, gathered):
            losses += [
                classification_loss(output.logits, labels),
                approximation_loss(output.rearranged, view.stages, output.masks),
                budget_loss(output.masks, cost),
                budget_loss(output.masks, cost, per_sample=False),
                distillation_loss(output.logits, view.logits),
            ]
        torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None or not gradient.is_meta] == []


@pytest.mark.parametrize("cost", [GmacsCost(NET, 0.5), LatencyCost(NET, 5.0, table_for(), "a_board")])
def test_the_budget_stays_on_the_device(cost: Cost) -> None:
    masks = [torch.ones(2, NET.patch_tokens, device="meta", requires_grad=True) for _ in NET.stages]
    with OneDevice():
        budget_loss(masks, cost).backward()  # type: ignore[no-untyped-call]
    assert all(mask.grad is not None and mask.grad.is_meta for mask in masks)

"""What the dense model attends to, and selectors that learn it."""

from typing import Any

import pytest
import torch
from conftest import TINY_COUNTS, tiny_tofe
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tofe_edge.model.tofe import ToFe
from tofe_edge.training.config import TrainingConfig
from tofe_edge.training.losses import SPREAD, guidance_loss
from tofe_edge.training.schedule import make_optimizer
from tofe_edge.training.teacher import teacher_targets

IMAGES = torch.randn(6, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def attention_maps(model: ToFe, images: Tensor) -> list[Tensor]:
    """``(B, H, T, T)`` of every block, by the definition: softmax of q k / sqrt d."""
    maps, tokens = [], model.backbone.embed(images)
    blocks = "blocks" if model.backbone.spec.name.startswith("lvvit") else "vit.blocks"
    for index in range(model.backbone.spec.depth):
        block: Any = model.backbone.get_submodule(f"{blocks}.{index}")
        attention, (batch, count, dim) = block.attn, tokens.shape
        query, key, _ = attention.qkv(block.norm1(tokens)).split(dim, dim=-1)
        heads = [part.reshape(batch, count, attention.num_heads, -1).transpose(1, 2) for part in (query, key)]
        maps.append(torch.softmax(torch.einsum("bhqd,bhkd->bhqk", *heads) / heads[0].shape[-1] ** 0.5, dim=-1))
        tokens = model.backbone.block(index, tokens)
    return maps


@torch.no_grad()
@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "lvvit_s"])
def test_importance_is_the_attention_received_from_a_stage_on(name: str) -> None:
    model = tiny_tofe(name)
    maps = [heads.mean(dim=1) for heads in attention_maps(model, IMAGES)]
    received = [weights[:, 0, 1:] + weights[:, :, 1:].mean(dim=1) for weights in maps]
    importance = teacher_targets(model, IMAGES).importance
    for stage, first in enumerate(model.backbone.spec.stages):
        torch.testing.assert_close(importance[:, stage], sum(received[first:]))


def test_scores_that_follow_the_importance_cost_nothing_whatever_their_mean() -> None:
    importance = torch.rand(8, 3, 16, generator=torch.Generator().manual_seed(0)) + 0.01
    logs = importance.log()
    scores = [SPREAD * (logs[:, stage] - logs[:, stage].mean()) / logs[:, stage].std() + stage for stage in range(3)]
    assert float(guidance_loss(scores, importance.unbind(1))) == pytest.approx(0, abs=1e-9)
    assert float(guidance_loss([-one for one in scores], importance.unbind(1))) > 10


@given(st.floats(-20, 20))
def test_how_many_tokens_are_kept_is_left_to_the_budget(shift: float) -> None:
    generator = torch.Generator().manual_seed(0)
    importance, scores = torch.rand(4, 1, 16, generator=generator), torch.randn(4, 16, generator=generator)
    moved = guidance_loss([scores + shift], importance.unbind(1))
    assert float(moved) == pytest.approx(float(guidance_loss([scores], importance.unbind(1))), rel=1e-3)


@pytest.mark.parametrize("gathered", [False, True])
def test_guidance_teaches_selectors_and_gathered_nothing_else(gathered: bool) -> None:
    model = tiny_tofe()
    view = teacher_targets(model, IMAGES)
    optimizer = make_optimizer(
        model, TrainingConfig(target_gmacs=0.0017, learning_rate=5e-3, backbone_learning_rate=1e-9)
    )
    losses = []
    for _ in range(60):
        output = model.gathered_from(view.stem, TINY_COUNTS) if gathered else model.masked_from(view.stem)
        loss = guidance_loss(output.scores, view.importance.unbind(1))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        learned = {name.split(".")[0] for name, one in model.named_parameters() if one.grad is not None}
        assert "selectors" in learned and (not gathered or learned == {"selectors"})
        for group in optimizer.param_groups:
            group["lr"] = group["peak"]
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]

"""What is noted of the dense net is what training notes of it, and how far nets are apart is what the formulas say."""

from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_tofe
from torch import Tensor

from tofe_edge.model.tofe import ToFe
from tofe_edge.reduction.evidence import BATCH, Evidence, examine
from tofe_edge.training.teacher import teacher_targets

IMAGES = BATCH + 3
WITH_STATES = BATCH + 1


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(IMAGES, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def evidence(images: torch.Tensor) -> Evidence:
    return examine(tiny_tofe().backbone, images, WITH_STATES)


def test_it_is_what_training_notes(evidence: Evidence, images: torch.Tensor) -> None:
    net = tiny_tofe()
    spec, teacher = net.backbone.spec, teacher_targets(net, images)
    torch.testing.assert_close(evidence.outputs, teacher.logits)
    for block, stream in zip(spec.stages[1:], teacher.stages, strict=True):
        torch.testing.assert_close(evidence.states[:, block], stream[:WITH_STATES].half(), atol=2e-3, rtol=2e-3)
    assert evidence.states.shape == (WITH_STATES, spec.depth + 1, spec.patch_tokens, spec.dim)
    assert len(evidence) == IMAGES


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
def test_importance_is_the_attention_received_from_a_block_on(name: str, images: torch.Tensor) -> None:
    net = tiny_tofe(name)
    maps = [heads.mean(dim=1) for heads in attention_maps(net, images)]
    received = [weights[:, 0, 1:] + weights[:, :, 1:].mean(dim=1) for weights in maps]
    noted = examine(net.backbone, images, WITH_STATES)
    for block in net.backbone.spec.stages:
        torch.testing.assert_close(noted.future_importance(block), sum(received[block:]))


def test_a_part_is_of_the_first_images(evidence: Evidence) -> None:
    part = evidence.part(slice(4))
    assert (len(part), len(part.states)) == (4, 4)
    assert torch.equal(part.outputs, evidence.outputs[:4]) and torch.equal(part.importance, evidence.importance[:4])
    assert (len(evidence.part(slice(BATCH + 2))), len(evidence.part(slice(BATCH + 2)).states)) == (BATCH + 2, BATCH + 1)


def of_outputs(outputs: np.ndarray, classifies: bool) -> Evidence:
    nothing = torch.zeros(len(outputs), 0)
    return Evidence(nothing, nothing, nothing, torch.from_numpy(outputs), classifies)


def test_predictions_by_hand() -> None:
    ours, theirs = np.random.default_rng(0).normal(size=(2, 6, 5))
    p, q = (np.exp(one) / np.exp(one).sum(axis=1, keepdims=True) for one in (theirs, ours))
    expected = float(np.mean(np.sum(p * np.log(p / q), axis=1)))
    logits, dense = torch.from_numpy(ours), of_outputs(theirs, classifies=True)
    assert dense.divergence(logits) == pytest.approx(expected)
    assert dense.divergence(logits + 7) == pytest.approx(expected)
    assert dense.divergence(dense.outputs) == pytest.approx(0, abs=1e-12)
    assert dense.agreement(logits) == pytest.approx(100 * np.mean(ours.argmax(1) == theirs.argmax(1)))
    assert dense.agreement(dense.outputs) == 100


def test_embeddings_by_hand() -> None:
    theirs = np.array([[1.0, 0, 0], [1, 0.1, 0], [0, 1, 0], [0, 1, 0.1]])
    ours = np.array([[2.0, 0, 0], [1, 0.1, 0], [0, 1, 0], [1, 0.2, 0]])  # the last one went to the first two
    dense = of_outputs(theirs, classifies=False)
    cosine = 0.2 / np.sqrt(1.04) / np.sqrt(1.01)
    assert dense.divergence(torch.from_numpy(ours)) == pytest.approx((1 - cosine) / 4)
    # Nearest neighbours were 1, 0, 3, 2 and are 1, 3 (or 0), 3, 1.
    assert dense.agreement(torch.from_numpy(ours)) == 50
    assert dense.divergence(dense.outputs * 3) == pytest.approx(0, abs=1e-12)
    assert dense.agreement(dense.outputs * 3) == 100

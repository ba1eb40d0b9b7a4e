"""What is noted of the dense net is what training notes of it, and how far nets are apart is what the formulas say."""

import numpy as np
import pytest
import torch
from conftest import tiny_tofe

from tofe_edge.reduction.evidence import BATCH, Evidence, agreement, divergence, examine
from tofe_edge.training.batches import teacher_targets

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
    future = torch.stack([evidence.future_importance(block) for block in spec.stages], dim=1)
    torch.testing.assert_close(future, teacher.importance)
    torch.testing.assert_close(evidence.logits, teacher.logits)
    for block, stream in zip(spec.stages[1:], teacher.stages, strict=True):
        torch.testing.assert_close(evidence.states[:, block], stream[:WITH_STATES].half(), atol=2e-3, rtol=2e-3)
    assert evidence.states.shape == (WITH_STATES, spec.depth + 1, spec.patch_tokens, spec.dim)
    assert len(evidence) == IMAGES


def test_a_part_is_of_the_first_images(evidence: Evidence) -> None:
    part = evidence.part(slice(4))
    assert (len(part), len(part.states)) == (4, 4)
    assert torch.equal(part.logits, evidence.logits[:4]) and torch.equal(part.importance, evidence.importance[:4])
    assert (len(evidence.part(slice(BATCH + 2))), len(evidence.part(slice(BATCH + 2)).states)) == (BATCH + 2, BATCH + 1)


def test_divergence_and_agreement_by_hand() -> None:
    ours, theirs = np.random.default_rng(0).normal(size=(2, 6, 5))
    p, q = (np.exp(one) / np.exp(one).sum(axis=1, keepdims=True) for one in (theirs, ours))
    expected = float(np.mean(np.sum(p * np.log(p / q), axis=1)))
    logits, dense = torch.from_numpy(ours), torch.from_numpy(theirs)
    assert divergence(logits, dense) == pytest.approx(expected)
    assert divergence(logits + 7, dense) == pytest.approx(expected)
    assert divergence(dense, dense) == pytest.approx(0, abs=1e-12)
    assert agreement(logits, dense) == pytest.approx(100 * np.mean(ours.argmax(1) == theirs.argmax(1)))
    assert agreement(dense, dense) == 100

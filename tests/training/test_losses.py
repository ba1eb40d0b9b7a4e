"""The paper's losses against plain loops."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from conftest import TINY, tiny_tofe
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tofe_edge.budget.cost import GmacsCost
from tofe_edge.model.backbones import Backbone, create_backbone
from tofe_edge.training.losses import approximation_loss, budget_loss, distillation_loss
from tofe_edge.training.schedule import gumbel_sampler


def naive_approximation(
    student: npt.NDArray[np.float64], teacher: npt.NDArray[np.float64], masks: npt.NDArray[np.float64]
) -> float:
    """Eq. 10 one number at a time: arrays ``(stages, B, N, D)`` and ``(stages, B, N)``."""
    stages, batch, tokens, dim = student.shape
    total = 0.0
    for stage in range(stages):
        for image in range(batch):
            squares, frozen = 0.0, 0
            for token in range(tokens):
                if masks[stage, image, token] == 0:
                    frozen += 1
                    for channel in range(dim):
                        gap = student[stage, image, token, channel] - teacher[stage, image, token, channel]
                        squares += gap * gap / dim
            total += squares / max(1, frozen) / batch
    return total


def naive_gmacs(spec: Backbone, kept: list[int]) -> float:
    """The whole net, added up block by block and token by token (Eq. 4 with CLS)."""
    n, d, hidden = spec.patch_tokens, spec.dim, spec.mlp_hidden
    macs = n * 3 * 16 * 16 * d + d * spec.classes
    edges = [0, *spec.stages, spec.depth]
    for stage, patches in enumerate([n, *kept]):
        tokens = patches + spec.prefix_tokens
        for _ in range(edges[stage], edges[stage + 1]):
            macs += tokens * (3 * d * d + d * d + 2 * d * hidden)
            macs += 2 * tokens * tokens * d
    for _ in kept:
        macs += n * (d * (d // 2) + (d // 2) * (d // 4) + (d // 4) * 2)
    for patches in kept[:-1]:
        macs += (n - patches) * 2 * d * (d // 2)
    return macs / 1e9


def random_masks(generator: np.random.Generator, shape: tuple[int, ...], share: float) -> npt.NDArray[np.float64]:
    return (generator.random(shape) < share).astype(np.float64)


def tensors(array: npt.NDArray[np.float64]) -> list[Tensor]:
    return [torch.from_numpy(part) for part in array]


@pytest.fixture(scope="module")
def spec() -> Backbone:
    return create_backbone("deit_tiny_patch16_224", TINY).spec


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 7), st.integers(1, 5)),
    share=st.sampled_from([0.0, 0.3, 0.7, 1.0]),
    seed=st.integers(0, 2**16),
)
def test_approximation_loss_equals_the_loop(shape: tuple[int, ...], share: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    student, teacher = generator.normal(size=shape), generator.normal(size=shape)
    masks = random_masks(generator, shape[:3], share)
    found = float(approximation_loss(tensors(student), tensors(teacher), tensors(masks)))
    assert found == pytest.approx(naive_approximation(student, teacher, masks), rel=1e-5, abs=1e-7)


def test_approximation_loss_looks_at_frozen_tokens_only() -> None:
    generator = np.random.default_rng(0)
    student = torch.from_numpy(generator.normal(size=(2, 6, 3))).requires_grad_()
    teacher = torch.from_numpy(generator.normal(size=(2, 6, 3)))
    mask = torch.tensor([[1.0, 0, 1, 0, 0, 1], [0, 0, 0, 1, 1, 1]])
    approximation_loss([student], [teacher], [mask]).backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    reached = student.grad.abs().sum(dim=-1) > 0
    assert torch.equal(reached, mask == 0)


def test_approximation_loss_is_zero_and_finite_where_nothing_is_frozen() -> None:
    student = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = approximation_loss([student], [torch.zeros(2, 5, 3)], [torch.ones(2, 5)])
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == 0
    assert student.grad is not None and torch.equal(student.grad, torch.zeros_like(student))


def test_approximation_loss_leaves_the_last_stage_out() -> None:
    generator = np.random.default_rng(1)
    student, teacher = generator.normal(size=(2, 2, 4, 3)), generator.normal(size=(2, 2, 4, 3))
    masks = random_masks(generator, (3, 2, 4), 0.5)
    with_last = approximation_loss(tensors(student), tensors(teacher), tensors(masks))
    without = approximation_loss(tensors(student), tensors(teacher), tensors(masks[:2]))
    assert torch.equal(with_last, without)


@pytest.mark.parametrize("per_sample", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_budget_loss_equals_the_loop(spec: Backbone, per_sample: bool, seed: int) -> None:
    generator = np.random.default_rng(seed)
    masks = random_masks(generator, (3, 5, spec.patch_tokens), generator.random())
    target = 0.002
    gaps = [naive_gmacs(spec, [int(masks[stage, image].sum()) for stage in range(3)]) - target for image in range(5)]
    wanted = float(np.mean(np.square(gaps))) if per_sample else float(np.mean(gaps)) ** 2
    assert float(budget_loss(tensors(masks), GmacsCost(spec, target), per_sample)) == pytest.approx(
        wanted, rel=1e-4, abs=1e-14
    )


def test_gaps_of_opposite_sign_cancel_in_a_batch_but_not_in_a_sample(spec: Backbone) -> None:
    full, one = torch.ones(1, spec.patch_tokens), torch.zeros(1, spec.patch_tokens)
    masks = [torch.cat((full, one))] * 3
    n = spec.patch_tokens
    target = (naive_gmacs(spec, [n, n, n]) + naive_gmacs(spec, [0, 0, 0])) / 2
    gap = naive_gmacs(spec, [n, n, n]) - target
    assert float(budget_loss(masks, GmacsCost(spec, target), per_sample=True)) == pytest.approx(gap**2, rel=1e-3)
    assert float(budget_loss(masks, GmacsCost(spec, target), per_sample=False)) < 1e-6 * gap**2


@pytest.mark.parametrize(("target", "sign"), [(0.0, 1.0), (1.0, -1.0)], ids=["over budget", "under budget"])
def test_budget_gradient_points_towards_the_budget_for_every_token(spec: Backbone, target: float, sign: float) -> None:
    masks = [torch.full((2, spec.patch_tokens), 0.5, requires_grad=True) for _ in range(3)]
    budget_loss(masks, GmacsCost(spec, target)).backward()  # type: ignore[no-untyped-call]
    for mask in masks:
        assert mask.grad is not None
        assert bool((sign * mask.grad > 0).all())


def test_descending_the_budget_loss_lowers_kept_counts_through_the_selectors() -> None:
    model = tiny_tofe()
    images = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(model.selectors.parameters(), lr=3e-3)
    kept = []
    for _ in range(25):
        masks = model.forward_masked(images, gumbel_sampler(0, 0)).masks
        kept.append(float(sum(mask.detach().sum() for mask in masks)) / 8)
        optimizer.zero_grad()
        (1e6 * budget_loss(masks, GmacsCost(model.backbone.spec, 0.0))).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert kept[-1] < 0.6 * kept[0]


def test_distillation_is_zero_for_equal_logits_and_positive_otherwise() -> None:
    logits = torch.randn(4, 10, generator=torch.Generator().manual_seed(0))
    assert float(distillation_loss(logits, logits)) == pytest.approx(0, abs=1e-6)
    # A shift of all logits is the same distribution.
    assert float(distillation_loss(logits, logits + 3)) == pytest.approx(0, abs=1e-6)
    assert float(distillation_loss(logits, logits.flip(1))) > 0.1


def test_distillation_equals_the_loop() -> None:
    generator = np.random.default_rng(0)
    student, teacher = generator.normal(size=(3, 5)), generator.normal(size=(3, 5))
    total = 0.0
    for row in range(3):
        p = np.exp(teacher[row]) / np.exp(teacher[row]).sum()
        q = np.exp(student[row]) / np.exp(student[row]).sum()
        total += float((p * np.log(p / q)).sum()) / 3
    assert float(distillation_loss(*map(torch.from_numpy, (student, teacher)))) == pytest.approx(total, rel=1e-5)

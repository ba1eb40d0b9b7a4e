"""Merging, resemblance and what a merging net's checkpoint says: on their own and against their definitions."""

import json
from pathlib import Path

import numpy as np
import numpy_reference
import pytest
import torch
import torch.nn.functional as F
from conftest import TINY_COUNTS, refused, signed_again, tiny_tofe
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from tofe_edge.io.labels import default_classes
from tofe_edge.model.checkpoint import backbone_of, describe, load_model, read_header, save
from tofe_edge.model.masking import masked_attention, put, sized_attention, take
from tofe_edge.model.merging import masked_merge, merge, resemblance_to_better

BATCH, CHANNELS = 2, 6
SEEDS = st.integers(0, 2**16)


def tokens_and_features(total: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(BATCH, total, 8, generator=generator, dtype=torch.float64)
    return torch.randn(BATCH, total, CHANNELS, generator=generator, dtype=torch.float64), F.normalize(features, dim=-1)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens, features, and positions of some kept ones and of the frozen ones, another choice for each image."""
    total, seed = draw(st.integers(2, 9)), draw(SEEDS)
    kept = draw(st.integers(1, total - 1))
    order = torch.rand(BATCH, total, generator=torch.Generator().manual_seed(seed)).argsort(dim=1)
    return *tokens_and_features(total, seed), order[:, :kept], order[:, kept:]


@settings(max_examples=40)
@given(cases())
def test_a_merge_loses_nothing_and_follows_its_definition(case: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    tokens, features, kept, frozen = case
    merged = merge(*(take(what, where) for what in (tokens, features) for where in (kept, frozen)))
    total = tokens.shape[1]
    torch.testing.assert_close(merged.shares.sum(-1), torch.ones_like(frozen, dtype=torch.float64))
    torch.testing.assert_close(merged.sizes.sum(-1), torch.full((BATCH,), total, dtype=torch.float64))
    assert merged.sizes.min() >= 1
    torch.testing.assert_close((merged.tokens * merged.sizes[..., None]).sum(1), tokens.sum(1))
    for image in range(BATCH):
        patches, alike = tokens[image].numpy(), (features[image] @ features[image].T).numpy()
        own, other = kept[image].numpy(), frozen[image].numpy()
        expected = numpy_reference.merge(patches[own], patches[other], alike[other][:, own])
        for found, wanted in zip((merged.tokens, merged.sizes, merged.shares), expected, strict=True):
            np.testing.assert_allclose(found[image].numpy(), wanted, atol=1e-9)


@settings(max_examples=40)
@given(cases())
def test_a_masked_merge_is_the_merge_in_place(case: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    tokens, features, kept, frozen = case
    mask = torch.zeros(tokens.shape[:2], dtype=torch.float64).scatter(1, kept, 1.0)
    masked = masked_merge(tokens, features, mask)
    merged = merge(*(take(what, where) for what in (tokens, features) for where in (kept, frozen)))
    torch.testing.assert_close(masked.tokens, put(tokens, kept, merged.tokens))
    torch.testing.assert_close(masked.sizes, torch.ones_like(mask).scatter(1, kept, merged.sizes))
    rows = take(masked.shares, frozen)
    torch.testing.assert_close(rows.gather(2, kept[:, None].expand(-1, rows.shape[1], -1)), merged.shares)
    torch.testing.assert_close(masked.shares.sum((1, 2)), merged.shares.sum((1, 2)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_mask_that_keeps_none_or_all_merges_nothing_and_has_gradients(dtype: torch.dtype) -> None:
    tokens, features = (value.to(dtype).requires_grad_(True) for value in tokens_and_features(5, 0))
    mask = torch.tensor([[0.0] * 5, [1.0] * 5], dtype=dtype, requires_grad=True)
    merged = masked_merge(tokens, features, mask)
    assert torch.equal(merged.tokens, tokens) and torch.equal(merged.sizes, torch.ones_like(mask))
    assert not merged.shares.any()
    (merged.tokens.square().sum() + merged.sizes.square().sum()).backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in (tokens, features, mask))


def test_the_mask_has_the_gradient_of_the_merge() -> None:
    """Both of what keeping a token takes from the others and of what it may stand for."""
    tokens, features = tokens_and_features(5, 1)
    mask = torch.tensor([[1.0, 0, 1, 0, 1], [0, 1, 0, 0, 1]], dtype=torch.float64, requires_grad=True)
    masked_merge(tokens, features, mask).tokens.square().sum().backward()
    assert mask.grad is not None and mask.grad.isfinite().all() and (mask.grad.abs() > 0).any(dim=1).all()


@settings(max_examples=40)
@given(st.integers(2, 9), SEEDS, st.data())
def test_resemblance_is_that_to_a_better_token(total: int, seed: int, data: st.DataObject) -> None:
    _, features = tokens_and_features(total, seed)
    scores = torch.rand(BATCH, total, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = resemblance_to_better(features, scores)
    assert found.max() <= 0.05 * np.log(total) and found.min() >= -1 - 1e-9
    torch.testing.assert_close(found.gather(1, scores.argmax(1, keepdim=True)), -torch.ones(BATCH, 1).double())
    order = torch.tensor(data.draw(st.permutations(range(total))))
    torch.testing.assert_close(resemblance_to_better(features[:, order], scores[:, order]), found[:, order])


def test_a_twin_resembles_fully_and_a_token_unlike_the_better_ones_not() -> None:
    features = torch.eye(4)[[0, 0, 1, 2]][None]
    features[0, 3] = -features[0, 0]
    found = resemblance_to_better(features, torch.tensor([[4.0, 3.0, 2.0, 1.0]]))[0]
    torch.testing.assert_close(found, torch.tensor([-1.0, 0.0, np.log(3) / 20 - 1, np.log(2) / 20 - 1]).float())


def test_equal_scores_are_not_better() -> None:
    features = torch.eye(2)[[0, 0]][None]
    assert torch.equal(resemblance_to_better(features, torch.ones(1, 2)), torch.full((1, 2), -1.0))


def test_a_sized_token_counts_as_often_as_copies_of_it() -> None:
    query, key, value = torch.randn(3, 1, 2, 4, 8, generator=torch.Generator().manual_seed(0)).unbind(0)
    sizes = torch.tensor([[1.0, 3.0, 1.0, 2.0]])
    copies = torch.tensor([0, 1, 1, 1, 2, 3, 3])
    wanted = F.scaled_dot_product_attention(query, key[:, :, copies], value[:, :, copies])
    torch.testing.assert_close(sized_attention(query, key, value, sizes), wanted)
    torch.testing.assert_close(masked_attention(query, key, value, torch.ones(1, 4), sizes), wanted)


def test_a_checkpoint_says_whether_it_merges(tmp_path: Path) -> None:
    model = tiny_tofe(reduction="merging").requires_grad_(False)
    host = model.backbone
    header = describe("merging", host.spec, host.preprocessing, default_classes(10), TINY_COUNTS)
    path = tmp_path / "merging.safetensors"
    save(path, model, header, half=False)
    read, images = read_header(path), torch.randn(2, 3, 64, 64)
    assert read.reduction == "merging" and backbone_of(read).spec == host.spec
    wanted = model.forward_batch(images, TINY_COUNTS).logits
    loaded = load_model(read)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())
    torch.testing.assert_close(loaded.forward_batch(images, TINY_COUNTS).logits, wanted, rtol=0, atol=1e-4)
    with safe_open(str(path), framework="pt") as handle:
        tensors = {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118
        document = handle.metadata()["tofe_edge"]
    other = tmp_path / "other.safetensors"
    save_file(
        tensors, other, {"tofe_edge": json.dumps(signed_again(json.loads(document.replace('"merging"', '"melting"'))))}
    )
    assert "reduction" in refused(other, lambda: read_header(other))


def test_without_a_word_of_it_a_checkpoint_is_the_papers(tiny_checkpoint_document: str, weights: Path) -> None:
    assert "reduction" not in tiny_checkpoint_document
    assert read_header(weights).reduction == "paper"


@pytest.fixture
def tiny_checkpoint_document(weights: Path) -> str:
    with safe_open(str(weights), framework="pt") as handle:
        document: str = handle.metadata()["tofe_edge"]
    return document


@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "lvvit_s"])
def test_another_input_size_keeps_the_reduction(name: str) -> None:
    host = tiny_tofe(name, reduction="merging").backbone
    assert host.resized(96).spec.merges and host.resized(96).spec.stages == host.spec.stages

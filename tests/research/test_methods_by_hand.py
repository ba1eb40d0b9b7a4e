"""EViT and ToMe against the plainest code: one image at a time, one token at a time."""

import math
from typing import Any

import pytest
import torch
from peer_nets import TARGET, tiny_images, tiny_teacher, unsettled
from torch import Tensor

from research.evit import EViT, kept_of
from research.tome import ToMe

LARGER_TARGET = 0.0033
"""GMACs, of 0.0041 that a dense tiny net of seven blocks takes: two in each stage."""


def block_by_hand(block: Any, tokens: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """One image ``(T, D)``: after attention, the map ``(H, T, T)``, the keys ``(H, T, d)``."""
    heads, width = block.attn.num_heads, block.attn.head_dim
    query, key, value = block.attn.qkv(block.norm1(tokens)).split(heads * width, dim=1)
    maps, keys, mixed = [], [], []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        scores = torch.exp(query[:, part] @ key[:, part].T / math.sqrt(width))
        if sizes is not None:
            scores = scores * sizes[None, :]
        weights = scores / scores.sum(dim=1, keepdim=True)
        maps.append(weights)
        keys.append(key[:, part])
        mixed.append(weights @ value[:, part])
    return tokens + block.attn.proj(torch.cat(mixed, dim=1)), torch.stack(maps), torch.stack(keys)


def mlp_by_hand(block: Any, tokens: Tensor) -> Tensor:
    out: Tensor = tokens + block.mlp(block.norm2(tokens))
    return out


def head_by_hand(vit: Any, tokens: Tensor) -> Tensor:
    out: Tensor = vit.head(vit.norm(tokens)[0])
    return out


@torch.no_grad()
def test_evit() -> None:
    teacher = tiny_teacher(depth=7)
    method = unsettled(EViT(teacher.backbone, LARGER_TARGET))
    assert isinstance(method, EViT) and method.spec.stages == (1, 3, 5)
    stem = teacher.stem(tiny_images(4))
    vit = method.backbone.vit
    for image, logits in zip(stem, method.infer(stem)):
        tokens = image
        for index, block in enumerate(vit.blocks[1:], start=1):
            tokens, weights, _ = block_by_hand(block, tokens)
            if index not in (1, 3, 5):
                tokens = mlp_by_hand(block, tokens)
                continue
            seen = [(float(weights[:, 0, place].mean()), place) for place in range(1, len(tokens))]
            best = sorted(seen, reverse=True)
            kept = kept_of(len(seen), method.ratio)  # for a ratio a hair over a step
            fused = sum(score * tokens[place] for score, place in best[kept:])
            parts = [tokens[0], *(tokens[place] for _, place in best[:kept])]
            tokens = mlp_by_hand(block, torch.stack([*parts, fused] if isinstance(fused, Tensor) else parts))
        torch.testing.assert_close(head_by_hand(vit, tokens), logits, atol=1e-5, rtol=1e-4)


def merged_by_hand(
    tokens: list[Tensor], sizes: list[float], keys: Tensor, number: int
) -> tuple[list[Tensor], list[float]]:
    """One image; CLS stands first and stays there."""
    keys = keys / keys.norm(dim=1, keepdim=True)
    pairs = []
    for a in range(2, len(tokens), 2):
        similar = [(float(keys[a] @ keys[b]), b) for b in range(1, len(tokens), 2)]
        pairs.append((*max(similar), a))
    gone = {}
    for _, b, a in sorted(pairs, reverse=True)[:number]:
        gone[a] = b
    sums = [token * size for token, size in zip(tokens, sizes)]
    totals = list(sizes)
    for a, b in gone.items():
        sums[b] = sums[b] + sums[a]
        totals[b] += totals[a]
    order = [a for a in range(0, len(tokens), 2) if a not in gone] + list(range(1, len(tokens), 2))
    return [sums[place] / totals[place] for place in order], [totals[place] for place in order]


@torch.no_grad()
def test_tome() -> None:
    method = unsettled(ToMe(tiny_teacher().backbone, TARGET))
    assert isinstance(method, ToMe) and sum(method.merged) > 3
    stem = tiny_teacher().stem(tiny_images(4))
    vit = method.backbone.vit
    for image, logits in zip(stem, method.infer(stem)):
        tokens, sizes = list(image), [1.0] * len(image)
        for block, number in zip(vit.blocks[1:], method.merged):
            after, _, keys = block_by_hand(block, torch.stack(tokens), torch.tensor(sizes))
            number = min(number, (len(tokens) - 1) // 2)
            tokens, sizes = merged_by_hand(list(after), sizes, keys.mean(dim=0), number)
            assert sum(sizes) == pytest.approx(17)
            tokens = list(mlp_by_hand(block, torch.stack(tokens)))
        torch.testing.assert_close(head_by_hand(vit, torch.stack(tokens)), logits, atol=1e-5, rtol=1e-4)

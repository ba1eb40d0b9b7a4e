"""Matching a state dict to a module, with an error a person can read, and position embeddings to another grid."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tofe_edge.errors import InputError


def load_strictly(module: nn.Module, weights: Mapping[str, Tensor], what: str) -> None:
    """Copy ``weights`` into ``module``; storage types may differ, keys and shapes may not.

    Raises:
        InputError: naming the cause if it is a known one, the first missing, unknown or misshapen key and how many there are.
    """
    expected = module.state_dict()
    cause = _cause(expected, weights)
    because = f"{cause}: " if cause else ""
    missing = sorted(expected.keys() - weights.keys())
    unknown = sorted(weights.keys() - expected.keys())
    if missing or unknown:
        parts = []
        if missing:
            parts.append(f"{len(missing)} missing (first: {missing[0]})")
        if unknown:
            parts.append(f"{len(unknown)} unknown (first: {unknown[0]})")
        raise InputError(f"weights do not fit {what}: {because}{', '.join(parts)}")
    for key, value in weights.items():
        if value.shape != expected[key].shape:
            raise InputError(
                f"weights do not fit {what}: {because}{key} is {tuple(value.shape)}, expected {tuple(expected[key].shape)}"
            )
    if any(value.is_meta for value in expected.values()):
        return  # there are shapes alone, and they fit
    module.load_state_dict({key: value.to(expected[key].dtype) for key, value in weights.items()})


_FEATURES = {
    r"aux_head\.": "LV-ViT's auxiliary head",
    r"relative_position": "relative positions",
    r"(rope|freqs)": "rotary positions",
    r"norm_pre\.": "CLIP's norm before the blocks",
    r"attn_pool\.": "attention pooling",
    r"fc_norm\.": "a norm after pooling, so it averages the patches (fc_norm)",
    r"(dist_token|head_dist)": "a distillation token",
    r"reg_token": "register tokens",
    r"cls_token": "a class token",
    r"ls1\.gamma": "LayerScale",
    r"attn\.q_norm": "norms of queries and keys",
    r"mlp\.(fc1_g|fc1_x|norm)": "a gated MLP (SwiGLU)",
    r"head\.": "a head",
}
"""Tensors that only some kinds of nets have."""


def _cause(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str:
    """Why weights are of another net, as far as shapes tell; empty if they do not."""
    kinds = [any(re.search(r"(^|\.)aux_head\.", key) for key in tensors) for tensors in (expected, weights)]
    # Stems of LV-ViT and of timm are not to be compared.
    ours, theirs = (_figures(tensors) if kinds[0] == kinds[1] else {} for tensors in (expected, weights))
    for what, mine in ours.items():
        if (other := theirs.get(what)) is not None and other != mine:
            return f"they have {other} {what}, it has {mine}"
    for pattern, what in _FEATURES.items():
        mine, other = (any(re.search(rf"(^|\.){pattern}", key) for key in tensors) for tensors in (expected, weights))
        if mine != other:
            return f"they have {what}, which it has not" if other else f"it has {what}, which they have not"
    return ""


def _figures(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    """What a net counts, by the name for it."""
    figures: dict[str, object] = {}
    blocks = [match[1] for match in map(re.compile(r"(?:^|.*\.)blocks\.(\d+)\.").match, tensors) if match]
    figures["blocks"] = len(set(blocks)) or None
    for key, value in tensors.items():
        if re.search(r"(^|\.)patch_embed\.proj\.weight$", key) and value.ndim == 4:
            figures["image channels"] = value.shape[1]
            figures["channels"] = value.shape[0]
            figures["pixels per side of a patch"] = value.shape[2]
    return figures


def resample_positions(embedding: Tensor, old_side: int, new_side: int) -> Tensor:
    """Interpolate a position embedding to another grid of patches, bicubic with antialiasing.

    Args:
        embedding: ``(1, P + old_side**2, D)``: P >= 0 positions of prefix tokens, then the grid row by row.
        old_side: patches along one side of the image now.
        new_side: patches along one side afterwards.

    Returns:
        ``(1, P + new_side**2, D)``; the prefix is not touched.
    """
    if new_side == old_side:
        return embedding
    prefix, grid = embedding.split([embedding.shape[1] - old_side**2, old_side**2], dim=1)
    pixels = grid.unflatten(1, (old_side, old_side)).permute(0, 3, 1, 2)
    pixels = F.interpolate(pixels, size=(new_side, new_side), mode="bicubic", antialias=True)
    return torch.cat((prefix, pixels.flatten(2).transpose(1, 2)), dim=1)

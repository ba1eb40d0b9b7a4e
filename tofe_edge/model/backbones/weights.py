"""Matching a state dict to a module, with an error a person can read, and position embeddings to another grid."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tofe_edge.errors import InputError


def load_strictly(module: nn.Module, weights: Mapping[str, Tensor], what: str) -> None:
    """Copy ``weights`` into ``module``; storage types may differ, keys and shapes may not.

    Raises:
        InputError: naming the first missing, unknown or misshapen key and how many there are.
    """
    expected = module.state_dict()
    missing = sorted(expected.keys() - weights.keys())
    unknown = sorted(weights.keys() - expected.keys())
    if missing or unknown:
        parts = []
        if missing:
            parts.append(f"{len(missing)} missing (first: {missing[0]})")
        if unknown:
            parts.append(f"{len(unknown)} unknown (first: {unknown[0]})")
        raise InputError(f"weights do not fit {what}: {', '.join(parts)}; are they of another backbone?")
    for key, value in weights.items():
        if value.shape != expected[key].shape:
            raise InputError(
                f"weights do not fit {what}: {key} is {tuple(value.shape)}, expected {tuple(expected[key].shape)}; "
                "are they of another backbone?"
            )
    module.load_state_dict({key: value.to(expected[key].dtype) for key, value in weights.items()})


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

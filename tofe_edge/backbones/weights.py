"""Matching a state dict to a module, with an error a person can read."""

from __future__ import annotations

from collections.abc import Mapping

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

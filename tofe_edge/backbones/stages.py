"""Where the token selectors stand."""

from __future__ import annotations

from tofe_edge.errors import InputError


def default_stages(depth: int) -> tuple[int, int, int]:
    """Blocks before which a selector stands: a quarter, a half and three quarters of the way.

    Gives (3, 6, 9) for DeiT, (4, 8, 12) for LV-ViT-S, (5, 10, 15) for LV-ViT-M, as the paper's baselines.

    Raises:
        InputError: fewer than four blocks.
    """
    if depth < 4:
        raise InputError(f"depth {depth}: ToFe's three stages need at least four blocks")
    return depth // 4, depth // 2, 3 * depth // 4

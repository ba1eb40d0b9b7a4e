"""Where the token selectors stand."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

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


def check_stages(stages: Sequence[int], depth: int) -> tuple[int, ...]:
    """The same stages, if a net of this depth can have them.

    Raises:
        InputError: a selector would stand before the first block, behind the last one, or two before the same one.
    """
    edges = (0, *stages, depth)
    if len(stages) < 2 or any(end <= start for start, end in pairwise(edges)):
        raise InputError(
            f"selections before blocks {', '.join(map(str, stages)) or 'none'}: need at least two, in ascending order, from 1 to "
            f"{depth - 1}"
        )
    return tuple(stages)


def parse_stages(text: str) -> tuple[int, ...]:
    """Read ``"1,4,8"``. Raises :class:`InputError` where it is no list of whole numbers."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"selections {text!r}: expected block numbers from 0, such as 3,6,9") from error

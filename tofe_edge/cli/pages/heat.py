"""Colours of the usage heat map: from dark to light and told apart without colour vision (viridis, in four anchors)."""

from __future__ import annotations

Colour = tuple[int, int, int]

_ANCHORS: tuple[Colour, ...] = ((68, 1, 84), (49, 104, 142), (53, 183, 121), (253, 231, 37))


def heat_colours(levels: int) -> tuple[Colour, ...]:
    """RGB of ``levels`` steps, the least first."""
    return tuple(_at(step / (levels - 1) if levels > 1 else 0.0) for step in range(levels))


def as_hex(colour: Colour) -> str:
    """``#rrggbb``."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _at(share: float) -> Colour:
    place = share * (len(_ANCHORS) - 1)
    lower = min(int(place), len(_ANCHORS) - 2)
    red, green, blue = (
        round(low + (place - lower) * (high - low)) for low, high in zip(_ANCHORS[lower], _ANCHORS[lower + 1])
    )
    return red, green, blue

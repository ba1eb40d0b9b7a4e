"""From values to places in a drawing: axes with round numbers on them. Finite for whatever is finite."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

_LARGEST = 1e300
"""Beyond it values are drawn at it: the difference of two would not be finite."""

_LEAST_SHARE = 1e-9
"""Of their size: values closer to each other than this are drawn as equal. Axes could not tell them apart."""


@dataclass(frozen=True)
class Axis:
    """A range of values, and the round ones in it."""

    low: float
    high: float
    ticks: tuple[float, ...]
    labels: tuple[str, ...]

    def share(self, value: float) -> float:
        """Where a value stands between both ends, 0 to 1; what is outside stands at the end."""
        return min(max((_bounded(value) - self.low) / (self.high - self.low), 0.0), 1.0)


def axis(values: Iterable[float], most_ticks: int = 5, from_zero: bool = False) -> Axis:
    """An axis over all values, with a margin where they are equal; over 0 to 1 where there are none.

    Raises:
        ValueError: a value is not finite.
    """
    found = [_bounded(value) for value in values] or [0.0, 1.0]
    low, high = min(found), max(found)
    if from_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    size = max(abs(low), abs(high))
    if high - low <= max(size * _LEAST_SHARE, 1e-290):
        margin = size * 0.1 or 1.0
        low, high = (low if from_zero else low - margin), high + margin
    step = _round_step((high - low) / most_ticks)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    ticks = tuple(min(max(number * step, low), high) for number in range(first, last + 1))
    return Axis(low, high, ticks, tuple(_label(tick, step) for tick in ticks))


def _bounded(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{value} cannot be drawn")
    return min(max(float(value), -_LARGEST), _LARGEST)


def _round_step(rough: float) -> float:
    """The least of 1, 2, 5 times a power of ten that is not below ``rough``."""
    power = float(10.0 ** math.floor(math.log10(rough)))
    return next((factor * power for factor in (1, 2, 5) if factor * power >= rough * (1 - 1e-9)), 10 * power)


def _label(tick: float, step: float) -> str:
    tick = 0.0 if abs(tick) < step / 2 else tick
    size = max(abs(tick), step)
    if size >= 1e6 or size < 1e-4:
        return f"{tick:.3g}"
    return f"{tick:.{min(max(0, -math.floor(math.log10(step) + 1e-9)), 9)}f}"

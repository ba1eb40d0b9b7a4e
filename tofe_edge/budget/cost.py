"""What a net costs at given token counts, as the budget loss sees it: multiply-accumulates, or a device's milliseconds."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tofe_edge.budget.latency_model import check_subject, find_table, predict_ms
from tofe_edge.errors import InputError
from tofe_edge.model.backbones.spec import Backbone, TokenCounts
from tofe_edge.model.macs import dense_macs, gmacs, tofe_macs
from tofe_edge.profiles.latency import LatencyTable, yaml_lines
from tofe_edge.profiles.schema import DeviceProfile

TARGET_TOLERANCE = 0.01
"""Share of the target by which the cost of the measured counts may miss it before they are scaled."""


@dataclass(frozen=True)
class Cost(ABC):
    """A budget: a cost that follows from token counts, and what it shall come to. Costs are in ``unit``."""

    backbone: Backbone
    target: float

    @property
    @abstractmethod
    def unit(self) -> str:
        """``GMACs`` or ``ms``."""

    @property
    @abstractmethod
    def dense(self) -> float:
        """The cost of the net without token reduction."""

    @abstractmethod
    def of(self, kept: Sequence[Tensor]) -> Tensor:
        """The cost of kept patch tokens, one tensor ``(B,)`` per stage: ``(B,)``, with a gradient in the counts."""

    @abstractmethod
    def of_counts(self, kept: Sequence[int]) -> float:
        """The cost of whole counts of at least 1, which is what a checkpoint has."""

    @abstractmethod
    def to_json(self, kept: Sequence[int]) -> dict[str, Any]:
        """The entry of the training record: the target, where it comes from, and what ``kept`` comes to."""

    def raised(self, kept: Sequence[int]) -> tuple[int, ...]:
        """``kept`` with the tokens on top that cost nothing: none in GMACs, the rest of a step in milliseconds."""
        return tuple(kept)

    @property
    def least(self) -> float:
        """The cost with one patch token kept in every stage: no checkpoint costs less."""
        return self.of_counts((1,) * len(self.backbone.stages))

    def gap(self, kept: Sequence[Tensor]) -> Tensor:
        """How far the cost is over the target, ``(B,)``, as a share of the dense cost times the dense net's GMACs.

        In GMACs that is the plain difference. In any other unit the same share of the dense net weighs the same, so
        that a weight of the budget loss found for one unit holds for the others.
        """
        return (self.of(kept) - self.target) * (gmacs(dense_macs(self.backbone)) / self.dense)

    def check(self) -> None:
        """Raise :class:`InputError` if no token counts cost the target."""
        if not self.least <= self.target <= self.dense:
            raise InputError(
                f"--target-{self.unit.lower()} {self.target:g}: {self.backbone.name} takes {self.least:.3g} (one token per "
                f"stage) to {self.dense:.3g} {self.unit} (dense){self._where()}; choose a target between them"
            )

    def _where(self) -> str:
        return ""


@dataclass(frozen=True)
class GmacsCost(Cost):
    """Multiply-accumulates of the whole net, in 1e9; see ``tofe_edge/model/macs.py``."""

    @property
    def unit(self) -> str:
        return "GMACs"

    @property
    def dense(self) -> float:
        return gmacs(dense_macs(self.backbone))

    def of(self, kept: Sequence[Tensor]) -> Tensor:
        total: Tensor = tofe_macs(self.backbone, kept) / 1e9
        return total

    def of_counts(self, kept: Sequence[int]) -> float:
        return gmacs(tofe_macs(self.backbone, kept))

    def to_json(self, kept: Sequence[int]) -> dict[str, Any]:
        return {"unit": self.unit, "target": self.target, "reached": round(self.of_counts(kept), 6)}


@dataclass(frozen=True)
class LatencyCost(Cost):
    """Milliseconds of one image on a device, predicted from its latency table as everywhere else.

    The value is the prediction itself, tiling steps and dips included: at whole counts it is ``predict_ms``, between them a
    straight line. Its own slope would mislead: on the flat of a step it is zero, behind a multiple of the alignment it
    points the wrong way, and only at an edge it is steep. So the gradient in each count is that of the parabola nearest
    to the curve, which is what the work in a block is: linear in its products with weights, square in attention. The
    value says by how much the budget is missed, the slope how much tokens are worth in each stage.
    """

    table: LatencyTable
    profile: str
    """The name of the profile that the table stands in."""

    def __post_init__(self) -> None:
        check_subject(self.table, self.backbone)

    @property
    def unit(self) -> str:
        return "ms"

    @property
    def dense(self) -> float:
        return self.table.dense

    @property
    def fingerprint(self) -> str:
        """Names profile and precision, and changes with any number of the table."""
        content = "\n".join(yaml_lines([self.table])).encode()
        return f"{self.profile} {self.table.precision} {hashlib.sha256(content).hexdigest()[:12]}"

    def of(self, kept: Sequence[Tensor]) -> Tensor:
        total = kept[0].new_tensor(self._all_kept_ms)
        for count, curve, (linear, square) in zip(kept, self._stages, self._slopes, strict=True):
            smooth = linear * count + square * count.square()
            total = total + _at(curve.to(count), count.detach()) + (smooth - smooth.detach())
        return total

    def of_counts(self, kept: Sequence[int]) -> float:
        return predict_ms(self.table, self.backbone, TokenCounts(tuple(kept)))

    def raised(self, kept: Sequence[int]) -> tuple[int, ...]:
        free = [np.flatnonzero(curve.numpy() <= float(curve[count])) for curve, count in zip(self._stages, kept)]
        return tuple(max(count, int(counts[-1])) for counts, count in zip(free, kept, strict=True))

    def to_json(self, kept: Sequence[int]) -> dict[str, Any]:
        return {
            "unit": self.unit,
            "target": self.target,
            "predicted": round(self.of_counts(kept), 3),
            "profile": self.profile,
            "precision": self.table.precision,
            "threads": self.table.threads,
            "table": self.table.source,
        }

    def _where(self) -> str:
        return f" on {self.profile} in {self.table.precision}"

    @property
    def _all_kept(self) -> tuple[int, ...]:
        return (self.backbone.patch_tokens,) * len(self.backbone.stages)

    @cached_property
    def _all_kept_ms(self) -> float:
        return self.of_counts(self._all_kept)

    @cached_property
    def _stages(self) -> tuple[Tensor, ...]:
        """Per stage ``(N + 1,)``: what ``n`` kept tokens there take more than all of them.

        A prediction is a sum over stages, so these add up to it. Entry 0, which a checkpoint cannot have but a sample
        in training can, is that of 1.
        """
        curves = []
        for stage, most in enumerate(self._all_kept):
            kept = list(self._all_kept)
            ms = []
            for kept[stage] in range(1, most + 1):
                ms.append(self.of_counts(kept) - self._all_kept_ms)
            curves.append(torch.tensor([ms[0], *ms], dtype=torch.float64))
        return tuple(curves)

    @cached_property
    def _slopes(self) -> tuple[tuple[float, float], ...]:
        return tuple(rising_parabola(curve[1:].numpy()) for curve in self._stages)


def latency_cost(backbone: Backbone, target_ms: float, profile: DeviceProfile, precision: str | None) -> LatencyCost:
    """A target in milliseconds on a device.

    Args:
        precision: ``None`` takes the table of the profile's default precision, or the one that there is.

    Raises:
        InputError: the profile has no table of this net in this precision.
    """
    preferred = sorted(("int8", "fp32"), key=lambda one: one != profile.defaults.precision)
    for name in [precision] if precision else preferred:
        table = find_table(profile.latency, backbone, name)
        if table is not None:
            return LatencyCost(backbone, target_ms, table, profile.name)
    there = ", ".join(f"{table.backbone} in {table.precision}" for table in profile.latency) or "none at all"
    raise InputError(
        f"--target-ms: profile {profile.name} has no latency table of {backbone.name} in {precision or ' or '.join(preferred)} "
        f"(it has: {there}); run `tofe-edge calibrate --profile {profile.name}` with a checkpoint of this net and train "
        "with the profile that it writes"
    )


def rising_parabola(curve: npt.NDArray[np.float64]) -> tuple[float, float]:
    """``(a, b)`` of ``a n + b n² + const`` nearest to ``curve``, which holds ``n = 1, 2, …``.

    A line if the parabola would fall at either end, and nothing at all if the line would: the gradient of a
    latency never says that more tokens take less.
    """
    n = np.arange(1, len(curve) + 1, dtype=np.float64)
    square, linear, _ = np.polyfit(n, curve, 2)
    if min(linear + 2 * square * end for end in (n[0], n[-1])) > 0:
        return float(linear), float(square)
    return max(0.0, float(np.polyfit(n, curve, 1)[0])), 0.0


def _at(curve: Tensor, count: Tensor) -> Tensor:
    """``curve`` ``(N + 1,)`` at ``count``, with a straight line between whole numbers."""
    low = count.floor().clamp(0, len(curve) - 2)
    start, end = curve[low.long()], curve[low.long() + 1]
    return start + (count - low) * (end - start)


@dataclass(frozen=True)
class FittedCounts:
    """Token counts, and the factor that took the measured means to the target (1: they met it)."""

    counts: TokenCounts
    factor: float


def fit_counts(means: Sequence[float], backbone: Backbone, target_gmacs: float) -> FittedCounts:
    """:func:`fit_to_budget` for a budget in GMACs."""
    return fit_to_budget(means, GmacsCost(backbone, target_gmacs))


def fit_to_budget(means: Sequence[float], cost: Cost) -> FittedCounts:
    """Token counts N^s from mean kept counts: rounded half up into [1, N], and scaled if they miss the target.

    Tokens that then cost nothing come on top.

    The budget loss ends where its pull balances that of the other losses, a few per cent above the target;
    a device budget is a limit. So if the rounded means miss the target by more than ``TARGET_TOLERANCE``
    all means are scaled by the one factor that meets it best.
    """
    most = cost.backbone.patch_tokens

    def misses(kept: Sequence[int]) -> float:
        return abs(cost.of_counts(kept) / cost.target - 1)

    plain = _rounded(means, most)
    if misses(plain) <= TARGET_TOLERANCE:
        return FittedCounts(TokenCounts(cost.raised(plain)), 1.0)
    # Many factors round to the same counts; of these the one nearest to 1 stands for all.
    nearest: dict[tuple[int, ...], float] = {}
    for factor in sorted(np.linspace(0.25, 4.0, 3751).tolist(), key=lambda factor: abs(factor - 1)):
        nearest.setdefault(_rounded([factor * mean for mean in means], most), factor)
    best = min(nearest, key=lambda kept: (misses(kept), abs(nearest[kept] - 1)))
    return FittedCounts(TokenCounts(cost.raised(best)), nearest[best])


def _rounded(means: Sequence[float], patch_tokens: int) -> tuple[int, ...]:
    return tuple(min(patch_tokens, max(1, math.floor(mean + 0.5))) for mean in means)

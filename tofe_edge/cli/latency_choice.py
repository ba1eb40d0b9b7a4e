"""``--max-latency-ms``: choosing by a device's latency tables, for ``select`` and ``convert``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tofe_edge.cli.calibrated import threads_of
from tofe_edge.cli.options import require
from tofe_edge.cli.output import table

if TYPE_CHECKING:
    from tofe_edge.budget.latency import Forecast, LatencyChoice
    from tofe_edge.model.checkpoint import Checkpoint
    from tofe_edge.profiles import DeviceProfile

PRECISIONS = ("int8", "fp32")
"""That there are latency tables for, in the order in which they are tried where a profile prefers neither."""


def choose_within(
    profile: DeviceProfile | None,
    max_latency_ms: float,
    precision: str | None = None,
    checkpoint: Checkpoint | None = None,
) -> LatencyChoice:
    """Choose for a latency limit, among the shipped checkpoints or for one that is given.

    Raises:
        InputError: there is no profile, or it has no table for any of them.
        GateError: nothing fits.
    """
    from tofe_edge.budget.latency import LatencyLimit, Net, choose_by_latency
    from tofe_edge.model.checkpoint import host_of
    from tofe_edge.model.zoo import shipped_checkpoints

    require(profile is not None, "--max-latency-ms is held by a device's latency table; say which with --profile")
    assert profile is not None
    require(
        precision in (None, *PRECISIONS), f"--max-latency-ms: latency is predicted for fp32 and int8, not {precision}"
    )
    checkpoints = shipped_checkpoints() if checkpoint is None else [checkpoint]
    nets = [Net(one, host_of(one).spec) for one in checkpoints]
    preferred = sorted(PRECISIONS, key=lambda one: one != profile.defaults.precision)
    limit = LatencyLimit(max_latency_ms, profile.name, profile.latency)
    return choose_by_latency(nets, limit, [precision] if precision else preferred)


def predicted_for(profile: DeviceProfile | None, checkpoint: Checkpoint, precision: str) -> Forecast | None:
    """What a checkpoint takes at its own counts, where the profile has a table of its net."""
    from tofe_edge.budget.latency import Net, forecast
    from tofe_edge.budget.latency_model import find_table
    from tofe_edge.model.checkpoint import host_of

    if profile is None or not profile.latency:
        return None
    net = Net(checkpoint, host_of(checkpoint).spec)
    found = find_table(profile.latency, net.backbone, precision)
    return None if found is None else forecast(net, checkpoint.token_counts, found)


def to_json(choice: LatencyChoice) -> dict[str, Any]:
    """The document of ``tofe-edge select --max-latency-ms``: the keys of the choice by GMACs, and those of latency."""
    picked = choice.forecast
    return {
        "checkpoint": picked.net.checkpoint.name,
        "token_counts": _kept(picked),
        "gmacs": _gmacs(picked),
        "budget_gmacs": None,
        "budget_source": f"--max-latency-ms on {choice.limit.profile}",
        "precision": picked.table.precision,
        "threads": picked.table.threads,
        "predicted_ms": round(picked.ms, 3),
        "max_latency_ms": choice.limit.ms,
        "at_own_counts": picked.at_own_counts,
        "latency_source": picked.table.source,
        "reason": choice.reason,
        "runners_up": [
            {
                "checkpoint": other.net.checkpoint.name,
                "gmacs": _gmacs(other),
                "precision": other.table.precision,
                "predicted_ms": round(other.ms, 3),
                "fits": other.ms <= choice.limit.target_ms,
            }
            for other in choice.others
        ],
    }


def describe(choice: LatencyChoice) -> str:
    """The same for people: the choice first, then all else at its own counts."""
    picked, limit = choice.forecast, choice.limit
    rows = [
        _row(">", picked, choice.reason),
        *(_row(" ", other, "fits" if other.ms <= limit.target_ms else "too slow") for other in choice.others),
    ]
    heading = (
        f"Limit: {limit.ms:g} ms on {limit.profile}, {threads_of(picked.table)}; predictions may come to "
        f"{limit.target_ms:.3g} ms\nTable: {picked.table.source}"
    )
    return f"{heading}\n{table(rows, ['checkpoint', 'precision', 'ms', 'GMACs', 'tokens kept', 'why'])}"


def _row(mark: str, one: Forecast, why: str) -> Sequence[str]:
    counts = str(one.counts or "dense")
    name = f"{mark} {one.net.checkpoint.name}"
    return [name, one.table.precision, f"{one.ms:.2f}", f"{_gmacs(one):.3f}", counts, why]


def _kept(one: Forecast) -> list[int] | None:
    return list(one.counts.kept) if one.counts else None


def _gmacs(one: Forecast) -> float:
    from tofe_edge.model.macs import dense_macs, gmacs, tofe_macs

    backbone = one.net.backbone
    return round(gmacs(dense_macs(backbone) if one.counts is None else tofe_macs(backbone, one.counts.kept)), 6)

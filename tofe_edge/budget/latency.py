"""The latency selector: a number of milliseconds and a device's latency tables in; checkpoint, counts and precision out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tofe_edge.budget.gmacs import WHOLE, accuracy_of, rank_of
from tofe_edge.budget.latency_model import find_table, predict_ms
from tofe_edge.errors import GateError, InputError
from tofe_edge.model.backbones.spec import Backbone, TokenCounts
from tofe_edge.model.checkpoint import Checkpoint
from tofe_edge.profiles.latency import LatencyTable

MARGIN = 0.05
"""A prediction is held to this share less than the limit, for it may be that much too low: docs/calibration.md."""

FREE = 0.005
"""A count is raised to the edge of its step if the whole net then takes at most this share longer."""

_CALIBRATE = (
    "run `tofe-edge calibrate --profile {profile} --checkpoint {checkpoint}` and select with the profile that it writes"
)


@dataclass(frozen=True)
class Net:
    """A checkpoint and the shape of its net."""

    checkpoint: Checkpoint
    backbone: Backbone


@dataclass(frozen=True)
class LatencyLimit:
    """What one image may take, and whose tables say what it does."""

    ms: float
    profile: str
    tables: tuple[LatencyTable, ...]

    @property
    def target_ms(self) -> float:
        """What a prediction may come to."""
        return self.ms * (1 - MARGIN)


@dataclass(frozen=True)
class Forecast:
    """A net at some counts in some precision, and what it is predicted to take."""

    net: Net
    counts: TokenCounts | None
    table: LatencyTable
    ms: float

    @property
    def at_own_counts(self) -> bool:
        """Whether the accuracy in the checkpoint's header was measured at these counts."""
        return self.counts == self.net.checkpoint.token_counts


@dataclass(frozen=True)
class LatencyChoice:
    """What was picked and why; ``others`` are all else at their own counts, most accurate first."""

    forecast: Forecast
    limit: LatencyLimit
    reason: str
    others: tuple[Forecast, ...]


def choose_by_latency(nets: Sequence[Net], limit: LatencyLimit, precisions: Sequence[str]) -> LatencyChoice:
    """Pick what fits the limit.

    1. Of all nets that fit at their own counts, the most accurate; of its precisions the first of ``precisions``
       that fits. Counts below the edge of a step are raised to it if that is free.
    2. If none fits, the one that takes least has its counts scaled down until it does, in proportion.

    Raises:
        InputError: no table is of any of the nets in any of the precisions.
        GateError: nothing fits, not even with one token per stage. The message has the least latency possible.
    """
    ranked = sorted(nets, key=lambda net: (-net.checkpoint.top1, net.checkpoint.gmacs, net.checkpoint.name))
    forecasts = [forecast for net in ranked for forecast in _forecasts(net, limit, precisions)]
    if not forecasts:
        raise InputError(_no_table(ranked, limit, precisions))
    fitting = [forecast for forecast in forecasts if forecast.ms <= limit.target_ms]
    if fitting:
        best = fitting[0]
        others = tuple(forecast for forecast in forecasts if forecast is not best)
        raised = raise_to_edges(best, limit.target_ms)
        names = len({forecast.net.checkpoint.name for forecast in fitting})
        reason = (
            f"{rank_of(best.net.checkpoint)} of {names} that fit {limit.ms:g} ms ({accuracy_of(best.net.checkpoint)})"
        )
        if best.counts is None:
            reason += WHOLE
        if raised != best:
            reason += f"; counts {best.counts} raised to the edge of their steps, which costs nothing"
        return LatencyChoice(raised, limit, reason, others)
    scaled = _scaled_to(forecasts, limit)
    reason = (
        f"nothing fits {limit.ms:g} ms at its own counts: counts scaled down from {scaled.net.checkpoint.token_counts}; "
        "accuracy at these counts was not measured, see `tofe-edge parity --data`"
    )
    return LatencyChoice(scaled, limit, reason, tuple(forecasts))


def _forecasts(net: Net, limit: LatencyLimit, precisions: Sequence[str]) -> Iterator[Forecast]:
    for precision in precisions:
        table = find_table(limit.tables, net.backbone, precision)
        if table is not None:
            yield forecast(net, net.checkpoint.token_counts, table)


def forecast(net: Net, counts: TokenCounts | None, table: LatencyTable) -> Forecast:
    """What ``net`` takes at these counts. Raises :class:`InputError` as :func:`predict_ms`."""
    return Forecast(net, counts, table, predict_ms(table, net.backbone, counts))


def raise_to_edges(chosen: Forecast, most_ms: float) -> Forecast:
    """The same with counts raised to the edge of their step or to alignment, if the net then takes no longer, but
    for ``FREE``.

    No count falls, and the result takes at most ``most_ms`` if ``chosen`` does.
    """
    counts, backbone = chosen.counts, chosen.net.backbone
    if counts is None:
        return chosen
    best, most_ms = chosen, min(most_ms, chosen.ms * (1 + FREE))
    for stage, kept in enumerate(counts.kept):
        for edge in _edges(kept + backbone.prefix_tokens, chosen.table):
            assert best.counts is not None
            higher = list(best.counts.kept)
            higher[stage] = min(edge - backbone.prefix_tokens, backbone.patch_tokens)
            raised = forecast(chosen.net, TokenCounts(tuple(higher)), chosen.table)
            if raised.ms <= most_ms:
                best = raised
                break
    return best


def _edges(tokens: int, table: LatencyTable) -> list[int]:
    """The next multiples of step and alignment from ``tokens`` on, the larger first."""
    widths = [width.tokens for width in (table.step, table.aligned) if width is not None]
    return sorted((-(-tokens // width) * width for width in widths), reverse=True)


def _scaled_to(forecasts: Sequence[Forecast], limit: LatencyLimit) -> Forecast:
    """The fastest with the largest counts that fit, in the proportions of its own."""
    scalable = [one for one in forecasts if one.counts is not None]
    if not scalable:
        least = min(forecasts, key=lambda one: one.ms)
        raise GateError(f"{_least(limit, least)}; a dense model has no token counts to lower: choose one with ToFe")
    fastest = min(scalable, key=lambda one: one.ms)
    assert fastest.counts is not None
    largest = max(fastest.counts.kept)
    scaled = fastest
    for top in range(largest - 1, 0, -1):
        counts = TokenCounts(tuple(max(1, kept * top // largest) for kept in fastest.counts.kept))
        scaled = forecast(fastest.net, counts, fastest.table)
        if scaled.ms <= limit.target_ms:
            return raise_to_edges(scaled, limit.target_ms)
    raise GateError(f"{_least(limit, scaled)}; allow more time, or train a smaller net with `tofe-edge train`")


def _least(limit: LatencyLimit, least: Forecast) -> str:
    needed = least.ms / (1 - MARGIN)
    return (
        f"{limit.ms:g} ms: nothing fits; the least possible on {limit.profile} is {needed:.3g} ms "
        f"({least.net.checkpoint.name}, {least.table.precision}, tokens kept {least.counts or 'all'}, {MARGIN:.0%} margin "
        "for the prediction)"
    )


def _no_table(nets: Sequence[Net], limit: LatencyLimit, precisions: Sequence[str]) -> str:
    if not nets:
        return "no checkpoint to choose from; train one with `tofe-edge train` or name one with --checkpoint"
    names = ", ".join(net.checkpoint.name for net in nets)
    there = ", ".join(f"{table.backbone} in {table.precision}" for table in limit.tables) or "none at all"
    hint = _CALIBRATE.format(profile=limit.profile, checkpoint=nets[0].checkpoint.name)
    return f"profile {limit.profile} has no latency table for {names} in {' or '.join(precisions)} (it has: {there}); {hint}"

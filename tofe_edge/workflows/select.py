"""Choosing a checkpoint for a device: by a budget in GMACs, or by milliseconds if the device has latency tables."""

from __future__ import annotations

from dataclasses import dataclass

from tofe_edge.budget.gmacs import Budget, Choice, choose
from tofe_edge.budget.latency import Forecast, LatencyChoice, LatencyLimit, Net, choose_by_latency, forecast
from tofe_edge.budget.latency_model import find_table
from tofe_edge.errors import require
from tofe_edge.model.backbones import TokenCounts
from tofe_edge.model.checkpoint import Checkpoint, backbone_of
from tofe_edge.model.zoo import shipped_checkpoints
from tofe_edge.profiles import DeviceProfile
from tofe_edge.workflows.sources import StrPath, open_profile

LATENCY_PRECISIONS = ("int8", "fp32")
"""Precisions of latency tables, in the order in which they are tried if a profile prefers neither."""


@dataclass(frozen=True)
class Selected:
    """The checkpoint that fits a device, and the evidence.

    Attributes:
        choice: the whole comparison, with the runners-up.
        forecast: what it is predicted to take; ``None`` if no latency table tells.
    """

    choice: Choice | LatencyChoice
    forecast: Forecast | None

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint to convert."""
        if isinstance(self.choice, Choice):
            return self.choice.checkpoint
        return self.choice.forecast.net.checkpoint

    @property
    def token_counts(self) -> TokenCounts | None:
        """Kept patch tokens per stage: the checkpoint's own, or fewer if a latency limit asks for that."""
        return self.checkpoint.token_counts if isinstance(self.choice, Choice) else self.choice.forecast.counts

    @property
    def reason(self) -> str:
        """Why this one, in words."""
        return self.choice.reason


def select(
    profile: StrPath | DeviceProfile | None = None,
    *,
    max_gmacs: float | None = None,
    max_latency_ms: float | None = None,
    precision: str | None = None,
) -> Selected:
    """Choose the shipped checkpoint that fits a device, or a budget of your own.

    Args:
        profile: a shipped device profile or a YAML file; its budget in GMACs holds unless another one is given.
        max_gmacs: budget in 1e9 multiply-accumulates per image.
        max_latency_ms: what one image may take on the profile's device, by its latency tables.
        precision: with ``max_latency_ms``: ``int8`` or ``fp32`` alone.

    Raises:
        InputError: there is no budget, two of them, or no latency table.
        GateError: nothing fits.

    Example:
        >>> import tofe_edge as te
        >>> selected = te.select("raspberry_pi_5")
        >>> selected.checkpoint.name, selected.token_counts is not None
        ('tofe_deit_tiny_063', True)
        >>> te.select(max_gmacs=0.7).checkpoint.gmacs <= 0.7
        True
        >>> te.select("m4").token_counts is None  # the dense net fits
        True
    """
    check_budget(max_gmacs, max_latency_ms)
    require(
        precision is None or max_latency_ms is not None,
        "--precision goes with --max-latency-ms; a budget in GMACs is the same in each",
    )
    device = None if profile is None else open_profile(profile)
    if max_latency_ms is not None:
        by_latency = choose_within(device, max_latency_ms, precision)
        return Selected(by_latency, by_latency.forecast)
    choice = choose_for(device, max_gmacs)
    usual_precision = device.defaults.precision if device else LATENCY_PRECISIONS[0]
    return Selected(choice, predicted_for(device, choice.checkpoint, usual_precision))


def check_budget(max_gmacs: float | None, max_latency_ms: float | None) -> None:
    """Refuse two budgets at once. Raises :class:`InputError`."""
    require(max_gmacs is None or max_latency_ms is None, "--max-gmacs and --max-latency-ms are two budgets; give one")


def candidates(dense: bool = False) -> list[Checkpoint]:
    """The shipped checkpoints; with ``dense`` the dense ones alone."""
    return [one for one in shipped_checkpoints() if one.token_counts is None or not dense]


def choose_for(profile: DeviceProfile | None, max_gmacs: float | None, dense: bool = False) -> Choice:
    """Choose among the candidates for a profile's budget, or for ``max_gmacs``.

    Raises:
        InputError: neither is given.
        GateError: nothing fits.
    """
    require(profile is not None or max_gmacs is not None, "say what it must fit: --profile NAME or --max-gmacs G")
    if max_gmacs is not None:
        return choose(candidates(dense), Budget(max_gmacs, "--max-gmacs"))
    assert profile is not None
    return choose(candidates(dense), Budget(profile.budget.gmacs.value, f"profile {profile.name}"))


def choose_within(
    profile: DeviceProfile | None,
    max_latency_ms: float,
    precision: str | None = None,
    checkpoint: Checkpoint | None = None,
    dense: bool = False,
) -> LatencyChoice:
    """Choose for a latency limit, among the candidates or for the one given.

    Raises:
        InputError: there is no profile, or it has no table for any of them.
        GateError: nothing fits.
    """
    require(profile is not None, "--max-latency-ms is held by a device's latency table; say which with --profile")
    assert profile is not None
    require(
        precision in (None, *LATENCY_PRECISIONS),
        f"--max-latency-ms: latency is predicted for fp32 and int8, not {precision}",
    )
    nets = [Net(one, backbone_of(one).spec) for one in (candidates(dense) if checkpoint is None else [checkpoint])]
    preferred = sorted(LATENCY_PRECISIONS, key=lambda one: one != profile.defaults.precision)
    limit = LatencyLimit(max_latency_ms, profile.name, profile.latency)
    return choose_by_latency(nets, limit, [precision] if precision else preferred)


def predicted_for(profile: DeviceProfile | None, checkpoint: Checkpoint, precision: str) -> Forecast | None:
    """Return what a checkpoint takes at its own counts, if the profile has a table of its net."""
    if profile is None or not profile.latency:
        return None
    net = Net(checkpoint, backbone_of(checkpoint).spec)
    table = find_table(profile.latency, net.backbone, precision)
    return None if table is None else forecast(net, checkpoint.token_counts, table)

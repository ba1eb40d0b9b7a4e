"""Which checkpoint ``tofe-edge convert`` takes, and why."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from tofe_edge.cli import convert_latency
from tofe_edge.cli.options import open_checkpoint, require
from tofe_edge.io.progress import warn
from tofe_edge.workflows.select import check_budget, choose_for

if TYPE_CHECKING:
    from tofe_edge.budget.latency import Forecast
    from tofe_edge.model.checkpoint import Checkpoint
    from tofe_edge.profiles import DeviceProfile


def choose(args: argparse.Namespace, profile: DeviceProfile | None) -> tuple[Checkpoint, str, Forecast | None]:
    """The checkpoint, why, and what it will take where it was chosen by that.

    Raises:
        InputError: the options do not go together, or there is no such checkpoint or table.
        GateError: nothing fits.
    """
    check_budget(args.max_gmacs, args.max_latency_ms)
    named = open_checkpoint(args.checkpoint, args.backbone) if args.checkpoint else None
    require(
        named is not None or args.backbone is None,
        "--backbone names the net of plain dense weights; give their file with --checkpoint",
    )
    if args.max_latency_ms is not None:
        found = convert_latency.choose(args, profile, named)
        return found.forecast.net.checkpoint, found.reason, found.forecast
    if named is not None:
        _warn_over_budget(named, profile, args.max_gmacs)
        return named, "named with --checkpoint", None
    choice = choose_for(profile, args.max_gmacs)
    return choice.checkpoint, choice.reason, None


def _warn_over_budget(checkpoint: Checkpoint, profile: DeviceProfile | None, max_gmacs: float | None) -> None:
    from tofe_edge.budget.gmacs import TOLERANCE

    limit = max_gmacs or (profile.budget.gmacs.value if profile else None)
    if limit is not None and checkpoint.gmacs > limit * (1 + TOLERANCE):
        warn(f"{checkpoint.name} needs {checkpoint.gmacs:.2f} GMACs, over the budget of {limit:.2f}")

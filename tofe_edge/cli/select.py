"""``tofe-edge select``: which checkpoint fits a device, with the evidence and the runners-up."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from tofe_edge.cli.calibrated import threads_of
from tofe_edge.cli.options import open_profile, positive_float, require
from tofe_edge.cli.output import emit, table

if TYPE_CHECKING:
    from tofe_edge.budget.gmacs import Choice
    from tofe_edge.budget.latency import Forecast
    from tofe_edge.profiles import DeviceProfile


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Declare the command."""
    parser: argparse.ArgumentParser = commands.add_parser("select", help="which checkpoint fits a device, and why")
    add_budget(parser)
    parser.add_argument(
        "--precision",
        choices=("fp32", "int8"),
        help="with --max-latency-ms: this one alone (default: the profile's first)",
    )
    return parser


def add_budget(parser: argparse.ArgumentParser) -> None:
    """``--profile``, ``--max-gmacs`` and ``--max-latency-ms``."""
    parser.add_argument(
        "--profile", metavar="P", help="a shipped device profile, or a YAML file; `tofe-edge profiles` lists them"
    )
    parser.add_argument(
        "--max-gmacs",
        type=positive_float,
        metavar="G",
        help="budget in 1e9 multiply-accumulates, in place of the profile's",
    )
    parser.add_argument(
        "--max-latency-ms",
        type=positive_float,
        metavar="T",
        help="what one image may take on the profile's device, by the table that `tofe-edge calibrate` measured there; "
        "chooses checkpoint, token counts and precision",
    )


def check_budget(max_gmacs: float | None, max_latency_ms: float | None) -> None:
    """Refuse two budgets at once. Raises :class:`InputError`."""
    require(max_gmacs is None or max_latency_ms is None, "--max-gmacs and --max-latency-ms are two budgets; give one")


def run(args: argparse.Namespace) -> int:
    """Print the choice."""
    check_budget(args.max_gmacs, args.max_latency_ms)
    require(
        args.precision is None or args.max_latency_ms is not None,
        "--precision goes with --max-latency-ms; a budget in GMACs is the same in each",
    )
    profile = open_profile(args.profile) if args.profile else None
    if args.max_latency_ms is not None:
        from tofe_edge.cli import latency_choice

        found = latency_choice.choose_within(profile, args.max_latency_ms, args.precision)
        emit(args.json, latency_choice.to_json(found), latency_choice.describe(found))
        return 0
    choice = choose_for(profile, args.max_gmacs)
    forecast = _predicted(profile, choice)
    emit(args.json, to_json(choice, forecast), describe(choice, forecast))
    return 0


def choose_for(profile: DeviceProfile | None, max_gmacs: float | None) -> Choice:
    """Choose among the shipped checkpoints for a profile's budget, or for ``max_gmacs``.

    Raises:
        InputError: neither is given.
        GateError: nothing fits.
    """
    from tofe_edge.budget.gmacs import Budget, choose
    from tofe_edge.model.zoo import shipped_checkpoints

    require(profile is not None or max_gmacs is not None, "say what it must fit: --profile NAME or --max-gmacs G")
    if max_gmacs is not None:
        budget = Budget(max_gmacs, "--max-gmacs")
    else:
        assert profile is not None
        budget = Budget(profile.budget.gmacs.value, f"profile {profile.name}")
    return choose(shipped_checkpoints(), budget)


def _predicted(profile: DeviceProfile | None, choice: Choice) -> Forecast | None:
    """What the choice takes on the profile's device, where that is known."""
    if profile is None:
        return None
    from tofe_edge.cli.latency_choice import predicted_for

    return predicted_for(profile, choice.checkpoint, profile.defaults.precision)


def to_json(choice: Choice, forecast: Forecast | None = None) -> dict[str, Any]:
    """The stable keys of ``--json``, the reason and the runners-up."""
    picked = choice.checkpoint
    return {
        "checkpoint": picked.name,
        "token_counts": list(picked.token_counts.kept) if picked.token_counts else None,
        "gmacs": picked.gmacs,
        "budget_gmacs": choice.budget.gmacs,
        "budget_source": choice.budget.source,
        "predicted_ms": None if forecast is None else round(forecast.ms, 3),
        "reason": choice.reason,
        "runners_up": [
            {
                "checkpoint": other.checkpoint.name,
                "gmacs": other.checkpoint.gmacs,
                "fits": other.fits,
                "verdict": other.verdict,
            }
            for other in choice.runners_up
        ],
    }


def describe(choice: Choice, forecast: Forecast | None = None) -> str:
    """A table: the choice first, then the runners-up."""
    picked = choice.checkpoint
    rows = [[f"> {picked.name}", f"{picked.gmacs:.3f}", str(picked.token_counts or "dense"), choice.reason]]
    rows += [
        [
            f"  {other.checkpoint.name}",
            f"{other.checkpoint.gmacs:.3f}",
            str(other.checkpoint.token_counts or "dense"),
            other.verdict,
        ]
        for other in choice.runners_up
    ]
    budget = f"Budget: {choice.budget.gmacs:.2f} GMACs ({choice.budget.source})"
    if forecast is not None:
        budget += f"\nPredicted: {forecast.ms:.2f} ms in {forecast.table.precision}, {threads_of(forecast.table)}"
    return f"{budget}\n{table(rows, ['checkpoint', 'GMACs', 'tokens kept', 'why'])}"

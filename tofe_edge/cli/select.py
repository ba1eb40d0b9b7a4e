"""``tofe-edge select``: which checkpoint fits a device, with the evidence and the runners-up."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from tofe_edge.cli.options import open_profile, positive_float, require
from tofe_edge.cli.output import emit, table

if TYPE_CHECKING:
    from profiles import DeviceProfile
    from tofe_edge.budget import Choice


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Declare the command."""
    parser: argparse.ArgumentParser = commands.add_parser("select", help="which checkpoint fits a device, and why")
    add_budget(parser)
    return parser


def add_budget(parser: argparse.ArgumentParser) -> None:
    """``--profile`` and ``--max-gmacs``."""
    parser.add_argument(
        "--profile", metavar="P", help="a shipped device profile, or a YAML file; `tofe-edge profiles` lists them"
    )
    parser.add_argument(
        "--max-gmacs",
        type=positive_float,
        metavar="G",
        help="budget in 1e9 multiply-accumulates, in place of the profile's",
    )


def run(args: argparse.Namespace) -> int:
    """Print the choice."""
    profile = open_profile(args.profile) if args.profile else None
    choice = choose_for(profile, args.max_gmacs)
    document = to_json(choice)
    emit(args.json, document, describe(choice))
    return 0


def choose_for(profile: DeviceProfile | None, max_gmacs: float | None) -> Choice:
    """Choose among the shipped checkpoints for a profile's budget, or for ``max_gmacs``.

    Raises:
        InputError: neither is given.
        GateError: nothing fits.
    """
    from tofe_edge.budget import Budget, choose
    from tofe_edge.zoo import shipped_checkpoints

    require(profile is not None or max_gmacs is not None, "say what it must fit: --profile NAME or --max-gmacs G")
    if max_gmacs is not None:
        budget = Budget(max_gmacs, "--max-gmacs")
    else:
        assert profile is not None
        budget = Budget(profile.budget.gmacs.value, f"profile {profile.name}")
    return choose(shipped_checkpoints(), budget)


def to_json(choice: Choice) -> dict[str, Any]:
    """The stable keys of ``--json``, the reason and the runners-up."""
    picked = choice.checkpoint
    return {
        "checkpoint": picked.name,
        "token_counts": list(picked.token_counts.kept) if picked.token_counts else None,
        "gmacs": picked.gmacs,
        "budget_gmacs": choice.budget.gmacs,
        "budget_source": choice.budget.source,
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


def describe(choice: Choice) -> str:
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
    return f"{budget}\n{table(rows, ['checkpoint', 'GMACs', 'tokens kept', 'why'])}"

"""``tofe-edge select``: which checkpoint fits a device, with the evidence and the runners-up."""

from __future__ import annotations

import argparse
from typing import Any

from tofe_edge.budget.gmacs import Choice
from tofe_edge.budget.latency import Forecast, LatencyChoice
from tofe_edge.cli.options import add_budget, keywords
from tofe_edge.cli.output import emit, paragraph, table, threads
from tofe_edge.model.macs import dense_macs, gmacs, tofe_macs
from tofe_edge.workflows.select import LATENCY_PRECISIONS, select


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    add_budget(parser)
    parser.add_argument(
        "--precision",
        choices=sorted(LATENCY_PRECISIONS),
        help="with --max-latency-ms: this one alone (default: the profile's first)",
    )


def run(args: argparse.Namespace) -> int:
    """Print the choice."""
    selected = select(args.profile, **keywords(select, args))
    if isinstance(selected.choice, LatencyChoice):
        emit(args.json, _latency_json(selected.choice), _latency_text(selected.choice))
    else:
        emit(args.json, _json(selected.choice, selected.forecast), _text(selected.choice, selected.forecast))
    return 0


def _json(choice: Choice, forecast: Forecast | None) -> dict[str, Any]:
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
            {"checkpoint": one.checkpoint.name, "gmacs": one.checkpoint.gmacs, "fits": one.fits, "verdict": one.verdict}
            for one in choice.runners_up
        ],
    }


def _text(choice: Choice, forecast: Forecast | None) -> str:
    """The choice first, then the runners-up."""
    ranked = [(">", choice.checkpoint, choice.reason)]
    ranked += [("", other.checkpoint, other.verdict) for other in choice.runners_up]
    rows = [[mark, one.name, f"{one.gmacs:.3f}", str(one.token_counts or "dense"), why] for mark, one, why in ranked]
    budget = f"Budget: {choice.budget.gmacs:.2f} GMACs ({choice.budget.source})"
    if forecast is not None:
        used = forecast.table
        budget += f"\nPredicted: {forecast.ms:.2f} ms in {used.precision}, {threads(used.threads)}"
    return f"{paragraph(budget)}\n\n{table(rows, ['', 'checkpoint', 'GMACs', 'tokens kept', 'why'])}"


def _latency_json(choice: LatencyChoice) -> dict[str, Any]:
    """The keys of the choice by GMACs, and those of latency."""
    picked, limit = choice.forecast, choice.limit
    return {
        **_forecast_json(picked),
        "token_counts": list(picked.counts.kept) if picked.counts else None,
        "budget_gmacs": None,
        "budget_source": f"--max-latency-ms on {limit.profile}",
        "threads": picked.table.threads,
        "max_latency_ms": limit.ms,
        "at_own_counts": picked.at_own_counts,
        "latency_source": picked.table.source,
        "reason": choice.reason,
        "runners_up": [{**_forecast_json(one), "fits": one.ms <= limit.target_ms} for one in choice.others],
    }


def _forecast_json(one: Forecast) -> dict[str, Any]:
    return {
        "checkpoint": one.net.checkpoint.name,
        "gmacs": _gmacs(one),
        "precision": one.table.precision,
        "predicted_ms": round(one.ms, 3),
    }


def _latency_text(choice: LatencyChoice) -> str:
    """The choice first, then all others at their own counts."""
    picked, limit = choice.forecast, choice.limit
    ranked = [(">", picked, choice.reason)]
    ranked += [("", one, "fits" if one.ms <= limit.target_ms else "too slow") for one in choice.others]
    rows = [
        [
            mark,
            one.net.checkpoint.name,
            one.table.precision,
            f"{one.ms:.2f}",
            f"{_gmacs(one):.3f}",
            str(one.counts or "dense"),
            why,
        ]
        for mark, one, why in ranked
    ]
    heading = (
        f"Limit: {limit.ms:g} ms on {limit.profile}, {threads(picked.table.threads)}; predictions may come to "
        f"{limit.target_ms:.3g} ms\nTable: {picked.table.source}"
    )
    return (
        f"{paragraph(heading)}\n\n{table(rows, ['', 'checkpoint', 'precision', 'ms', 'GMACs', 'tokens kept', 'why'])}"
    )


def _gmacs(one: Forecast) -> float:
    backbone = one.net.backbone
    return round(gmacs(dense_macs(backbone) if one.counts is None else tofe_macs(backbone, one.counts.kept)), 6)

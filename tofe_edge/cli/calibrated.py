"""What ``tofe-edge calibrate`` says about the tables that it measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tofe_edge.cli.output import facts

if TYPE_CHECKING:
    from tofe_edge.profiles import LatencyTable
    from tofe_edge.runtimes.calibration import Calibrated

_BUSY = 1.25
"""Where the median is this many times an undisturbed run, somebody should know."""

Found = Sequence[tuple["LatencyTable", "Calibrated"]]


def to_json(profile: str, out: Path, where: str, found: Found) -> dict[str, Any]:
    """The document of ``tofe-edge calibrate --json``."""
    return {
        "profile": profile,
        "wrote": str(out),
        "on": where,
        "tables": [
            {**asdict(table), "runs": measured.runs, "disturbed": round(measured.disturbed, 3)}
            for table, measured in found
        ],
    }


def describe(profile: str, out: Path, where: str, found: Found) -> str:
    """The same for people."""
    rows: list[tuple[str, str]] = [("profile", f"{profile}, measured on {where}")]
    for table, measured in found:
        rows += [
            ("", ""),
            ("net", f"{table.backbone}, {table.precision}, {threads_of(table)}"),
            *table_facts(table),
        ]
        spread = f"the median of all runs is {measured.disturbed - 1:.0%} above undisturbed ones, which count"
        if measured.disturbed > _BUSY:
            spread += "; the device was busy: stop other work and calibrate again if it need not be"
        rows.append(("spread", spread))
    return facts([*rows, ("", ""), ("wrote", str(out))])


def threads_of(table: LatencyTable) -> str:
    """With how many it was measured."""
    return f"{table.threads} thread{'s' if table.threads > 1 else ''}"


def table_facts(table: LatencyTable) -> list[tuple[str, str]]:
    """The summary of a table: its times in milliseconds."""
    block = dict(table.block)
    tokens = sorted({min(block), *(min(block, key=lambda one: abs(one - wanted)) for wanted in (64, 128)), max(block)})
    step = f"{table.step.tokens} tokens, {table.step.ms:.3f} ms" if table.step else "none seen"
    aligned = f"multiples of {table.aligned.tokens} spare {table.aligned.ms:.3f} ms" if table.aligned else "none seen"
    return [
        ("block", ", ".join(f"{one} tokens {block[one]:.3f} ms" for one in tokens) + f" ({len(block)} points)"),
        ("step", step),
        ("aligned", aligned),
        ("stem", f"{table.stem:.3f} ms"),
        ("selection", f"{table.selection:.3f} ms"),
        ("tail", f"{table.tail[0][1]:.3f} to {table.tail[-1][1]:.3f} ms"),
        ("approximator", f"{table.approximator[0][1]:.3f} to {table.approximator[-1][1]:.3f} ms"),
        ("dense", f"{table.dense:.2f} ms"),
        *((f"kept {', '.join(map(str, one.kept))}", f"{one.ms:.2f} ms") for one in table.tofe),
    ]

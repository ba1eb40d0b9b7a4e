"""How well a latency table predicts: ten triples of token counts that it was not measured at.

    python -m benchmarks.latency_prediction --programs build/probes --lower-only
    taskset -c 1 python -m benchmarks.latency_prediction --programs build/probes

Lowers and times what `tofe-edge calibrate` does, and the whole net at each triple; makes the table of the former and
compares its predictions with the latter. All take turns: what is compared is the prediction, not the machine at two
moments. The dense net needs no prediction, a table has it; its parts are added up to see how far they carry.
Lowering takes minutes, timing wants a core to itself: so they can be two calls. Triples are drawn from `--seed`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks import host
from tofe_edge.budget.latency_model import block_ms, predict_ms, rest_ms
from tofe_edge.budget.latency_parts import Part, parts_of, to_table
from tofe_edge.converters.probes import build_probes
from tofe_edge.errors import InputError
from tofe_edge.io.files import write_bytes
from tofe_edge.io.progress import covering_bar
from tofe_edge.model.backbones import Backbone, TokenCounts
from tofe_edge.model.checkpoint import Checkpoint, backbone_of, load_model
from tofe_edge.model.macs import dense_macs, gmacs, tofe_macs
from tofe_edge.model.zoo import find_checkpoint
from tofe_edge.profiles import LatencyTable
from tofe_edge.runtimes.bench import HostBench
from tofe_edge.runtimes.calibration import UNDISTURBED_PERCENT, Calibrated, Plan, time_parts, turns

PRECISIONS = ("int8", "fp32")
TRIPLES = 10
THREADS = 1
_FEWEST = 8
_PACKAGES = ("torch", "timm", "executorch", "torchao")


@dataclass(frozen=True)
class Row:
    """One prediction. Times are milliseconds."""

    tokens: str
    gmacs: float
    predicted_ms: float
    measured_ms: float
    error: float
    """Share by which the prediction is too high."""


def draw(backbone: Backbone, own: TokenCounts, seed: int, number: int = TRIPLES) -> list[TokenCounts]:
    """Triples that fall from stage to stage, as trained ones do, anywhere from 8 tokens to all; none is ``own``."""
    generator = np.random.default_rng(seed)
    found: list[TokenCounts] = []
    while len(found) < number:
        drawn = generator.integers(_FEWEST, backbone.patch_tokens, len(backbone.stages), endpoint=True)
        counts = TokenCounts(tuple(sorted((int(count) for count in drawn), reverse=True)))
        if counts != own and counts not in found:
            found.append(counts)
    return found


def lower(folder: Path, checkpoint: Checkpoint, parts: Sequence[Part], precision: str) -> dict[Part, Path]:
    """Every part's program in ``folder``, one file per part group; those that are there already are taken as they are."""
    index = folder / f"{checkpoint.name}-{precision}.yaml"
    if index.is_file():
        places = yaml.safe_load(index.read_text(encoding="utf-8"))
        if set(places) == {part.method for part in parts}:
            return {part: folder / places[part.method] for part in parts}
    paths: dict[Part, Path] = {}
    for number, program in enumerate(build_probes(load_model(checkpoint), parts, precision)):
        print(f"lowered {precision}: {', '.join(part.method for part in program.parts)}", file=sys.stderr, flush=True)
        path = folder / f"{checkpoint.name}-{precision}-{number}.pte"
        write_bytes(path, program.content)
        paths |= dict.fromkeys(program.parts, path)
    write_bytes(index, yaml.safe_dump({part.method: path.name for part, path in paths.items()}).encode())
    return {part: paths[part] for part in parts}


def compare(table: LatencyTable, measured: Calibrated, unseen: Sequence[TokenCounts], backbone: Backbone) -> list[Row]:
    """A row for each triple, and one for the dense net as the sum of its parts."""
    rows = [
        _row(
            str(counts),
            tofe_macs(backbone, counts.kept),
            predict_ms(table, backbone, counts),
            measured.ms[Part("tofe", counts.kept)],
        )
        for counts in unseen
    ]
    blocks = (backbone.depth - 1) * float(block_ms(table, backbone)[-1])
    dense_ms = table.stem + blocks + table.tail[-1][1] + rest_ms(table, backbone)
    return [*rows, _row("dense", dense_macs(backbone), dense_ms, measured.ms[Part("dense")])]


def _row(tokens: str, macs: float, predicted_ms: float, measured_ms: float) -> Row:
    return Row(
        tokens=tokens,
        gmacs=round(gmacs(macs), 4),
        predicted_ms=round(predicted_ms, 3),
        measured_ms=round(measured_ms, 3),
        error=round(predicted_ms / measured_ms - 1, 4),
    )


def predict_and_measure(
    checkpoint: Checkpoint,
    backbone: Backbone,
    unseen: Sequence[TokenCounts],
    precision: str,
    arguments: argparse.Namespace,
) -> dict[str, Any] | None:
    """Everything in one precision; ``None`` if programs are all that is wanted."""
    parts = parts_of(backbone, checkpoint.token_counts)
    whole = [Part("tofe", counts.kept) for counts in unseen]
    programs = lower(arguments.programs, checkpoint, [*parts, *whole], precision)
    if arguments.lower_only:
        return None
    plan, bench = Plan(arguments.rounds, arguments.runs, THREADS), HostBench()
    with covering_bar(f"measuring {precision}", total=plan.rounds * len(turns(programs))) as bar:
        measured = time_parts(bench, programs, plan, bar)
    own = {part: measured.ms[part] for part in parts}
    table = to_table(own, backbone, precision=precision, threads=THREADS, source="this measurement")
    rows = compare(table, measured, unseen, backbone)
    return {
        "precision": precision,
        "parts": len(parts),
        "block_ms": dict(table.block),
        "step": table.step and asdict(table.step),
        "aligned": table.aligned and asdict(table.aligned),
        "rest_ms": round(rest_ms(table, backbone), 3),
        "disturbed": round(measured.disturbed, 3),
        "largest_error": max((row.error for row in rows), key=abs),
        "results": [asdict(row) for row in rows],
    }


def run(arguments: argparse.Namespace, command: str) -> Path | None:
    """Lower, time, print, write. Returns the path of the result file, ``None`` with ``--lower-only``.

    Raises:
        InputError: the checkpoint is dense.
        DeviceError: a program fails.
    """
    checkpoint = find_checkpoint(arguments.checkpoint)
    if checkpoint.token_counts is None:
        raise InputError(f"checkpoint {arguments.checkpoint!r} is dense; choose one with token counts")
    backbone = backbone_of(checkpoint).spec
    unseen = draw(backbone, checkpoint.token_counts, arguments.seed)
    found = [predict_and_measure(checkpoint, backbone, unseen, one, arguments) for one in PRECISIONS]
    if arguments.lower_only:
        return None
    document: dict[str, Any] = {
        **host.conditions(command, _PACKAGES, THREADS),
        "checkpoint": checkpoint.name,
        "anchor": str(checkpoint.token_counts),
        "rounds": arguments.rounds,
        "runs": arguments.runs,
        "statistic": f"percentile {UNDISTURBED_PERCENT:g} of all runs",
        "precisions": found,
    }
    path: Path = arguments.out / f"latency-prediction-{host.today()}.yaml"
    host.write(path, document)
    for one in found:
        assert one is not None, "only --lower-only gives nothing"
        for row in one["results"]:
            print(
                f"{one['precision']:<5} {row['tokens']:<12} predicted {row['predicted_ms']:7.2f} ms  measured "
                f"{row['measured_ms']:7.2f} ms  {row['error']:+.1%}"
            )
    return path


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--checkpoint", default="tofe_deit_tiny_063", metavar="NAME", help="ToFe checkpoint (%(default)s)"
    )
    parser.add_argument("--programs", type=Path, required=True, metavar="DIR", help="where the programs are, or go")
    parser.add_argument("--lower-only", action="store_true", help="make the programs, time nothing")
    parser.add_argument("--seed", type=int, default=20261121, metavar="N", help="of the triples (%(default)s)")
    parser.add_argument(
        "--rounds", type=int, default=20, metavar="N", help="times that each part has its turn (%(default)s)"
    )
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="runs in each turn (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), metavar="DIR")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    return host.run_benchmark("benchmarks.latency_prediction", parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())

"""Latency in ``tofe-edge convert``: choosing for a limit, and measuring the result before it is written."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from tofe_edge.cli.options import add_runner, require
from tofe_edge.errors import GateError

if TYPE_CHECKING:
    from tofe_edge.budget.latency import Forecast, LatencyChoice
    from tofe_edge.io.artifact import Artifact
    from tofe_edge.model.checkpoint import Checkpoint
    from tofe_edge.profiles import DeviceProfile

_ROUNDS, _RUNS = 20, 10


def add_options(parser: argparse.ArgumentParser) -> None:
    """``--on`` and ``--runner``."""
    parser.add_argument(
        "--on",
        metavar="WHERE",
        help="measure the model before it is written: host, ssh://[USER@]HOST[:PORT], adb or adb://SERIAL; "
        "with --max-latency-ms it is not written where it takes longer (default: not measured)",
    )
    add_runner(parser)


def choose(args: argparse.Namespace, profile: DeviceProfile | None, checkpoint: Checkpoint | None) -> LatencyChoice:
    """What ``--max-latency-ms`` comes to, and with what kind of graph it can be held.

    Raises:
        InputError: latency is not predicted for what else is asked for, or there is no table.
        GateError: nothing fits.
    """
    from tofe_edge.workflows.select import choose_within

    reason = _not_predicted(args)
    require(reason is None, f"--max-latency-ms: latency is not predicted {reason}")
    return choose_within(profile, args.max_latency_ms, args.precision, checkpoint)


def predicted(
    args: argparse.Namespace, profile: DeviceProfile | None, checkpoint: Checkpoint, precision: str
) -> Forecast | None:
    """What the conversion will take, where the profile's tables tell."""
    from tofe_edge.workflows.select import predicted_for

    return None if _not_predicted(args) else predicted_for(profile, checkpoint, precision)


def _not_predicted(args: argparse.Namespace) -> str | None:
    """Why tables, which are of the usual graph, do not tell what the one that is asked for takes."""
    reasons = {
        "for Core ML; use --target executorch": "coreml" in (args.target, args.backend),
        "for batches": args.batch > 1,
        "for other image sizes": args.image_size is not None,
        "for --selection rank": args.selection == "rank",
        f"for --int8-mode {args.int8_mode}": args.int8_mode not in (None, "dynamic"),
        "for --reproducible": args.reproducible,
    }
    return next((reason for reason, given in reasons.items() if given), None)


def latency_record(args: argparse.Namespace, draft: Artifact, forecast: Forecast | None, threads: int) -> Any:
    """What the manifest keeps: predicted and, with ``--on``, measured; ``None`` where neither is known.

    Raises:
        GateError: it takes longer than ``--max-latency-ms``.
        InputError, DeviceError: it cannot be measured.
    """
    if forecast is None and args.on is None:
        return None
    record: dict[str, Any] = {
        "predicted_ms": None if forecast is None else round(forecast.ms, 3),
        "measured_ms": None,
        "measured_p50_ms": None,
        "limit_ms": args.max_latency_ms,
        "device": None,
        "threads": threads,
        "source": None if forecast is None else forecast.table.source,
    }
    if args.on is None:
        return record
    record |= _measured(args, draft, threads)
    limit = args.max_latency_ms
    if limit is not None and record["measured_ms"] > limit:
        raise GateError(
            f"{draft.path.name}: not written, it takes {record['measured_ms']:.2f} ms on {record['device']} where "
            f"{record['predicted_ms']:.2f} ms were predicted and {limit:g} ms are allowed; calibrate again with the device "
            f"as it is now, or ask for --max-latency-ms {limit * limit / record['measured_ms']:.3g}"
        )
    return record


def _measured(args: argparse.Namespace, draft: Artifact, threads: int) -> dict[str, Any]:
    from tofe_edge.io.progress import covering_bar
    from tofe_edge.runtimes.calibration import undisturbed_ms
    from tofe_edge.runtimes.devices.opening import open_bench
    from tofe_edge.runtimes.timing import TimingRequest, joined

    with (
        open_bench(args.on, args.runner) as bench,
        covering_bar(f"measuring on {bench.name}", total=_ROUNDS, unit="round") as bar,
    ):
        timings = []
        for _ in range(_ROUNDS):
            timings.append(bench.time(draft.path, TimingRequest(runs=_RUNS, threads=threads)))
            bar.update(1)
        timing, device = joined(timings), bench.name
    return {
        "measured_ms": round(undisturbed_ms(timing), 3),
        "measured_p50_ms": round(timing.latency.percentile(50), 3),
        "device": device,
    }

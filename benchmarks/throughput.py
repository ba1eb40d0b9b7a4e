"""Images per second of the reference, eager PyTorch: dense against ToFe with batch-adaptive counts, by batch size.

    python -m benchmarks.throughput
    python -m benchmarks.throughput --nets deit_small_2.0 lvvit_s:96,48,24 --precision fp16
    taskset -c 0 python -m benchmarks.throughput --device cpu --batches 1,2,4,8 --seconds 10

Runs on the CPU where there is no GPU, and says so. Images lie in the device's memory: what it takes to get them there
is not measured. Prints a Markdown table and writes all figures as YAML.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import yaml

from benchmarks import host
from benchmarks.subjects import NAMED, Entry, open_net
from tofe_edge.errors import InputError
from tofe_edge.evaluation.reference import forbid_tf32, gpu_failures, pick_device, why_no_cuda
from tofe_edge.io.progress import progress_bar
from tofe_edge.runtimes.latency import Estimate, median_of

MIN_ROUNDS = 6
"""The fewest rounds of which two hold the median between them with 95 %."""

_MAX_CALLS = 1000

Call = Callable[[], object]


@dataclass(frozen=True)
class Plan:
    """How long two rivals are timed."""

    rounds: int = 20
    seconds: float = math.inf
    """After these no further round begins, once there are six."""
    turn_s: float = 0.2
    """A turn repeats its rival until it takes about as long: what it costs to wait for a GPU is then no part of it."""
    warm_up_s: float = 0.5
    """Each rival runs so long before the first round, and twice at least."""

    def __post_init__(self) -> None:
        if self.rounds < MIN_ROUNDS:
            raise InputError(f"rounds ({self.rounds}) must be at least {MIN_ROUNDS}, of which a median has an interval")
        if not min(self.seconds, self.turn_s) > 0 or not self.warm_up_s >= 0:
            raise InputError(
                f"seconds ({self.seconds:g}) and those of a turn ({self.turn_s:g}) must be positive numbers"
            )


@dataclass(frozen=True)
class Turns:
    """Seconds per call in each round, the mean of two turns."""

    a_s: tuple[float, ...]
    b_s: tuple[float, ...]

    @property
    def medians_s(self) -> tuple[float, float]:
        """The medians of A and B over all rounds."""
        return median(self.a_s), median(self.b_s)

    @property
    def speedup(self) -> Estimate:
        """How many times as fast as A B is: the median of the rounds' ratios."""
        return median_of(self._ratios())

    @property
    def quartiles(self) -> tuple[float, float]:
        """Quartiles of the rounds' ratios: how much one round differs from another."""
        low, high = np.quantile(self._ratios(), [0.25, 0.75])
        return float(low), float(high)

    def _ratios(self) -> list[float]:
        return [a / b for a, b in zip(self.a_s, self.b_s, strict=True)]


def take_turns(
    a: Call, b: Call, plan: Plan, synchronize: Call = lambda: None, clock: Callable[[], float] = time.perf_counter
) -> Turns:
    """Time both.

    Args:
        synchronize: waits until what was called is computed; does nothing on a CPU.
        clock: seconds.
    """

    def seconds(call: Call, calls: int) -> float:
        synchronize()
        begun = clock()
        for _ in range(calls):
            call()
        synchronize()
        return (clock() - begun) / calls

    def warm_up(call: Call) -> int:
        """Returns how often a turn calls."""
        seconds(call, 1)
        begun, one = clock(), seconds(call, 1)
        while clock() - begun < plan.warm_up_s:
            one = seconds(call, 1)
        return min(_MAX_CALLS, math.ceil(plan.turn_s / one)) if one > 0 else _MAX_CALLS

    calls_a, calls_b = warm_up(a), warm_up(b)
    begun = clock()
    a_s: list[float] = []
    b_s: list[float] = []
    while len(a_s) < MIN_ROUNDS or (len(a_s) < plan.rounds and clock() - begun < plan.seconds):
        first, second, third, fourth = (
            seconds(a, calls_a),
            seconds(b, calls_b),
            seconds(b, calls_b),
            seconds(a, calls_a),
        )
        a_s.append((first + fourth) / 2)
        b_s.append((second + third) / 2)
    return Turns(tuple(a_s), tuple(b_s))


_EMPTY = "–"


@dataclass(frozen=True)
class Row:
    """One net at one batch size; without figures where ``note`` says why."""

    net: str
    batch: int
    dense_images_per_s: float | None = None
    tofe_images_per_s: float | None = None
    ratio: float | None = None
    """ToFe's throughput over the dense net's: the median of the rounds' ratios."""
    ratio_interval: tuple[float, float] | None = None
    """That holds the median with 95 %."""
    ratio_quartiles: tuple[float, float] | None = None
    """Quartiles of the rounds' ratios."""
    rounds: int = 0
    note: str | None = None


@dataclass(frozen=True)
class Results:
    """The conditions of the measurement, as they stand in the file, and a row per net and batch size."""

    conditions: dict[str, Any]
    rows: tuple[Row, ...]


def row_of(net: str, batch: int, turns: Turns) -> Row:
    """Figures from the times of a batch: A is dense, B is ToFe."""
    dense_s, tofe_s = turns.medians_s
    ratio, (low, high) = turns.speedup, turns.quartiles
    return Row(
        net=net,
        batch=batch,
        dense_images_per_s=_rate(batch / dense_s),
        tofe_images_per_s=_rate(batch / tofe_s),
        ratio=round(ratio.value, 3),
        ratio_interval=(round(ratio.low, 3), round(ratio.high, 3)),
        ratio_quartiles=(round(low, 3), round(high, 3)),
        rounds=len(turns.a_s),
    )


def _rate(images_per_s: float) -> float:
    return float(f"{images_per_s:.4g}")


def check_free(path: Path, command: str) -> None:
    """Raise :class:`InputError` if there is a file already, unless it holds the results of the same command."""
    if not path.exists():
        return
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        document = None
    if not isinstance(document, dict) or document.get("command") != command:
        raise InputError(f"{path}: is there already, and not of this call; move it away, or use another --out")


def write_results(path: Path, results: Results) -> None:
    """Write the YAML atomically; a row without figures is its net, batch size and note."""
    rows = [{key: _plain(value) for key, value in asdict(row).items() if value is not None} for row in results.rows]
    document = {**results.conditions, "results": rows}
    host.write(path, document)


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def render(results: Results) -> str:
    """A line that says what it ran on, and a Markdown table."""
    lines = [_caption(results.conditions), ""]
    lines.append("| net | GMACs, dense / ToFe | batch | dense, images/s | ToFe, images/s | ratio | 95 % interval |")
    lines.append("|---|---|---:|---:|---:|---:|---|")
    lines += [_line(row, results.conditions["nets"][row.net]["gmacs"]) for row in results.rows]
    return "\n".join(lines)


def _line(row: Row, gmacs: dict[str, float]) -> str:
    macs = f"{gmacs['dense']:.2f} / {gmacs['ToFe']:.2f} = {gmacs['dense'] / gmacs['ToFe']:.2f}"
    cells: Sequence[str]
    if row.ratio is None or row.ratio_interval is None:
        cells = (_EMPTY, _EMPTY, _EMPTY, row.note or "")
    else:
        low, high = row.ratio_interval
        rates = f"{row.dense_images_per_s:.10g}", f"{row.tofe_images_per_s:.10g}"
        cells = (*rates, f"{row.ratio:.2f}x", f"{low:.2f} to {high:.2f}")
    return f"| {' | '.join((row.net, macs, str(row.batch), *cells))} |"


def _caption(conditions: dict[str, Any]) -> str:
    device, threads, pinned = conditions["device"], conditions["threads"], conditions["pinned_to"]
    where = f"{device['name']}, {conditions['precision']}"
    if device["kind"] == "cpu":
        cores = f" pinned to core {pinned[0]}" if threads == len(pinned) == 1 else ""
        where += f", {'one thread' if threads == 1 else f'{threads} threads'}{cores}"
        where += ", by the process's CPU time" if conditions["clock"] == "cpu" else ""
        where = f"On the CPU, {device['why']}. {where}"
    return f"{where}; eager PyTorch {conditions['versions']['torch']}, {conditions['date']}."


NETS = ("tofe_deit_tiny_063", *NAMED)
BATCHES = "1,2,4,8,16,32,64,128,256"
PRECISIONS = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
_PACKAGES = ("torch", "timm")


@dataclass(frozen=True)
class Conditions:
    """What nets are measured on, and how."""

    device: torch.device
    precision: str = "fp32"
    clock: str = "wall"
    plan: Plan = field(default_factory=Plan)


def measure_all(entry: Entry, batches: Sequence[int], conditions: Conditions) -> list[Row]:
    """A row per batch size, in ascending order; after one that does not fit larger ones are not tried.

    Raises:
        DeviceError: the GPU fails, or the nets alone do not fit it.
    """
    rows: list[Row] = []
    device = conditions.device
    both = entry.nets.dense, entry.nets.tofe
    with progress_bar(entry.name, total=len(batches), unit="batch size") as bar:
        with gpu_failures(device, f"with {entry.name} alone"):
            for net in both:
                net.to(device)
        for batch in batches:
            too_large = next((row.batch for row in rows if row.note), None)
            if too_large is None:
                with gpu_failures(device, f"with {batch} images"):
                    rows.append(measure(entry, batch, conditions))
            else:
                rows.append(Row(entry.name, batch, note=f"not tried, as {too_large} images do not fit"))
            bar.update(1)
    for net in both:
        net.to("cpu")
    return rows


def measure(entry: Entry, batch: int, conditions: Conditions) -> Row:
    """Time both nets, which are on the device, with one batch; a row with a note where it does not fit the memory."""
    nets, device, lower = entry.nets, conditions.device, PRECISIONS[conditions.precision]
    spec = nets.dense.backbone.spec
    try:
        # One scope around all calls, and no inference mode, in which autocast would round all weights in each.
        with torch.no_grad(), torch.autocast(device.type, dtype=lower, enabled=lower is not None):
            images = torch.randn(batch, 3, spec.image_size, spec.image_size, device=device)
            turns = take_turns(
                lambda: nets.dense.forward_dense(images),
                lambda: nets.tofe.forward_batch(images, nets.counts),
                conditions.plan,
                torch.cuda.synchronize if device.type == "cuda" else lambda: None,
                CLOCKS[conditions.clock],
            )
        return row_of(entry.name, batch, turns)
    except RuntimeError as error:
        # Of a GPU, or of the machine.
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return Row(entry.name, batch, note="out of memory")


def device_facts(device: torch.device, asked: str) -> dict[str, Any]:
    """What was measured on, and for a CPU why not on a GPU."""
    if device.type == "cpu":
        why = "as asked" if asked == "cpu" else f"as there is no GPU: {why_no_cuda()}"
        return {"kind": "cpu", "name": host.processor(), "why": why}
    properties = torch.cuda.get_device_properties(device)
    return {
        "kind": "cuda",
        "name": properties.name,
        "memory_gb": round(properties.total_memory / 1e9, 1),
        "cuda": torch.version.cuda or torch.version.hip,
        "tf32": False,
    }


def run(arguments: argparse.Namespace, command: str) -> Path:
    """Open the nets, measure, write, print. Returns the path of the result file.

    Raises:
        InputError: an argument does not fit.
        DeviceError: the GPU fails.
    """
    batches = host.numbers("--batches", arguments.batches, BATCHES)
    threads = host.thread_count(arguments.threads)
    plan = Plan(rounds=arguments.rounds, seconds=arguments.seconds)
    device = pick_device(arguments.device)
    if arguments.clock == "cpu" and (device.type != "cpu" or threads != 1):
        raise InputError("--clock cpu is for one thread on the CPU; use --clock wall")
    setting = Conditions(device, arguments.precision, arguments.clock, plan)
    suffix = "" if arguments.precision == "fp32" else f"-{arguments.precision}"
    path: Path = arguments.out / f"throughput-{device.type}{suffix}-{host.today()}.yaml"
    check_free(path, command)
    entries = {entry.name: entry for entry in map(open_net, arguments.nets)}
    torch.set_num_threads(threads)
    forbid_tf32()
    rows = [row for entry in entries.values() for row in measure_all(entry, batches, setting)]
    conditions: dict[str, Any] = {
        **host.conditions(command, _PACKAGES, threads),
        "device": device_facts(device, arguments.device),
        "precision": arguments.precision,
        "clock": arguments.clock,
        "turns": {**asdict(plan), "order": "dense, ToFe, ToFe, dense"},
        "nets": {name: _describe(entry) for name, entry in entries.items()},
    }
    results = Results(conditions, tuple(rows))
    write_results(path, results)
    print(render(results), end="\n\n")
    return path


def _describe(entry: Entry) -> dict[str, Any]:
    nets = entry.nets
    return {
        "backbone": nets.backbone,
        "image_size": nets.dense.backbone.spec.image_size,
        "tokens": str(nets.counts),
        "gmacs": nets.gmacs(),
        "weights": nets.weights,
    }


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--nets",
        nargs="+",
        default=list(NETS),
        metavar="NET",
        help=f"checkpoints, names ({', '.join(NAMED)}) and BACKBONE:A,B,C with random weights (default: {' '.join(NETS)})",
    )
    parser.add_argument("--batches", default=BATCHES, metavar="N[,N]", help="images per batch (%(default)s)")
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto", help="(%(default)s)")
    parser.add_argument("--precision", choices=tuple(PRECISIONS), default="fp32", help="autocast to it (%(default)s)")
    parser.add_argument("--threads", default="1", metavar="N", help="of the CPU, or 'all' (%(default)s)")
    parser.add_argument(
        "--clock",
        choices=tuple(CLOCKS),
        default="wall",
        help="cpu: the process's own time, where others use the core too; one thread (%(default)s)",
    )
    parser.add_argument("--rounds", type=int, default=20, metavar="N", help="of four turns, a batch size (%(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=math.inf, metavar="S", help="begin no round of a batch size after these"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), metavar="DIR")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    return host.run_benchmark("benchmarks.throughput", parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())

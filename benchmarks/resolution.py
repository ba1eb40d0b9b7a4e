"""How latency grows with the size of the input: the dense backbone and ToFe, our int8 artifacts, one thread.

    taskset -c 0 python -m benchmarks.resolution
    taskset -c 0 python -m benchmarks.resolution --checkpoint tofe_deit_tiny_063 --sizes 224,384 --runs 30

A net is trained at one size; at the others its position embedding is interpolated and the same share of tokens
is kept. Latency does not depend on weights; of accuracy this says nothing. All programs are interleaved in one
process: pin it to one core, or the runs of different programs land on different ones.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import host, subjects
from benchmarks.agreement import Agreement
from benchmarks.contenders import Contender, Subject, ours
from benchmarks.contenders.contender import Pixels
from benchmarks.runtimes import check
from tofe_edge.errors import InputError
from tofe_edge.model.checkpoint import Checkpoint, load_model
from tofe_edge.model.macs import dense_macs, gmacs, tofe_macs
from tofe_edge.model.resolution import Resized, at_image_size, check_image_size
from tofe_edge.model.tofe import ToFe
from tofe_edge.model.zoo import find_checkpoint
from tofe_edge.runtimes.latency import Latency, measure_interleaved

SIZES = "224,288,384,448"
PRECISION = "int8 dynamic"
THREADS = 1
_PACKAGES = ("torch", "timm", "executorch", "torchao")


@dataclass(frozen=True)
class Figures:
    """One program's figures. Times are milliseconds per run, wall clock unless said."""

    gmacs: float
    p50_ms: float
    p90_ms: float
    min_ms: float
    cpu_ms: float
    """CPU time of the process, mean: well under ``p50_ms`` where others used the core too."""
    size_mb: float
    """1e6 bytes."""
    snr_db: float
    """SNR of the logits against eager fp32 at this size."""


@dataclass(frozen=True)
class Row:
    """One size of the input."""

    image_size: int
    patch_tokens: int
    tokens: str
    """Patch tokens that ToFe keeps per stage."""
    dense: Figures
    tofe: Figures
    latency_ratio: float
    """Median of ToFe over that of the dense backbone."""
    gmacs_ratio: float
    """The same of multiply-accumulates: what the latency ratio would be, were all of them as fast."""


@dataclass(frozen=True)
class Built:
    """The nets of one size, ready to run."""

    resized: Resized
    contenders: tuple[Contender, Contender]
    """Dense, ToFe."""
    agreements: tuple[Agreement, Agreement]
    pixels: Pixels


def lower(subject: Subject) -> Contender:
    """Convert and load. The only place that knows how our programs are made."""
    (recipe,) = [recipe for recipe in ours.RECIPES if recipe.precision == PRECISION]
    return recipe.build(subject)


def build(model: ToFe, checkpoint: Checkpoint, image_size: int) -> Built:
    """Both programs of a checkpoint at one size, their logits compared with eager fp32.

    Args:
        model: the checkpoint's net, at its own size.

    Raises:
        InputError: the size does not fit the backbone.
    """
    resized = at_image_size(model, checkpoint.token_counts, checkpoint.preprocessing, image_size)
    inputs = subjects.check_inputs(resized.preprocessing)
    # One net serves both: without counts its selectors do not run.
    both = [
        Subject(group, resized.model, counts, inputs, THREADS, host.is_pinned())
        for group, counts in (("dense", None), ("ToFe", resized.counts))
    ]
    dense, tofe = contenders = tuple(lower(subject) for subject in both)
    of_dense, of_tofe = check(contenders, both, inputs)
    return Built(resized, (dense, tofe), (of_dense, of_tofe), inputs[0])


def row(built: Built, latencies: Sequence[Latency]) -> Row:
    """Figures of one size; ``latencies`` of dense, then of ToFe."""
    spec, counts = built.resized.model.backbone.spec, built.resized.counts
    assert counts is not None
    macs = dense_macs(spec), tofe_macs(spec, counts.kept)
    dense, tofe = (
        Figures(
            gmacs=round(gmacs(count), 4),
            p50_ms=round(latency.percentile(50), 3),
            p90_ms=round(latency.percentile(90), 3),
            min_ms=round(min(latency.samples_ms), 3),
            cpu_ms=round(latency.cpu_ms, 3),
            size_mb=round(contender.size_bytes / 1e6, 2),
            snr_db=round(agreed.snr_db, 1),
        )
        for count, latency, contender, agreed in zip(macs, latencies, built.contenders, built.agreements, strict=True)
    )
    return Row(
        image_size=spec.image_size,
        patch_tokens=spec.patch_tokens,
        tokens=str(counts),
        dense=dense,
        tofe=tofe,
        latency_ratio=round(latencies[1].percentile(50) / latencies[0].percentile(50), 4),
        gmacs_ratio=round(macs[1] / macs[0], 4),
    )


def run(arguments: argparse.Namespace, command: str) -> Path:
    """Build, measure, print, write. Returns the path of the result file.

    Raises:
        InputError: an argument does not fit.
    """
    checkpoint = find_checkpoint(arguments.checkpoint)
    if checkpoint.token_counts is None:
        raise InputError(f"checkpoint {arguments.checkpoint!r} has no token counts: it is dense, nothing to compare")
    model = load_model(checkpoint)
    sizes = host.numbers("--sizes", arguments.sizes, SIZES)
    for size in sizes:
        check_image_size(model.backbone.spec, size)  # before the first of them is lowered, which takes a minute
    torch.set_num_threads(THREADS)
    built = []
    for number, size in enumerate(sizes, start=1):
        print(f"[{number}/{len(sizes)}] building {size} px", file=sys.stderr, flush=True)
        built.append(build(model, checkpoint, size))
    calls = [partial(contender.run, net.pixels) for net in built for contender in net.contenders]
    latencies = measure_interleaved(calls, arguments.runs)
    rows = [row(net, latencies[2 * index : 2 * index + 2]) for index, net in enumerate(built)]
    name = checkpoint.backbone_name.removesuffix("_patch16_224")
    document: dict[str, Any] = {
        **host.conditions(command, _PACKAGES, THREADS),
        "backbone": name,
        "checkpoint": checkpoint.name,
        "trained_at": model.backbone.spec.image_size,
        "precision": PRECISION,
        "runs": arguments.runs,
        "results": [asdict(one) for one in rows],
    }
    path: Path = arguments.out / f"resolution-{name}-{host.today()}.yaml"
    host.write(path, document)
    print("   px  tokens  dense ms   ToFe ms  latency ratio  GMACs ratio")
    for one in rows:
        print(
            f"{one.image_size:5d} {one.patch_tokens:7d} {one.dense.p50_ms:9.2f} {one.tofe.p50_ms:9.2f} "
            f"{one.latency_ratio:14.3f} {one.gmacs_ratio:12.3f}"
        )
    return path


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--checkpoint", default="tofe_deit_tiny_063", metavar="NAME", help="ToFe checkpoint (%(default)s)"
    )
    parser.add_argument("--sizes", default=SIZES, metavar="PX[,PX]", help="sides of the input (%(default)s)")
    parser.add_argument("--runs", type=int, default=60, metavar="N", help="runs of each program (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), metavar="DIR")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    return host.run_benchmark("benchmarks.resolution", parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())

"""Latency of tofe-edge beside its peers, dense and with ToFe, all interleaved in one process.

    taskset -c 0 python -m benchmarks.runtimes --dense deit_tiny.safetensors
    taskset -c 0 python -m benchmarks.runtimes --backbone lvvit_s --counts 96,48,24 --only tofe-edge,openvino

Peers get the graph that suits them (benchmarks/contenders/contender.py), and each contender's logits are compared
with eager fp32. Pin the process to one core, or the runs of different contenders land on different ones.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks import host, subjects
from benchmarks.contenders import Contender, Recipe, Subject, Unavailable, all_recipes
from benchmarks.contenders.contender import Pixels
from benchmarks.report import Results, Row, write_results
from tofe_edge.errors import InputError, first_line
from tofe_edge.evaluation.parity import snr_db
from tofe_edge.model.backbones import TokenCounts
from tofe_edge.runtimes.latency import Latency, measure_interleaved

Logits = npt.NDArray[np.float32]
_PACKAGES = ("torch", "timm", "executorch", "torchao", "onnx", "onnxscript", "onnxruntime", "openvino", "nncf")


def select(recipes: Sequence[Recipe], nets: Sequence[Subject], only: str | None) -> list[tuple[Subject, Recipe]]:
    """The pairs whose name contains one of the comma-separated substrings, upper or lower case; all without any.

    Raises:
        InputError: none does.
    """
    pairs = [(subject, recipe) for subject in nets for recipe in recipes]
    wanted = [part.strip().lower() for part in (only or "").split(",") if part.strip()]
    chosen = [pair for pair in pairs if not wanted or any(part in pair[1].name(pair[0]).lower() for part in wanted)]
    if not chosen:
        names = "; ".join(recipe.name(subject) for subject, recipe in pairs)
        raise InputError(f"--only {only}: names none of the contenders: {names}")
    return chosen


def build(pairs: Sequence[tuple[Subject, Recipe]]) -> tuple[list[Contender], dict[str, str]]:
    """Every contender that can be built, and the reasons why others cannot."""
    contenders, skipped = [], {}
    for number, (subject, recipe) in enumerate(pairs, start=1):
        name = recipe.name(subject)
        _say(f"[{number}/{len(pairs)}] building {name}")
        try:
            contenders.append(recipe.build(subject))
        except Unavailable as error:
            skipped[name] = str(error)
        except Exception as error:
            # A peer's defect must not cost the other contenders' results; it is said and kept in the results.
            skipped[name] = f"{type(error).__name__}: {first_line(error)}"
        if name in skipped:
            _say(f"skipped {name}: {skipped[name]}")
    return contenders, skipped


@dataclass(frozen=True)
class Agreement:
    """The agreement of one contender with the fp32 reference over some images."""

    snr_db: float
    """Mean over images of ``10 log10(sum r^2 / sum (x - r)^2)``; inf where all are equal."""
    cosine: float
    """The least over images."""


def agreement(found: Sequence[Logits], wanted: Sequence[Logits]) -> Agreement:
    """Compare logits image by image. A contender that gives NaN agrees in nothing: -inf dB, cosine -1."""
    snrs = [snr_db(r, x) for x, r in zip(found, wanted, strict=True)]
    cosines = [_cosine(x, r) for x, r in zip(found, wanted, strict=True)]
    return Agreement(float(np.mean(snrs)), min(cosines))


def _cosine(x: Logits, r: Logits) -> float:
    if not np.isfinite(x).all():
        return -1.0
    a, b = x.astype(np.float64).ravel(), r.astype(np.float64).ravel()
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def check(contenders: Sequence[Contender], nets: Sequence[Subject], inputs: Sequence[Pixels]) -> list[Agreement]:
    """Each contender's agreement with the reference, which is ToFe's own forward in eager fp32."""
    references = {}
    for subject in nets:
        with torch.no_grad():
            outputs = [_reference(subject, torch.from_numpy(pixels)).numpy() for pixels in inputs]
        references[subject.group] = outputs
    # Copies, as runtimes reuse the memory of their outputs.
    return [
        agreement([contender.run(pixels).reshape(1, -1).copy() for pixels in inputs], references[contender.group])
        for contender in contenders
    ]


def _reference(subject: Subject, image: torch.Tensor) -> torch.Tensor:
    if subject.counts is None:
        return subject.model.forward_dense(image)
    return subject.model.forward_batch(image, subject.counts).logits


def rows(contenders: Sequence[Contender], latencies: Sequence[Latency], agreements: Sequence[Agreement]) -> list[Row]:
    """Figures per contender; ratios are to the first one's median."""
    baseline = latencies[0].percentile(50)
    return [
        Row(
            name=contender.name,
            group=contender.group,
            runtime=contender.runtime,
            precision=contender.precision,
            p50_ms=round(latency.percentile(50), 3),
            p90_ms=round(latency.percentile(90), 3),
            min_ms=round(min(latency.samples_ms), 3),
            cpu_ms=round(latency.cpu_ms, 3),
            speedup=round(baseline / latency.percentile(50), 2),
            size_mb=round(contender.size_bytes / 1e6, 2),
            delegates=contender.delegates,
            snr_db=round(agreed.snr_db, 1),
            cosine=round(agreed.cosine, 5),
        )
        for contender, latency, agreed in zip(contenders, latencies, agreements, strict=True)
    ]


def run(arguments: argparse.Namespace, command: str) -> Path:
    """Build, check, measure, print, write. Returns the path of the result file.

    Raises:
        InputError: an argument does not fit.
    """
    threads = host.thread_count(arguments.threads)
    if arguments.backbone is not None:
        if arguments.counts is None:
            raise InputError("--backbone needs --counts, the patch tokens kept per stage, such as --counts 96,49,27")
        nets = subjects.from_backbone(arguments.backbone, TokenCounts.parse(arguments.counts), arguments.dense)
    else:
        if arguments.counts is not None:
            raise InputError("--counts goes with --backbone; a checkpoint has counts of its own")
        nets = subjects.from_checkpoint(arguments.checkpoint, arguments.dense)
    preprocessing = nets.dense.backbone.preprocessing
    calibration, calibration_source = subjects.calibration_inputs(arguments.calibration, preprocessing)
    both = nets.subjects(calibration, threads)
    pairs = select(all_recipes(), both, arguments.only)
    torch.set_num_threads(threads)
    contenders, skipped = build(pairs)
    if not contenders:
        raise InputError("none of the contenders can be built here")
    inputs = subjects.check_inputs(preprocessing)
    agreements = check(contenders, both, inputs)
    calls = [partial(contender.run, inputs[0]) for contender in contenders]
    latencies = measure_interleaved(calls, arguments.runs)
    conditions: dict[str, Any] = {
        **host.conditions(command, _PACKAGES, threads),
        "backbone": nets.backbone,
        "image_size": nets.dense.backbone.spec.image_size,
        "tokens": str(nets.counts),
        "gmacs": nets.gmacs(),
        "weights": nets.weights,
        "calibration": f"{len(calibration)} {calibration_source}",
        "checked_on": f"{len(inputs)} other crops of the sample photographs",
        "runs": arguments.runs,
        "baseline": contenders[0].name,
        "skipped": skipped,
    }
    results = Results(conditions, tuple(rows(contenders, latencies, agreements)))
    suffix = "" if threads == 1 else f"-{threads}-threads"
    path: Path = arguments.out / f"runtimes-{nets.backbone}-{host.today()}{suffix}.yaml"
    write_results(path, results)
    for row in results.rows:
        print(
            f"{row.name:<34} {row.p50_ms:8.2f} ms  cpu {row.cpu_ms:8.2f} ms {row.speedup:6.2f}x "
            f"{row.snr_db:6.1f} dB {row.size_mb:7.2f} MB"
        )
    return path


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    net = parser.add_mutually_exclusive_group()
    net.add_argument("--checkpoint", default="tofe_deit_tiny_063", metavar="NAME", help="ToFe checkpoint (%(default)s)")
    net.add_argument("--backbone", metavar="NAME", help="a backbone with random weights: deit_small, lvvit_s, …")
    parser.add_argument("--counts", metavar="A,B,C", help="patch tokens kept per stage, with --backbone")
    parser.add_argument("--dense", type=Path, metavar="FILE", help="weights of the dense backbone (default: random)")
    parser.add_argument("--calibration", type=Path, metavar="DIR", help="images (default: crops of sample photographs)")
    parser.add_argument("--only", metavar="TEXT[,TEXT]", help="contenders whose name contains one of these")
    parser.add_argument("--threads", default="1", metavar="N", help="threads of every runtime, or 'all' (%(default)s)")
    parser.add_argument("--runs", type=int, default=60, metavar="N", help="runs of each contender (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), metavar="DIR")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    return host.run_benchmark("benchmarks.runtimes", parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())

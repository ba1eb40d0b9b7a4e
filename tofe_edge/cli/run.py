"""``tofe-edge run``: the five likeliest classes of images, or a self-test on the artifact's golden vectors."""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict
from pathlib import Path

from tofe_edge.cli.options import add_method, add_model, add_threads, positive_float
from tofe_edge.cli.output import emit, table
from tofe_edge.errors import require
from tofe_edge.io.artifact import DEFAULT_METHOD
from tofe_edge.workflows.run import Classification, Model, SelfTest, load


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    add_model(parser)
    parser.add_argument(
        "images", type=Path, nargs="*", default=[], metavar="IMAGE", help="JPEG, PNG, WebP, BMP, GIF, TIFF or PPM"
    )
    add_threads(parser)
    add_method(parser)
    # A self-test takes every method unless one is named.
    parser.set_defaults(method=None)
    parser.add_argument(
        "--deadline-ms",
        type=positive_float,
        metavar="T",
        help="let the measured latency choose the budget of an elastic model, image by image",
    )
    parser.add_argument(
        "--self-test",
        action="store_true",
        help="no IMAGE: does every method (or --method) compute here what it computed where it was converted?",
    )


def run(args: argparse.Namespace) -> int:
    """Classify every image, none unless all can be read; or test, with exit code 1 if a gate fails."""
    require(not (args.images and args.self_test), "--self-test takes the model's own images; leave IMAGE out")
    require(args.images or args.self_test, "run needs an IMAGE, or --self-test")
    require(
        args.deadline_ms is None or args.method in (None, DEFAULT_METHOD),
        "--deadline-ms chooses the method itself; leave --method out",
    )
    require(args.deadline_ms is None or not args.self_test, "--self-test measures no time; leave --deadline-ms out")
    model = load(args.model)
    if args.self_test:
        result = model.self_test(threads=args.threads, methods=args.method and [args.method])
        document = {
            "passed": result.passed,
            "methods": {name: parity.to_json() for name, parity in result.methods.items()},
        }
        emit(args.json, document, _self_test_text(args.model, result))
        return 0 if result.passed else 1
    classified = model.run(*args.images, threads=args.threads, method=args.method, deadline_ms=args.deadline_ms)
    emit(
        args.json,
        [{**asdict(one), "image": str(one.image)} for one in classified],
        "\n\n".join(_classes(model, one) for one in classified),
    )
    return 0


def _classes(model: Model, one: Classification) -> str:
    """An image and its likeliest classes."""
    rows = [[f"{100 * best.probability:5.1f} %", best.name] for best in one.top5]
    return f"{one.image}{_budget(model, one)}\n{table(rows, ['', 'class'])}"


def _budget(model: Model, one: Classification) -> str:
    """Which budget of an elastic model an image got, and what it took."""
    if not model.manifest.further_methods:
        return ""
    return f"  {model.manifest.method(one.method).gmacs:.3f} GMACs ({one.method}), {one.latency_ms:.1f} ms"


def _self_test_text(model: Path, result: SelfTest) -> str:
    """One line per method, the verdict last."""
    rows = []
    for name, parity in result.methods.items():
        logits = "the same to the bit" if parity.snr_db == math.inf else f"SNR {parity.snr_db:.1f} dB"
        kept = ", ".join(f"{share:.1%}" for share in parity.kept_overlap) or "all (dense)"
        verdict = "passed" if parity.passed else f"FAILED: {'; '.join(parity.failures)}"
        rows.append([name, str(parity.images), logits, kept, verdict])
    conclusion = (
        f"self-test passed: {model} computes here what it computed where it was converted"
        if result.passed
        else f"self-test FAILED: {model} computes something else here; convert it again or do not use it"
    )
    return f"{table(rows, ['method', 'inputs', 'logits', 'kept tokens in common', ''])}\n\n{conclusion}"

"""``tofe-edge run``: the five likeliest classes of images or their vectors, or a self-test on the artifact's golden vectors."""

from __future__ import annotations

import argparse
import io
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from tofe_edge.cli.options import add_method, add_model, add_threads, positive_float
from tofe_edge.cli.output import emit, table
from tofe_edge.errors import require
from tofe_edge.io.artifact import DEFAULT_METHOD
from tofe_edge.io.files import write_bytes
from tofe_edge.workflows.run import ImageOutput, Model, SelfTest, load

_SHOWN = 8
"""Numbers of a vector that are printed."""


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
        "--save",
        type=Path,
        metavar="FILE.npy",
        help="write what the model gives, float32: (images, classes), (images, D) of an embedding, (images, N, D) of features",
    )
    parser.add_argument(
        "--self-test",
        action="store_true",
        help="no IMAGE: does every method (or --method) compute here what it computed where it was converted?",
    )


def run(args: argparse.Namespace) -> int:
    """Run on every image, none unless all can be read; or test, with exit code 1 if a gate fails."""
    require(not (args.images and args.self_test), "--self-test takes the model's own images; leave IMAGE out")
    require(args.images or args.self_test, "run needs an IMAGE, or --self-test")
    require(
        args.deadline_ms is None or args.method in (None, DEFAULT_METHOD),
        "--deadline-ms chooses the method itself; leave --method out",
    )
    require(args.deadline_ms is None or not args.self_test, "--self-test measures no time; leave --deadline-ms out")
    require(args.save is None or not args.self_test, "--self-test gives a verdict; leave --save out")
    model = load(args.model)
    if args.self_test:
        result = model.self_test(threads=args.threads, methods=args.method and [args.method])
        document = {
            "passed": result.passed,
            "methods": {name: parity.to_json() for name, parity in result.methods.items()},
        }
        emit(args.json, document, _self_test_text(args.model, model.manifest.output, result))
        return 0 if result.passed else 1
    outputs = model.outputs(*args.images, threads=args.threads, method=args.method, deadline_ms=args.deadline_ms)
    texts = [(_classes if model.manifest.classifies else _vectors)(model, one) for one in outputs]
    if args.save is not None:
        stored = io.BytesIO()
        np.save(stored, np.stack([one.values for one in outputs]), allow_pickle=False)
        write_bytes(args.save, stored.getvalue())
        texts.append(f"Wrote {args.save}")
    emit(args.json, [_document(model, one) for one in outputs], "\n\n".join(texts))
    return 0


def _document(model: Model, one: ImageOutput) -> dict[str, Any]:
    """An image in the document of ``--json``. Features are not in it: ``--save`` writes them."""
    if model.manifest.classifies:
        return {**asdict(model.classify(one)), "image": str(one.image)}
    document = {
        "image": str(one.image),
        "output": model.manifest.output,
        "shape": list(one.values.shape),
        "length": one.length,
        "first": one.values.ravel()[:_SHOWN].tolist(),
        "kept": one.kept,
        "method": one.method,
        "latency_ms": one.latency_ms,
    }
    return {**document, "values": one.values.tolist()} if one.values.ndim == 1 else document


def _classes(model: Model, one: ImageOutput) -> str:
    """An image and its likeliest classes."""
    rows = [[f"{100 * best.probability:5.1f} %", best.name] for best in model.classify(one).top5]
    return f"{one.image}{_budget(model, one)}\n{table(rows, ['', 'class'])}"


def _vectors(model: Model, one: ImageOutput) -> str:
    """An image, what its vectors are like, and their first numbers."""
    numbers = " ".join(f"{value:.4f}" for value in one.values.ravel()[:_SHOWN])
    if one.values.ndim == 1:
        words = f"embedding of {len(one.values)} numbers, length {one.length:.4f}"
    else:
        words = f"features of {one.values.shape[0]} patches, {one.values.shape[1]} numbers each, mean length {one.length:.4f}"
    return f"{one.image}{_budget(model, one)}\n{words}\n{numbers} ..."


def _budget(model: Model, one: ImageOutput) -> str:
    """Which budget of an elastic model an image got, and what it took."""
    if not model.manifest.further_methods:
        return ""
    return f"  {model.manifest.method(one.method).gmacs:.3f} GMACs ({one.method}), {one.latency_ms:.1f} ms"


def _self_test_text(model: Path, output: str, result: SelfTest) -> str:
    """One line per method, the verdict last."""
    rows = []
    for name, parity in result.methods.items():
        given = "the same to the bit" if parity.snr_db == math.inf else f"SNR {parity.snr_db:.1f} dB"
        kept = ", ".join(f"{share:.1%}" for share in parity.kept_overlap) or "all (dense)"
        verdict = "passed" if parity.passed else f"FAILED: {'; '.join(parity.failures)}"
        rows.append([name, str(parity.images), given, kept, verdict])
    conclusion = (
        f"self-test passed: {model} computes here what it computed where it was converted"
        if result.passed
        else f"self-test FAILED: {model} computes something else here; convert it again or do not use it"
    )
    return f"{table(rows, ['method', 'inputs', output, 'kept tokens in common', ''])}\n\n{conclusion}"

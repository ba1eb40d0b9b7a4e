"""``tofe-edge run``: the five likeliest classes of images, or a self-test on the artifact's golden vectors."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tofe_edge.cli.options import add_method, positive_float, positive_int, require
from tofe_edge.cli.output import emit, table

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from tofe_edge.evaluation.parity import Parity
    from tofe_edge.evaluation.prediction import Prediction
    from tofe_edge.io.artifact import Artifact


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Declare the command."""
    parser: argparse.ArgumentParser = commands.add_parser("run", help="classify images with a converted model")
    parser.add_argument("model", type=Path, metavar="MODEL", help="a .pte or .mlpackage with its manifest beside it")
    parser.add_argument("images", type=Path, nargs="*", metavar="IMAGE", help="JPEG, PNG, WebP, BMP, GIF, TIFF or PPM")
    parser.add_argument("--threads", type=positive_int, default=1, metavar="N", help="threads of XNNPACK (default: 1)")
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
    return parser


def run(args: argparse.Namespace) -> int:
    """Classify every image, none unless all can be read; or test, with exit code 1 where a gate fails."""
    require(not (args.images and args.self_test), "--self-test takes the model's own images; leave IMAGE out")
    require(args.images or args.self_test, "run needs an IMAGE, or --self-test")
    require(
        args.deadline_ms is None or args.method in (None, "forward"),
        "--deadline-ms chooses the method itself; leave --method out",
    )
    return _self_test(args) if args.self_test else _classify(args)


def _classify(args: argparse.Namespace) -> int:
    from tofe_edge.evaluation.prediction import top_classes
    from tofe_edge.io.artifact import DEFAULT_METHOD, open_artifact
    from tofe_edge.io.inputs import load_image
    from tofe_edge.io.targets import target_of
    from tofe_edge.runtimes.elastic import load_elastic
    from tofe_edge.runtimes.loading import load_model

    artifact = open_artifact(args.model)
    manifest = artifact.manifest
    inputs = [load_image(path, manifest.preprocessing) for path in args.images]
    model: Callable[[npt.NDArray[np.float32]], Prediction]
    if args.deadline_ms is None:
        model = load_model(artifact, args.threads, args.method or DEFAULT_METHOD)
    else:
        require(
            target_of(manifest).native_runner,
            f"{artifact.path}: --deadline-ms is for models that XNNPACK runs; choose a budget with --method",
        )
        model = load_elastic(artifact, args.threads, args.deadline_ms)
    document, blocks = [], []
    for path, pixels in zip(args.images, inputs):
        prediction = model(pixels)
        best = top_classes(prediction.logits, manifest.class_names)
        kept = [len(positions) for positions in prediction.kept]
        document.append({"image": str(path), "top5": [asdict(entry) for entry in best], "kept": kept})
        rows = [[f"{100 * entry.probability:5.1f} %", entry.name] for entry in best]
        blocks.append(f"{path}\n{table(rows, ['', 'class'])}")
    emit(args.json, document, "\n\n".join(blocks))
    return 0


def _self_test(args: argparse.Namespace) -> int:
    from tofe_edge.evaluation.golden import golden_path_of, read_golden, replay
    from tofe_edge.io.artifact import open_artifact
    from tofe_edge.runtimes.loading import load_model

    require(args.deadline_ms is None, "--self-test measures no time; leave --deadline-ms out")
    artifact = open_artifact(args.model)
    manifest = artifact.manifest
    methods = list(manifest.methods) if args.method is None else [manifest.method(args.method).name]
    golden = read_golden(golden_path_of(artifact.path), artifact)
    parities = {name: replay(golden, load_model(artifact, args.threads, name), name) for name in methods}
    passed = all(parity.passed for parity in parities.values())
    document = {"passed": passed, "methods": {name: parity.to_json() for name, parity in parities.items()}}
    emit(args.json, document, _describe(artifact, parities, passed))
    return 0 if passed else 1


def _describe(artifact: Artifact, parities: Mapping[str, Parity], passed: bool) -> str:
    """A line a method, the verdict last."""
    rows = []
    for name, parity in parities.items():
        same = parity.snr_db == math.inf
        logits = "the same to the bit" if same else f"SNR {parity.snr_db:.1f} dB"
        kept = ", ".join(f"{share:.1%}" for share in parity.kept_overlap) or "all (dense)"
        verdict = "passed" if parity.passed else f"FAILED: {'; '.join(parity.failures)}"
        rows.append([name, str(parity.images), logits, kept, verdict])
    if passed:
        conclusion = f"self-test passed: {artifact.path} computes here what it computed where it was converted"
    else:
        conclusion = (
            f"self-test FAILED: {artifact.path} computes something else here; convert it again or do not use it"
        )
    return f"{table(rows, ['method', 'inputs', 'logits', 'kept tokens in common', ''])}\n\n{conclusion}"

"""``tofe-edge package``: a model as what an app's build takes, and the check of such a bundle."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tofe_edge.cli.options import open_checkpoint, require
from tofe_edge.cli.output import emit, facts
from tofe_edge.cli.package_runner import runner_files, runner_test
from tofe_edge.errors import InputError

if TYPE_CHECKING:
    from tofe_edge.evaluation.golden import GoldenSet
    from tofe_edge.evaluation.parity import Parity
    from tofe_edge.io.artifact import Artifact, Manifest
    from tofe_edge.packaging.bundle import Bundle
    from tofe_edge.packaging.check import BundleCheck
    from tofe_edge.packaging.licences import Weights

PLATFORMS = ("android", "apple", "linux")
"""As in :mod:`tofe_edge.packaging.registry`, which would take too long to import for ``--help``."""
ARCHES = ("aarch64", "x86_64")
"""As in :mod:`tofe_edge.packaging.linux_programs`; the first is the default."""

_FOR_PACKAGING = (
    "model", "platform", "out", "name", "package_name", "kotlinc", "arch", "runner", "checkpoint", "weights_licence",
)  # fmt: skip
"""Options that say something where they are given at all; an empty text is one too."""


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Declare the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "package", help="make a model into what an app's build takes, or check such a bundle"
    )
    parser.add_argument(
        "model", type=Path, nargs="?", metavar="MODEL", help="a .pte or .mlpackage with manifest and golden vectors"
    )
    parser.add_argument("--platform", choices=PLATFORMS, help="what the bundle is for")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to write the bundle to (default: out)")
    parser.add_argument("--source", action="store_true", help="sources for the platform's own build; needs no compiler")
    parser.add_argument("--force", action="store_true", help="replace an earlier bundle; nothing else is ever replaced")
    parser.add_argument("--name", metavar="NAME", help="what the model is called there (default: its file's name)")
    parser.add_argument(
        "--package-name",
        metavar="P",
        help="package or Swift module of the code: com.example.model, FlowerModel (default: from the name)",
    )
    parser.add_argument("--kotlinc", type=Path, metavar="PATH", help="the Kotlin compiler (default: kotlinc on PATH)")
    parser.add_argument(
        "--arch", choices=ARCHES, help="processor of a Linux bundle (default: aarch64, Jetson and Raspberry Pi)"
    )
    parser.add_argument(
        "--runner",
        type=Path,
        metavar="DIR",
        help="folder with the native runner for a Linux bundle (default: built here once and kept)",
    )
    parser.add_argument(
        "--checkpoint",
        metavar="C",
        help="the checkpoint it was made from, whose record goes along (default: a shipped one)",
    )
    parser.add_argument(
        "--weights-licence",
        metavar="SPDX",
        help="terms of the weights, such as Apache-2.0 (default: those of a shipped one)",
    )
    parser.add_argument(
        "--check",
        type=Path,
        metavar="BUNDLE",
        help="verify a bundle: structure, sums, metadata, and its model on this machine's runtime; no MODEL",
    )
    parser.add_argument(
        "--run-program",
        action="store_true",
        help="with --check: run the program that a Linux bundle brings; only for bundles you trust",
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Write a bundle; or check one, with exit code 1 where something is wrong with it."""
    if args.check is not None:
        given = any(getattr(args, name) is not None for name in _FOR_PACKAGING) or args.source or args.force
        require(not given, "--check takes a bundle and no other option but --run-program")
        return _check(args)
    require(not args.run_program, "--run-program goes with --check")
    require(args.model is not None, "package needs a MODEL and --platform, or --check BUNDLE")
    require(args.platform is not None, f"package needs --platform: {', '.join(PLATFORMS)}")
    return _package(args)


def _package(args: argparse.Namespace) -> int:
    from tofe_edge.io.artifact import open_artifact
    from tofe_edge.packaging.contents import load_packaged_model
    from tofe_edge.packaging.place import check_free, place
    from tofe_edge.packaging.platform import Options, require_executorch
    from tofe_edge.packaging.registry import PLATFORMS as REGISTRY

    artifact = open_artifact(args.model)
    model = load_packaged_model(artifact, _weights(artifact.manifest, args), args.name)
    options = Options(args.source, args.package_name, args.kotlinc, args.arch)
    platform, out = REGISTRY[args.platform], args.out or Path("out")
    linux = args.platform == "linux"
    require(linux or not (args.arch or args.runner), "--arch and --runner are for --platform linux")
    # Building can take a compiler's time: what cannot be written is found before.
    check_free(out / platform.bundle_name(model, options), args.force)
    if linux:
        require_executorch(model, "Linux")
        options = replace(options, extra=runner_files(args.arch or ARCHES[0], args.runner, model.manifest))
    bundle = platform.build(model, options)
    path = place(bundle, out, args.force)
    emit(args.json, *_written(args.platform, bundle, path, model.weights))
    return 0


def _written(platform: str, bundle: Bundle, path: Path, weights: Weights) -> tuple[dict[str, Any], str]:
    """The document of ``--json``, and the same for people."""
    from tofe_edge.io.files import fingerprint_of
    from tofe_edge.packaging.licences import UNKNOWN

    found = fingerprint_of(path)
    document = {
        "bundle": str(path),
        "platform": platform,
        "form": bundle.form,
        "size_bytes": found.size_bytes,
        "sha256": found.sha256,
        "files": sorted(bundle.files),
        "weights_licence": None if weights.licence == UNKNOWN else weights.licence,
        "written": [str(path)],
    }
    rows: list[tuple[str, Any]] = [
        ("platform", platform),
        ("size", f"{found.size_bytes / 1e6:.2f} MB in {len(bundle.files)} files"),
        ("sha256", found.sha256),
    ]
    if weights.licence == UNKNOWN:
        rows.append(("weights", "licence not known; state it with --weights-licence before you distribute the bundle"))
    return document, facts([*rows, ("wrote", path)])


def _weights(manifest: Manifest, args: argparse.Namespace) -> Weights:
    """What is known of the weights: from ``--checkpoint``, or from the shipped checkpoint that they came from.

    Raises:
        InputError: ``--checkpoint`` is another one than the manifest's.
    """
    from tofe_edge.model.zoo import find_by_checksum
    from tofe_edge.packaging.licences import SHIPPED_LICENCE, Weights

    weights = Weights()
    shipped = find_by_checksum(manifest.checkpoint_sha256)
    if shipped is not None:
        weights = Weights(SHIPPED_LICENCE, shipped.training, shipped.accuracy)
    if args.checkpoint is not None:
        checkpoint = open_checkpoint(args.checkpoint, None)
        if checkpoint.sha256() != manifest.checkpoint_sha256:
            raise InputError(f"--checkpoint {args.checkpoint}: the model was not made from it, their checksums differ")
        weights = replace(weights, training=checkpoint.training, accuracy=checkpoint.accuracy)
    return weights if args.weights_licence is None else replace(weights, licence=args.weights_licence)


def _check(args: argparse.Namespace) -> int:
    from tofe_edge.packaging.check import check_bundle

    result = check_bundle(args.check, _self_test, runner_test if args.run_program else None)
    document = {"bundle": str(args.check), **result.to_json()}
    emit(args.json, document, _describe(args.check, result))
    return 0 if result.passed else 1


def _self_test(artifact: Artifact, golden: GoldenSet) -> Mapping[str, Parity]:
    from tofe_edge.evaluation.golden import replay
    from tofe_edge.runtimes.loading import load_model

    return {name: replay(golden, load_model(artifact, 1, name), name) for name in artifact.manifest.methods}


def _describe(path: Path, result: BundleCheck) -> str:
    from tofe_edge.packaging.wording import named

    rows: list[tuple[str, Any]] = [("platform", result.platform or "unknown")]
    for method, parity in (result.self_test or {}).items():
        logits = "logits the same to the bit" if parity.snr_db == math.inf else f"logits {parity.snr_db:.1f} dB"
        rows.append(("self-test", f"{method}: {logits}, {'passed' if parity.passed else 'FAILED'}"))
    if result.self_test is None:
        rows.append(("self-test", f"not run: {result.not_run_because}"))
    if result.program is not None and not result.program_was_run:
        rows.append(
            ("program", f"{result.program} of the bundle was not run; --run-program runs it, if you trust the bundle")
        )
    rows += [("wrong", failure) for failure in result.failures]
    verdict = "passed" if result.passed else "FAILED; package the model again"
    return f"{facts(rows)}\n\ncheck of {named(path)} {verdict}"

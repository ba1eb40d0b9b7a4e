"""``tofe-edge package``: make a bundle of a model for an app's build, or check such a bundle."""

from __future__ import annotations

import argparse
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

from tofe_edge.cli.options import keywords
from tofe_edge.cli.output import emit, facts
from tofe_edge.errors import require
from tofe_edge.packaging.check import BundleCheck
from tofe_edge.packaging.linux import ARCHES
from tofe_edge.packaging.platform import Options, platform_names
from tofe_edge.packaging.texts import path_text
from tofe_edge.workflows.package import Packaged, check_bundle, package

_FOR_PACKAGING = (
    "model", "platform", "out", "name", "package_name", "kotlinc", "arch", "runner", "checkpoint", "weights_licence",
)  # fmt: skip
"""Options that do not go with --check; an empty text counts as given."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument(
        "model", type=Path, nargs="?", metavar="MODEL", help="a .pte or .mlpackage with manifest and golden vectors"
    )
    parser.add_argument("--platform", choices=platform_names(), help="what the bundle is for")
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


def run(args: argparse.Namespace) -> int:
    """Write a bundle; or check one, with exit code 1 if something is wrong with it."""
    if args.check is not None:
        others = any(getattr(args, name) is not None for name in _FOR_PACKAGING) or args.source or args.force
        require(not others, "--check takes a bundle and no other option but --run-program")
        result = check_bundle(args.check, args.run_program)
        emit(args.json, {"bundle": str(args.check), **result.to_json()}, _describe_check(args.check, result))
        return 0 if result.passed else 1
    require(not args.run_program, "--run-program goes with --check")
    require(args.model is not None, "package needs a MODEL and --platform, or --check BUNDLE")
    require(args.platform is not None, f"package needs --platform: {', '.join(platform_names())}")
    packaged = package(
        args.model,
        args.platform,
        args.out or "out",
        **keywords(package, args),
        **{field.name: getattr(args, field.name) for field in fields(Options)},
    )
    emit(args.json, packaged.to_json(), _describe(packaged))
    return 0


def _describe(packaged: Packaged) -> str:
    rows: list[tuple[str, Any]] = [
        ("platform", packaged.platform),
        ("size", f"{packaged.size_bytes / 1e6:.2f} MB in {len(packaged.files)} files"),
        ("sha256", packaged.sha256),
    ]
    if packaged.weights_licence is None:
        rows.append(("weights", "licence not known; state it with --weights-licence before you distribute the bundle"))
    return facts([*rows, ("wrote", packaged.path), ("next", ["tofe-edge", "package", "--check", packaged.path])])


def _describe_check(path: Path, result: BundleCheck) -> str:
    rows: list[tuple[str, Any]] = [("platform", result.platform or "unknown")]
    for method, parity in (result.self_test or {}).items():
        given = "the same to the bit" if parity.snr_db == math.inf else f"SNR {parity.snr_db:.1f} dB"
        rows.append(("self-test", f"{method}: {given}, {'passed' if parity.passed else 'FAILED'}"))
    if result.self_test is None:
        rows.append(("self-test", f"not run: {result.not_run_because}"))
    if result.program is not None and not result.program_was_run:
        rows.append(
            ("program", f"{result.program} of the bundle was not run; --run-program runs it, if you trust the bundle")
        )
    rows += [("wrong", failure) for failure in result.failures]
    verdict = "passed" if result.passed else "FAILED; package the model again"
    return f"{facts(rows)}\n\ncheck of {path_text(path)} {verdict}"

"""``tofe-edge convert``: make a checked model file for a device."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tofe_edge.cli.options import add_budget, add_naming, add_runner, positive_float, positive_floats, positive_int
from tofe_edge.cli.output import check_html_place, emit, facts, threads
from tofe_edge.errors import require
from tofe_edge.evaluation.parity import ClassParity, Parity, on_decided
from tofe_edge.io.artifact import DEFAULT_METHOD, OUTPUTS
from tofe_edge.io.targets import find_target, target_names

if TYPE_CHECKING:
    from tofe_edge.io.artifact import Manifest, Method
    from tofe_edge.workflows.convert import Converted

_RENAMED = ("io", "deployment_target", "float32_selectors", "author", "license")
"""Options of their own until 0.2, now ``--option NAME=VALUE``."""

_REMOVED = ("--backend", "--layout")

OWN_HELP = True
"""``--help`` is declared here."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes: the options of every day are in its help, the others with ``--target T --help``."""
    parser.usage = "tofe-edge convert (--profile P | --checkpoint C | --max-gmacs G) [...]"
    parser.epilog = "Every option, and what --option knows: tofe-edge convert --target executorch|coreml|onnx --help."
    add_budget(parser)
    parser.add_argument(
        "--checkpoint", metavar="C", help="a shipped checkpoint's name or a file (default: chosen by budget)"
    )
    parser.add_argument(
        "--dense",
        action="store_true",
        help="no token reduction: the dense form of --checkpoint, or a dense net that fits",
    )
    parser.add_argument(
        "--target",
        choices=target_names(),
        help=f"kind of model file (default: the profile's, else {target_names()[0]})",
    )
    engine = parser.add_mutually_exclusive_group()
    engine.add_argument(
        "--engine", metavar="NAME", help="make it for another engine of the profile's device, such as gpu"
    )
    engine.add_argument(
        "--all", action="store_true", help="make one model for each engine of the profile's device, the usual one first"
    )
    precisions = dict.fromkeys(name for target in target_names() for name in find_target(target).precisions)
    parser.add_argument(
        "--precision",
        choices=tuple(precisions),
        help="for Core ML and ONNX alone fp16, for Core ML alone pal6 and pal4: weights from palettes of 64 or 16 values "
        "(default: the profile's, else int8)",
    )
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        type=_assignment,
        metavar="KEY=VALUE",
        help="an option of the target; may be repeated",
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="DIR",
        help="images for int8 and palettes: weights are rounded with regard to them, and --max-accuracy-drop is held on them "
        "(default: crops of two sample photographs, no drop)",
    )
    parser.add_argument(
        "--output",
        choices=OUTPUTS,
        help="what the model gives: a number per class; the vector that the head reads; or a vector per patch, in raster "
        "order, frozen patches too (default: logits, or embedding of a net without head)",
    )
    parser.add_argument(
        "--normalize", action="store_true", help="with --output embedding: give vectors of the length 1"
    )
    parser.add_argument(
        "--elastic",
        type=positive_floats,
        default=(),
        metavar="G[,G...]",
        help="further budgets in GMACs, as methods of the same model that share its weights",
    )
    parser.add_argument(
        "--on",
        metavar="WHERE",
        help="measure the model before it is written: host, ssh://[USER@]HOST[:PORT], adb or adb://SERIAL; "
        "with --max-latency-ms it is not written if it takes longer (default: not measured)",
    )
    parser.add_argument(
        "--waive",
        metavar="TEXT",
        help="write the model even if it fails its parity gates; the failures and this reason go into the manifest",
    )
    parser.add_argument("--out", type=Path, default=Path("out"), metavar="DIR", help="output folder (default: out)")
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="write a page with parity, token map, and latency on this machine"
    )
    # What is rarely needed: shown with --target T --help alone.
    rare = _add_rare_options(parser)
    for name in _RENAMED:
        flag, nargs = f"--{name.replace('_', '-')}", 0 if name == "float32_selectors" else None
        parser.add_argument(flag, action=_Renamed, dest=name, nargs=nargs, help=argparse.SUPPRESS)
    for flag in _REMOVED:
        parser.add_argument(flag, action=_Removed, dest="removed", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument(
        "-h", "--help", action=_Help, rare=rare, help="show this help; every option with --target before it"
    )


def _add_rare_options(parser: argparse.ArgumentParser) -> list[tuple[argparse.Action, str | None]]:
    """Declare them hidden. Returns each with its help."""
    group = parser.add_argument_group("rarely needed")
    add_runner(group)
    group.add_argument(
        "--backbone",
        metavar="NAME",
        help="the net of plain dense weights given with --checkpoint, such as deit_tiny_patch16_224",
    )
    add_naming(group)
    group.add_argument(
        "--int8-mode",
        choices=("dynamic", "static", "weights"),
        help="ranges of activations: per token as it runs, or fixed on calibration images; or weights alone "
        "(default: dynamic for executorch and onnx, static with --reproducible, weights for coreml)",
    )
    group.add_argument(
        "--reproducible",
        action="store_true",
        help="the same bytes out on 64-bit ARM and on x86 with AVX2; with XNNPACK, for fp32 and int8, which is then static "
        "and needs --calibration",
    )
    group.add_argument(
        "--calibration-images", type=positive_int, default=256, metavar="N", help="how many of them (default: 256)"
    )
    group.add_argument(
        "--max-accuracy-drop",
        type=positive_float,
        metavar="POINTS",
        help="top-1 that int8 or palettes may cost on the calibration images; the most sensitive layers stay in float for it "
        "(default: 0.5 if there are images)",
    )
    group.add_argument("--batch", type=positive_int, default=1, metavar="N", help="images per run (default: 1)")
    group.add_argument(
        "--image-size", type=positive_int, metavar="PX", help="side of the input (default: the checkpoint's)"
    )
    group.add_argument(
        "--selection",
        choices=("topk", "rank"),
        help="topk and gather, or ranks and one-hot products, which every accelerator takes "
        "(default: topk; rank for Core ML devices with a Neural Engine)",
    )
    rare = [(action, action.help) for action in group._group_actions]
    for action, _ in rare:
        action.help = argparse.SUPPRESS
    return rare


class _Help(argparse.Action):
    """``--help``: with ``--target`` before it, also what is rarely needed and the target's own options."""

    def __init__(self, rare: list[tuple[argparse.Action, str | None]], **keywords: Any) -> None:
        super().__init__(**{**keywords, "nargs": 0, "dest": argparse.SUPPRESS, "default": argparse.SUPPRESS})
        self.rare = rare

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *_: Any) -> None:
        if namespace.target is not None:
            for action, text in self.rare:
                action.help = text
            target = find_target(namespace.target)
            group = parser.add_argument_group(f"options of {target.title}")
            for option in target.options:
                value = "|".join(option.choices) or option.name.upper()
                group.add_argument(f"--option {option.name}={value}", action="store_true", help=option.help)
        parser.print_help()
        parser.exit()


class _Renamed(argparse.Action):
    """An option that has become ``--option NAME=VALUE``; works for one more release."""

    def __call__(self, _parser: object, namespace: argparse.Namespace, values: Any, flag: str | None = None) -> None:
        value = "true" if self.nargs == 0 else values
        print(f"tofe-edge: hint: {flag} is now --option {self.dest}={value}, see CHANGELOG.md", file=sys.stderr)
        namespace.option = [*namespace.option, (self.dest, value)]


class _Removed(argparse.Action):
    """An option that is gone; :func:`run` refuses it, whatever its value."""

    def __call__(self, _parser: object, namespace: argparse.Namespace, _values: Any, flag: str | None = None) -> None:
        namespace.removed = flag


def _assignment(text: str) -> tuple[str, str]:
    """An argparse type: ``key=value``."""
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value


def run(args: argparse.Namespace) -> int:
    """Convert and print what was made."""
    # Here, so that help and a wrong call need no PyTorch.
    from tofe_edge.cli.pages.convert import write_convert_page
    from tofe_edge.workflows.conversion_plan import ConvertOptions, resolve_options, variants_of
    from tofe_edge.workflows.convert import carry_out

    require(args.removed is None, f"{args.removed} was removed, see CHANGELOG.md; leave it out")
    values = {field.name: getattr(args, field.name) for field in fields(ConvertOptions) if field.name != "options"}
    options = ConvertOptions(**values, options=dict(args.option))
    if args.all:
        require(args.html is None, "--all: writes several models, and --html is the page of one; leave one out")
        plans = [resolve_options(one) for one in variants_of(options)]
        made = [carry_out(one) for one in plans]
        emit(args.json, [to_json(one) for one in made], "\n\n".join(map(describe, made)))
        return 0
    plan = resolve_options(options)
    if args.html is not None:
        # Now, as a conversion takes a while.
        check_html_place(args.html, plan.places)
    converted = carry_out(plan)
    text = describe(converted)
    if args.html is not None:
        write_convert_page(args.html, converted)
        text += f"\n\nWrote {args.html}"
    emit(args.json, to_json(converted), text)
    return 0


def to_json(converted: Converted) -> dict[str, Any]:
    """The document of ``--json``."""
    from tofe_edge.model.choices import source_json

    manifest, artifact = converted.manifest, converted.artifact
    copied = (
        "checkpoint", "token_counts", "gmacs", "size_bytes", "delegates", "fallback_ops", "target", "precision", "int8_mode",
        "fp32_layers", "reproducible",
    )  # fmt: skip
    return {
        "artifact": str(artifact.path),
        "manifest": str(artifact.manifest_path),
        **{key: getattr(manifest, key) for key in copied},
        "methods": {name: asdict(method) for name, method in manifest.methods.items()},
        "batch": manifest.batch,
        "output": manifest.output,
        "normalized": manifest.normalized,
        "output_shape": list(manifest.shape),
        "selection": manifest.selection,
        "quantization": manifest.quantization,
        "profile": manifest.profile,
        "left_out": converted.coverage.to_json(),
        **source_json(converted.plan.request.checkpoint, converted.remarks),
        "predicted_ms": manifest.latency and manifest.latency["predicted_ms"],
        "latency": manifest.latency,
        "reason": converted.reason,
        "parity": converted.parity.to_json(),
    }


def describe(converted: Converted) -> str:
    """The same for people."""
    from tofe_edge.model.choices import source_facts

    artifact, manifest, parity = converted.artifact, converted.manifest, converted.parity
    fallback = ", ".join(f"{count} {name}" for name, count in manifest.fallback_ops.items()) or "none"
    tokens = ", ".join(map(str, manifest.token_counts)) if manifest.token_counts else "all (dense)"
    modes = ", ".join(filter(None, (manifest.int8_mode, "reproducible" if manifest.reproducible else None)))
    mode = f" ({modes})" if modes else ""
    overlap = ", ".join(f"{value:.1%}" for value in parity.kept_overlap)
    return facts(
        [
            ("checkpoint", f"{manifest.checkpoint}: {converted.reason}"),
            ("tokens kept", f"{tokens} of {manifest.patch_tokens} per stage, {manifest.gmacs:.3f} GMACs"),
            *source_facts(converted.plan.request.checkpoint),
            ("precision", f"{manifest.precision}{mode}, {manifest.size_bytes / 1e6:.2f} MB"),
            *_describe_latency(manifest),
            ("delegates", f"{manifest.delegates}; operators outside: {fallback}"),
            *_describe_output(manifest),
            ("parity", f"{_describe_parity(parity)} ({parity.images} {converted.source})"),
            *([("kept overlap", f"{overlap} per stage")] if overlap else []),
            *([] if parity.passed else [("waived", "; ".join(parity.failures))]),
            *_describe_int8(manifest),
            *(
                ("method", f"{method.name}: {method.gmacs:.3f} GMACs{_fidelity(converted, method)}")
                for method in (manifest.methods.values() if manifest.further_methods else ())
            ),
            *(("warning", remark) for remark in converted.remarks),
            ("wrote", artifact.path),
            ("", artifact.manifest_path),
            *_describe_engines(converted),
            ("next", ["tofe-edge", "run", artifact.path, "IMAGE"]),
            ("", ["tofe-edge", "profile", artifact.path]),
        ]
    )


def _describe_engines(converted: Converted) -> list[tuple[str, str]]:
    """What the profile's device could run it on besides, and how to make that."""
    options, profile = converted.plan.options, converted.plan.profile
    if options.engine or options.target or profile is None:
        return []
    return [
        (
            one.name.upper(),
            f"idle; for {one.runtime} add --engine {one.name} ({one.target}, {one.precision}), or --all for both",
        )
        for one in profile.engines
    ]


def _describe_output(manifest: Manifest) -> list[tuple[str, str]]:
    """What the model gives if it is no classifier."""
    if manifest.classifies:
        return []
    length = " of the length 1" if manifest.normalized else ""
    return [("output", f"{manifest.output}{length}, {' x '.join(map(str, manifest.shape))} numbers per image")]


def _describe_parity(parity: Parity) -> str:
    if isinstance(parity, ClassParity):
        decided = on_decided(parity.decided_images, parity.decided_agreement)
        return f"SNR {parity.snr_db:.1f} dB, agreement {decided}"
    return ", ".join(f"{name} {figure}" for name, figure in parity.figures if name != "PSNR")


def _fidelity(converted: Converted, method: Method) -> str:
    """What is known of a method's predictions beside the dense net's."""
    budgets = {budget.counts: budget for budget in converted.plan.request.checkpoint.budgets}
    budget = budgets.get(tuple(method.token_counts or ()))
    if budget is None:
        return "" if method.name == DEFAULT_METHOD else "; accuracy unknown, the checkpoint was not made for it"
    return f"; divergence {budget.divergence:.3f}, agrees with dense on {budget.agreement:.1f} %"


def _describe_latency(manifest: Manifest) -> list[tuple[str, str]]:
    latency = manifest.latency
    if latency is None:
        return []
    predicted, measured = latency["predicted_ms"], latency["measured_ms"]
    words = [f"predicted {predicted:.2f} ms"] if predicted is not None else []
    if measured is not None:
        words.append(f"measured {measured:.2f} ms on {latency['device']}, p50 {latency['measured_p50_ms']:.2f} ms")
    if latency["limit_ms"] is not None:
        words.append(f"{latency['limit_ms']:g} ms allowed")
    return [("latency", f"{'; '.join(words)} ({threads(latency['threads'])})")]


def _describe_int8(manifest: Manifest) -> list[tuple[str, str]]:
    if manifest.quantization is None:
        return []
    cost, reasons = manifest.quantization["cost"], manifest.quantization["fp32_because"]
    drop = "" if cost["drop"] is None else f"{cost['drop']:.2f} points, "
    return [
        (
            f"{manifest.precision} cost",
            f"{drop}SNR {_decibels(cost['snr_db'])}; with the tokens of fp32 {_decibels(cost['snr_db_same_tokens'])} "
            f"({cost['images']} calibration images)",
        ),
        *(("stays in float", f"{name}: {reason}") for name, reason in reasons.items()),
    ]


def _decibels(value: float | None) -> str:
    return "infinite" if value is None else f"{value:.1f} dB"

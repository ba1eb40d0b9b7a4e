"""``tofe-edge convert``: choose, lower, check, write artifact and manifest."""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tofe_edge.cli.options import add_checkpoint, open_checkpoint, open_profile, positive_int, require
from tofe_edge.cli.output import emit, facts
from tofe_edge.cli.select import add_budget, choose_for
from tofe_edge.errors import GateError
from tofe_edge.files import workshop, write_bytes
from tofe_edge.progress import progress_bar

if TYPE_CHECKING:
    import torch

    from profiles import DeviceProfile
    from tofe_edge.artifact import Artifact
    from tofe_edge.checkpoint import Checkpoint
    from tofe_edge.inputs import Inputs
    from tofe_edge.parity import Parity

_CALIBRATION_IMAGES = 64
_CHECK_IMAGES = 64
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class Settings:
    """What to build, after defaults of profile and command line have been settled."""

    checkpoint: Checkpoint
    reason: str
    target: str
    precision: str
    profile: str | None
    int8_mode: str
    """``static`` with calibration images, else ``dynamic``; read where the precision is int8."""


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Declare the command."""
    parser: argparse.ArgumentParser = commands.add_parser("convert", help="make a checked model file for a device")
    add_budget(parser)
    add_checkpoint(parser)
    parser.add_argument("--target", choices=("executorch", "coreml"), help="default: the profile's, else executorch")
    parser.add_argument("--precision", choices=("fp32", "fp16", "int8"), help="default: the profile's, else int8")
    parser.add_argument(
        "--calibration", type=Path, metavar="DIR", help="images for static int8 (default: dynamic int8)"
    )
    parser.add_argument(
        "--calibration-images",
        type=positive_int,
        default=_CALIBRATION_IMAGES,
        metavar="N",
        help="how many of them (default: 64)",
    )
    parser.add_argument("--out", type=Path, default=Path("out"), metavar="DIR", help="output folder (default: out)")
    return parser


def run(args: argparse.Namespace) -> int:
    """Convert; nothing is left in the output folder unless the result passes its parity gates."""
    from tofe_edge.artifact import Artifact, with_parity, write_manifest
    from tofe_edge.cli.parity import check

    settings = _settle(args)
    file_name = f"{artifact_name(settings)}.pte"
    with workshop(args.out) as folder, progress_bar("reading images", total=3, unit="step") as bar:
        calibration, samples = _read_images(args, settings)
        bar.update(1)
        bar.set_description(f"lowering to {settings.target}, {settings.precision} (a minute or two)")
        draft = _lower(settings, calibration, folder / file_name)
        bar.update(1)
        bar.set_description("checking against the reference")
        parity = check(draft, settings.checkpoint, samples)
        if not parity.passed:
            raise GateError(f"{file_name}: not written, it differs from the reference: {'; '.join(parity.failures)}")
        manifest = with_parity(draft.manifest, {**parity.to_json(), "source": samples.source})
        write_manifest(draft.path, manifest)
        bar.update(1)
        artifact = Artifact(args.out / file_name, manifest)
        # Both files are complete; two renames within one folder put them in place.
        draft.path.replace(artifact.path)
        draft.manifest_path.replace(artifact.manifest_path)
    emit(args.json, _to_json(artifact, settings, parity), _describe(artifact, settings, parity, samples))
    return 0


def artifact_name(settings: Settings) -> str:
    """``checkpoint-profile-precision``, reduced to characters that are safe in any file name."""
    precision = "int8_static" if (settings.precision, settings.int8_mode) == ("int8", "static") else settings.precision
    parts = [settings.checkpoint.name, settings.profile, precision]
    return _UNSAFE.sub("_", "-".join(part for part in parts if part))[:150].lstrip(".-")


def _settle(args: argparse.Namespace) -> Settings:
    profile = open_profile(args.profile) if args.profile else None
    if args.checkpoint:
        checkpoint, reason = open_checkpoint(args.checkpoint, args.backbone), "named with --checkpoint"
        _warn_over_budget(checkpoint, profile, args.max_gmacs)
    else:
        require(
            args.backbone is None, "--backbone names the net of plain dense weights; give their file with --checkpoint"
        )
        choice = choose_for(profile, args.max_gmacs)
        checkpoint, reason = choice.checkpoint, choice.reason
    return Settings(
        checkpoint,
        reason,
        target=args.target or (profile.defaults.target if profile else "executorch"),
        precision=args.precision or (profile.defaults.precision if profile else "int8"),
        profile=profile.name if profile else None,
        int8_mode="static" if args.calibration is not None else "dynamic",
    )


def _warn_over_budget(checkpoint: Checkpoint, profile: DeviceProfile | None, max_gmacs: float | None) -> None:
    from tofe_edge.budget import TOLERANCE

    limit = max_gmacs or (profile.budget.gmacs.value if profile else None)
    if limit is not None and checkpoint.gmacs > limit * (1 + TOLERANCE):
        print(
            f"tofe-edge: warning: {checkpoint.name} needs {checkpoint.gmacs:.2f} GMACs, over the budget of {limit:.2f}",
            file=sys.stderr,
        )


def _read_images(args: argparse.Namespace, settings: Settings) -> tuple[tuple[torch.Tensor, ...], Inputs]:
    """Calibration inputs (none without ``--calibration``) and the images, others, that the result is checked on."""
    import torch

    from tofe_edge.inputs import load_photographs, load_unlabelled

    spec = settings.checkpoint.preprocessing
    if args.calibration is None:
        return (), load_photographs(spec)
    require(settings.precision == "int8", f"--calibration serves static int8; leave it out for {settings.precision}")
    inputs = load_unlabelled(args.calibration, spec, args.calibration_images + _CHECK_IMAGES)
    require(len(inputs.pixels) > 1, f"{args.calibration}: one image cannot serve both calibration and check; add more")
    checked = min(_CHECK_IMAGES, len(inputs.pixels) // 2)
    calibration = tuple(torch.from_numpy(pixels) for pixels in inputs.pixels[checked:])
    return calibration, replace(inputs, pixels=inputs.pixels[:checked])


def _lower(settings: Settings, calibration: tuple[torch.Tensor, ...], path: Path) -> Artifact:
    from converters.pipeline import ConvertRequest, convert
    from tofe_edge.artifact import open_artifact, write_manifest

    request = ConvertRequest(
        settings.checkpoint, settings.target, settings.precision, settings.profile, path.name, calibration
    )
    conversion = convert(request)
    write_bytes(path, conversion.program)
    write_manifest(path, conversion.manifest)
    return open_artifact(path)


def _to_json(artifact: Artifact, settings: Settings, parity: Parity) -> dict[str, Any]:
    manifest = artifact.manifest
    return {
        "artifact": str(artifact.path),
        "manifest": str(artifact.manifest_path),
        "checkpoint": manifest.checkpoint,
        "token_counts": manifest.token_counts,
        "gmacs": manifest.gmacs,
        "size_bytes": manifest.size_bytes,
        "delegates": manifest.delegates,
        "fallback_ops": manifest.fallback_ops,
        "target": manifest.target,
        "precision": manifest.precision,
        "int8_mode": manifest.int8_mode,
        "profile": manifest.profile,
        "reason": settings.reason,
        "parity": parity.to_json(),
    }


def _describe(artifact: Artifact, settings: Settings, parity: Parity, samples: Inputs) -> str:
    manifest = artifact.manifest
    fallback = ", ".join(f"{count} {name}" for name, count in manifest.fallback_ops.items()) or "none"
    tokens = ", ".join(map(str, manifest.token_counts)) if manifest.token_counts else "all (dense)"
    mode = f" ({manifest.int8_mode})" if manifest.int8_mode else ""
    overlap = ", ".join(f"{value:.1%}" for value in parity.kept_overlap)
    return facts(
        [
            ("checkpoint", f"{manifest.checkpoint}: {settings.reason}"),
            ("tokens kept", f"{tokens} of {manifest.patch_tokens} per stage, {manifest.gmacs:.3f} GMACs"),
            ("precision", f"{manifest.precision}{mode}, {manifest.size_bytes / 1e6:.2f} MB"),
            ("delegates", f"{manifest.delegates}; operators outside: {fallback}"),
            (
                "parity",
                f"agreement on {parity.decided_images} decided images {parity.decided_agreement:.1%}, SNR {parity.snr_db:.1f} dB "
                f"({parity.images} {samples.source})",
            ),
            *([("kept overlap", f"{overlap} a stage")] if overlap else []),
            ("wrote", artifact.path),
            ("", artifact.manifest_path),
        ]
    )

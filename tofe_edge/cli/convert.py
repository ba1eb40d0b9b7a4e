"""``tofe-edge convert``: choose, lower, check, write artifact and manifest."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tofe_edge.cli.convert_latency import latency_record
from tofe_edge.cli.convert_options import Settings, add_options, settle
from tofe_edge.cli.convert_page import write_convert_page
from tofe_edge.cli.converted import describe, to_json
from tofe_edge.cli.options import open_profile, require
from tofe_edge.cli.output import check_html_place, emit
from tofe_edge.errors import GateError
from tofe_edge.io.files import check_place, put_in_place, staging_dir, write_content
from tofe_edge.io.progress import progress_bar

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from tofe_edge.converters.request import Calibration, ConvertRequest, CoreMlRequest
    from tofe_edge.io.artifact import Artifact
    from tofe_edge.io.inputs import Inputs
    from tofe_edge.model.checkpoint import Checkpoint
    from tofe_edge.workflows.checking import Checked

_CHECK_IMAGES = 64
_CALIBRATION_SEED = 1


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Declare the command."""
    parser: argparse.ArgumentParser = commands.add_parser("convert", help="make a checked model file for a device")
    add_options(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Convert; nothing is left in the output folder unless the result passes its parity gates."""
    from tofe_edge.evaluation.golden import golden_path_of
    from tofe_edge.io.artifact import Artifact, manifest_path_of, with_parity, write_manifest

    settings = settle(args)
    request = _request(args, settings).check()
    file_name = settings.file_name
    places = {args.out / file_name: settings.target == "coreml"}
    places |= {golden_path_of(args.out / file_name): True, manifest_path_of(args.out / file_name): False}
    for place, is_folder in places.items():
        check_place(place, is_folder)
    if args.html is not None:
        check_html_place(args.html, places)
    with staging_dir(args.out) as folder, progress_bar("reading images", total=3, unit="step") as bar:
        calibration, samples = _read_images(args, settings)
        bar.update(1)
        bar.set_description(f"lowering to {settings.target}, {settings.precision} (a minute or two)")
        draft = _lower(replace(request, calibration=calibration), folder / file_name)
        bar.update(1)
        bar.set_description("checking against the reference")
        found = _check_methods(draft, settings.checkpoint, samples, args.waive is not None)
        parity = next(iter(found.values())).parity
        manifest = with_parity(draft.manifest, _parity_record(found, samples.source, args.waive))
        manifest = replace(manifest, latency=latency_record(args, draft, settings.forecast, settings.threads))
        write_manifest(draft.path, manifest)
        golden = _write_golden(draft, settings.checkpoint)
        bar.update(1)
        artifact = Artifact(args.out / file_name, manifest)
        # All are complete; renames within one file system put them in place.
        put_in_place(golden, golden_path_of(artifact.path))
        put_in_place(draft.path, artifact.path)
        put_in_place(draft.manifest_path, artifact.manifest_path)
    reason = settings.reason
    text = describe(artifact, reason, parity, samples.source)
    if args.html is not None:
        parities = {name: checked.parity for name, checked in found.items()}
        profile = open_profile(args.profile) if args.profile else None
        write_convert_page(args.html, artifact, settings.checkpoint, reason, parities, samples.source, profile)
        text += f"\n\nWrote {args.html}"
    emit(args.json, to_json(artifact, reason, parity), text)
    return 0


def _check_methods(draft: Artifact, checkpoint: Checkpoint, samples: Inputs, waived: bool) -> dict[str, Checked]:
    """The comparison of each method; raises :class:`GateError` where one fails its gates and that is not waived."""
    from tofe_edge.workflows.checking import InMemory, check

    found = {name: check(draft, checkpoint, InMemory(samples), method=name) for name in draft.manifest.methods}
    for name, parity in ((name, checked.parity) for name, checked in found.items()):
        if not parity.passed and not waived:
            which = f"{draft.path.name}, method {name}" if draft.manifest.further_methods else draft.path.name
            raise GateError(f"{which}: not written, it differs from the reference: {'; '.join(parity.failures)}")
    return found


def _write_golden(draft: Artifact, checkpoint: Checkpoint) -> Path:
    """Inputs and what the artifact makes of them here, for whoever wants to know whether it does so elsewhere."""
    from tofe_edge.evaluation.golden import golden_path_of, make_golden
    from tofe_edge.runtimes.loading import load_model

    path = golden_path_of(draft.path)
    write_content(path, make_golden(draft, lambda method: load_model(draft, 1, method), checkpoint).content())
    return path


def _parity_record(found: Mapping[str, Checked], source: str, waiver: str | None) -> dict[str, Any]:
    """What the manifest keeps: parity of the default method, and what was waived of any, with the reason given."""
    default, *_ = found.values()
    record: dict[str, Any] = {**default.parity.to_json(), "source": source, "reference_device": default.device}
    failures = [f"{name}: {failure}" for name, checked in found.items() for failure in checked.parity.failures]
    if failures and waiver is not None:
        record["waiver"] = {"text": waiver, "failures": failures}
    return record


def _read_images(args: argparse.Namespace, settings: Settings) -> tuple[Calibration | None, Inputs]:
    """What int8 may look at (sample photographs without ``--calibration``) and other images to check the result on."""
    from tofe_edge.converters.request import PALETTE_BITS, Calibration
    from tofe_edge.io.inputs import load_photographs, load_unlabelled

    spec, quantizes = settings.checkpoint.preprocessing, settings.precision in ("int8", *PALETTE_BITS)
    if args.image_size is not None:
        _check_image_size(settings.checkpoint, args.image_size)
        spec = replace(spec, image_size=args.image_size)
    if args.calibration is None:
        require(
            args.max_accuracy_drop is None, "--max-accuracy-drop is held on images; give a folder with --calibration"
        )
        require(
            (settings.precision, settings.int8_mode) != ("int8", "static"),
            "static int8 needs calibration images; give a folder with --calibration",
        )
        if not quantizes:
            return None, load_photographs(spec)
        # Other crops than those of the check. Two photographs are enough to round weights by: with them the shipped
        # net's logits are 17.7 dB from fp32 on 1300 images, without 16.4, with 256 training images 17.6.
        crops = load_photographs(spec, _CALIBRATION_SEED)
        return Calibration(tuple(map(_dense, crops.pixels)), None), load_photographs(spec)
    require(quantizes, f"--calibration serves int8 and palettes; leave it out for {settings.precision}")
    class_ids = settings.checkpoint.classes.ids
    inputs = load_unlabelled(args.calibration, spec, args.calibration_images + _CHECK_IMAGES, class_ids=class_ids)
    require(len(inputs.pixels) > 1, f"{args.calibration}: one image cannot serve both calibration and check; add more")
    require(
        args.max_accuracy_drop is None or inputs.labels is not None,
        f"{args.calibration}: --max-accuracy-drop needs labelled images, DIR/<class id>/<image>",
    )
    checked, labels = min(_CHECK_IMAGES, len(inputs.pixels) // 2), inputs.labels
    served = slice(checked, checked + args.calibration_images)
    calibration = Calibration(tuple(map(_dense, inputs.pixels[served])), labels[served] if labels else None)
    return calibration, replace(inputs, pixels=inputs.pixels[:checked], labels=labels[:checked] if labels else None)


def _check_image_size(checkpoint: Checkpoint, image_size: int) -> None:
    """Refuse a size that the net cannot have before images of that size fill the memory."""
    from tofe_edge.model.checkpoint import host_of
    from tofe_edge.model.resolution import check_image_size

    check_image_size(host_of(checkpoint).spec, image_size)


def _dense(pixels: npt.NDArray[np.float32]) -> torch.Tensor:
    """A tensor without the zero strides of a broadcast batch axis, which the exporter refuses."""
    import torch

    return torch.from_numpy(pixels.copy())


def _lower(request: ConvertRequest, path: Path) -> Artifact:
    from tofe_edge.converters.pipeline import convert
    from tofe_edge.io.artifact import open_artifact, write_manifest

    conversion = convert(request)
    write_content(path, conversion.content)
    write_manifest(path, conversion.manifest)
    return open_artifact(path)


def _request(args: argparse.Namespace, settings: Settings) -> ConvertRequest:
    """What to make, without the images."""
    from tofe_edge.converters.request import ConvertRequest
    from tofe_edge.converters.sensitivity import MAX_ACCURACY_DROP

    return ConvertRequest(
        checkpoint=settings.checkpoint,
        target=settings.target,
        precision=settings.precision,
        profile=settings.profile,
        file_name=settings.file_name,
        int8_mode=settings.int8_mode,
        max_accuracy_drop=None if args.calibration is None else args.max_accuracy_drop or MAX_ACCURACY_DROP,
        further_gmacs=args.elastic,
        batch=args.batch,
        image_size=args.image_size,
        selection=settings.selection,
        reproducible=args.reproducible,
        token_counts=settings.token_counts,
        coreml=_coreml_request(args, settings) if settings.backend == "coreml" else None,
    )


def _coreml_request(args: argparse.Namespace, settings: Settings) -> CoreMlRequest:
    from tofe_edge.converters.request import CoreMlRequest

    return CoreMlRequest(
        deployment_target=settings.deployment_target,
        io=settings.io,
        layout=settings.layout,
        float32_selectors=args.float32_selectors,
        author=args.author,
        license=args.license,
    )

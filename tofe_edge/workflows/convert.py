"""Converting a checkpoint: lower what was planned, check it against the reference, put model, manifest and golden vectors in place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tofe_edge.converters import pipeline
from tofe_edge.converters.request import Calibration, ConvertRequest
from tofe_edge.errors import GateError, InputError, require
from tofe_edge.evaluation.golden import golden_path_of, make_golden
from tofe_edge.evaluation.parity import Parity
from tofe_edge.io.artifact import Artifact, Manifest, manifest_path_of, open_artifact, with_parity, write_manifest
from tofe_edge.io.documents import read_json
from tofe_edge.io.files import check_place, finish_replacement, replace_together, staging_dir, write_content
from tofe_edge.io.inputs import Inputs, load_photographs, load_unlabelled
from tofe_edge.io.listing import EVERYTHING, Coverage
from tofe_edge.io.progress import covering_bar, progress_bar
from tofe_edge.model.checkpoint import Checkpoint, backbone_of
from tofe_edge.model.resolution import check_image_size
from tofe_edge.runtimes.calibration import undisturbed_ms
from tofe_edge.runtimes.devices.opening import open_bench
from tofe_edge.runtimes.loading import open_model
from tofe_edge.runtimes.timing import TimingRequest, joined
from tofe_edge.runtimes.trial import trust
from tofe_edge.workflows.conversion_plan import ConvertOptions, Plan, resolve_options
from tofe_edge.workflows.parity import Checked, InMemory, check

_CHECK_IMAGES = 64
_CALIBRATION_SEED = 1
_ROUNDS, _RUNS = 20, 10
"""Of a measurement with ``on``."""


@dataclass(frozen=True)
class Converted:
    """A model that has passed its gates (or was waived) and is in place, and how it compares with the reference."""

    artifact: Artifact
    plan: Plan
    parities: Mapping[str, Parity]
    """By method, the default first."""
    source: str
    """The images of the comparison."""
    coverage: Coverage = EVERYTHING
    """How much of the calibration images was used."""
    replaced: str | None = None
    """What is said of another model that stood in its place."""

    @property
    def path(self) -> Path:
        """The model file, or folder."""
        return self.artifact.path

    @property
    def manifest(self) -> Manifest:
        """What is known of the model."""
        return self.artifact.manifest

    @property
    def parity(self) -> Parity:
        """That of the default method."""
        return next(iter(self.parities.values()))

    @property
    def reason(self) -> str:
        """Why this checkpoint."""
        return self.plan.reason

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is to be said, one line each."""
        return (*self.coverage.remarks, *([self.replaced] if self.replaced else []))


def convert(options: ConvertOptions) -> Converted:
    """Convert; nothing is left in the output folder unless the result passes its parity gates.

    Raises:
        InputError: the options do not go together, or a file cannot be read or written.
        GateError: nothing fits the budget, or the result fails its gates.
        DeviceError: the model cannot be run or measured.
    """
    return carry_out(resolve_options(options))


def carry_out(plan: Plan) -> Converted:
    """Make what was planned. Raises as :func:`convert`."""
    options, request = plan.options, plan.request
    finish_replacement(plan.path)
    for place, is_folder in plan.places.items():
        check_place(place, is_folder)
    earlier = _earlier(plan.path)
    with staging_dir(Path(options.out)) as folder, progress_bar("reading images", total=3, unit="step") as bar:
        # 1. Read images and lower.
        calibration, samples = _read_images(plan)
        bar.update(1)
        bar.set_description(f"lowering to {request.target.name}, {request.precision} (a minute or two)")
        draft = write_conversion(replace(request, calibration=calibration), folder / request.file_name)
        bar.update(1)
        # 2. Check every method, measure if asked to.
        bar.set_description("checking against the reference")
        checked = _check_methods(draft, request.checkpoint, samples, options.waive is not None)
        manifest = with_parity(draft.manifest, _parity_record(checked, samples.source, options.waive))
        manifest = replace(manifest, latency=_latency_record(plan, draft))
        write_manifest(draft.path, manifest)
        # 3. Golden vectors: inputs, and what the artifact makes of them here.
        golden = golden_path_of(draft.path)
        vectors = make_golden(draft, lambda method: open_model(draft, 1, method), request.checkpoint)
        write_content(golden, vectors.content())
        bar.update(1)
        # 4. All are complete.
        replace_together([draft.path, draft.manifest_path, golden], plan.path)
        artifact = Artifact(plan.path, manifest)
    parities = {name: one.parity for name, one in checked.items()}
    replaced = _replaced(earlier, manifest)
    return Converted(artifact, plan, parities, samples.source, samples.coverage, replaced)


def _earlier(path: Path) -> Manifest | None:
    """The manifest of the model that stands in the place of the new one; ``None``: there is none that can be read."""
    try:
        return Manifest.from_json(read_json(manifest_path_of(path), "")) if path.exists() else None
    except InputError:
        return None


def _replaced(earlier: Manifest | None, manifest: Manifest) -> str | None:
    """A remark if the earlier model of the same name was another one, as with other calibration images."""
    if earlier is None or earlier.sha256 == manifest.sha256:
        return None
    made, makes = (_made_with(one) for one in (earlier, manifest))
    how = f"made with {made}, this one with {makes}" if made != makes else f"made with {made} too"
    return f"{manifest.artifact} replaces another model of that name, {how}; keep both with another --out"


def _made_with(manifest: Manifest) -> str:
    parity, cost = manifest.parity or {}, (manifest.quantization or {}).get("cost", {})
    count = f"{cost['images']} " if isinstance(cost, dict) and "images" in cost else ""
    return f"{count}{parity.get('source', 'unknown images')}"


def write_conversion(request: ConvertRequest, path: Path) -> Artifact:
    """Convert, and write model and manifest without a check. Raises as :func:`tofe_edge.converters.pipeline.convert`."""
    conversion = pipeline.convert(request)
    write_content(path, conversion.content)
    write_manifest(path, conversion.manifest)
    trust(conversion.manifest.sha256)
    return open_artifact(path)


def _read_images(plan: Plan) -> tuple[Calibration | None, Inputs]:
    """What int8 may look at (sample photographs without ``calibration``) and other images to check the result on."""
    options, request = plan.options, plan.request
    checkpoint, spec, folder = request.checkpoint, request.checkpoint.preprocessing, options.calibration
    if options.image_size is not None:
        # Before images of a size that the net cannot have fill the memory.
        check_image_size(backbone_of(checkpoint).spec, options.image_size)
        spec = replace(spec, image_size=options.image_size)
    if folder is None:
        require(
            options.max_accuracy_drop is None,
            "--max-accuracy-drop is held on images; give a folder with --calibration",
        )
        require(
            (request.precision, request.int8_mode) != ("int8", "static"),
            "static int8 needs calibration images; give a folder with --calibration",
        )
        if not request.quantizes:
            return None, load_photographs(spec)
        # Other crops than those of the check. Two photographs are enough to round weights by: with them the shipped
        # net's logits are 17.7 dB from fp32 on 1300 images, without 16.4, with 256 training images 17.6.
        crops = load_photographs(spec, _CALIBRATION_SEED)
        return Calibration(tuple(map(_dense, crops.pixels)), None), load_photographs(spec)
    require(request.quantizes, f"--calibration serves int8 and palettes; leave it out for {request.precision}")
    count = options.calibration_images
    inputs = load_unlabelled(folder, spec, count + _CHECK_IMAGES, class_ids=checkpoint.classes.ids)
    require(len(inputs.pixels) > 1, f"{folder}: one image cannot serve both calibration and check; add more")
    require(
        options.max_accuracy_drop is None or inputs.labels is not None,
        f"{folder}: --max-accuracy-drop needs labelled images, DIR/<class id>/<image>",
    )
    checked, labels = min(_CHECK_IMAGES, len(inputs.pixels) // 2), inputs.labels
    served = slice(checked, checked + count)
    calibration = Calibration(tuple(map(_dense, inputs.pixels[served])), labels[served] if labels else None)
    return calibration, replace(inputs, pixels=inputs.pixels[:checked], labels=labels[:checked] if labels else None)


def _dense(pixels: npt.NDArray[np.float32]) -> torch.Tensor:
    """A tensor without the zero strides of a broadcast batch axis, which the exporter refuses."""
    return torch.from_numpy(pixels.copy())


def _check_methods(draft: Artifact, checkpoint: Checkpoint, samples: Inputs, waived: bool) -> dict[str, Checked]:
    """The comparison of each method; raises :class:`GateError` if one fails its gates and that is not waived."""
    pictures = InMemory(samples)
    checked = {name: check(draft, checkpoint, pictures, method=name) for name in draft.manifest.methods}
    for name, one in checked.items():
        if not one.parity.passed and not waived:
            which = f"{draft.path.name}, method {name}" if draft.manifest.further_methods else draft.path.name
            raise GateError(f"{which}: not written, it differs from the reference: {'; '.join(one.parity.failures)}")
    return checked


def _parity_record(checked: Mapping[str, Checked], source: str, waiver: str | None) -> dict[str, Any]:
    """What the manifest keeps: parity of the default method, and what was waived of any, with the reason given."""
    default, *_ = checked.values()
    record: dict[str, Any] = {**default.parity.to_json(), "source": source, "reference_device": default.device}
    failures = [f"{name}: {failure}" for name, one in checked.items() for failure in one.parity.failures]
    if failures and waiver is not None:
        record["waiver"] = {"text": waiver, "failures": failures}
    return record


def _latency_record(plan: Plan, draft: Artifact) -> dict[str, Any] | None:
    """What the manifest keeps: predicted and, with ``on``, measured; ``None`` if neither is known.

    Raises:
        GateError: it takes longer than ``max_latency_ms``.
        InputError, DeviceError: it cannot be measured.
    """
    options, forecast, limit = plan.options, plan.forecast, plan.options.max_latency_ms
    if forecast is None and options.on is None:
        return None
    record: dict[str, Any] = {
        "predicted_ms": None if forecast is None else round(forecast.ms, 3),
        "measured_ms": None,
        "measured_p50_ms": None,
        "limit_ms": limit,
        "device": None,
        "threads": plan.threads,
        "source": None if forecast is None else forecast.table.source,
    }
    if options.on is None:
        return record
    with (
        open_bench(options.on, options.runner) as bench,
        covering_bar(f"measuring on {bench.name}", total=_ROUNDS, unit="round") as bar,
    ):
        timings = []
        for _ in range(_ROUNDS):
            timings.append(bench.time(draft.path, TimingRequest(runs=_RUNS, threads=plan.threads)))
            bar.update(1)
        timing, record["device"] = joined(timings), bench.name
    measured_ms = round(undisturbed_ms(timing), 3)
    record |= {"measured_ms": measured_ms, "measured_p50_ms": round(timing.latency.percentile(50), 3)}
    if limit is not None and measured_ms > limit:
        raise GateError(
            f"{draft.path.name}: not written, it takes {measured_ms:.2f} ms on {record['device']} where "
            f"{record['predicted_ms']:.2f} ms were predicted and {limit:g} ms are allowed; calibrate again with the device "
            f"as it is now, or ask for --max-latency-ms {limit * limit / measured_ms:.3g}"
        )
    return record

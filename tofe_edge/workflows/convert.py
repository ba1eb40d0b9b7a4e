"""Converting a checkpoint: choose, lower, check against the reference, put model, manifest and golden vectors in place."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from tofe_edge.budget.gmacs import TOLERANCE
from tofe_edge.budget.latency import Forecast
from tofe_edge.converters import pipeline
from tofe_edge.converters.quantize import Int8Mode
from tofe_edge.converters.request import Calibration, ConvertRequest, Selection
from tofe_edge.converters.sensitivity import MAX_ACCURACY_DROP
from tofe_edge.errors import GateError, InputError, require
from tofe_edge.evaluation.golden import golden_path_of, make_golden
from tofe_edge.evaluation.parity import Parity
from tofe_edge.io.artifact import Artifact, Manifest, manifest_path_of, open_artifact, with_parity, write_manifest
from tofe_edge.io.documents import read_json
from tofe_edge.io.files import check_place, finish_replacement, replace_together, staging_dir, write_content
from tofe_edge.io.inputs import Inputs, load_photographs, load_unlabelled
from tofe_edge.io.listing import EVERYTHING, Coverage
from tofe_edge.io.progress import covering_bar, progress_bar, warn
from tofe_edge.io.targets import find_target, target_names
from tofe_edge.model.backbones import Output
from tofe_edge.model.checkpoint import Checkpoint, backbone_of, dense_form
from tofe_edge.model.resolution import check_image_size
from tofe_edge.profiles import DeviceProfile
from tofe_edge.runtimes.calibration import undisturbed_ms
from tofe_edge.runtimes.devices.opening import open_bench
from tofe_edge.runtimes.loading import open_model
from tofe_edge.runtimes.timing import TimingRequest, joined
from tofe_edge.runtimes.trial import trust
from tofe_edge.workflows.parity import Checked, InMemory, check
from tofe_edge.workflows.select import check_budget, choose_for, choose_within, predicted_for
from tofe_edge.workflows.sources import StrPath, open_checkpoint, open_profile

_CHECK_IMAGES = 64
_CALIBRATION_SEED = 1
_ROUNDS, _RUNS = 20, 10
"""Of a measurement with ``on``."""

_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class ConvertOptions:
    """What to convert and how; what is ``None`` is decided by the profile and the target.

    Attributes:
        checkpoint: a shipped checkpoint's name, a file, or one that is open; ``None``: chosen by budget.
        profile: a shipped device profile's name, a YAML file, or one that is open.
        out: the output folder.
        max_gmacs: budget in 1e9 multiply-accumulates per image, in place of the profile's.
        max_latency_ms: what one image may take on the profile's device, by its latency tables.
        backbone: the net of plain dense weights.
        labels: class names in place of the checkpoint's: a file, a folder of class folders, or ``imagenet``.
        preprocessing: in place of the checkpoint's: ``imagenet``, ``inception``, ``clip`` or a file.
        dense: without token reduction: the checkpoint's dense form, or chosen among dense nets alone.
        target: ``executorch``, ``coreml`` or ``onnx``.
        engine: the profile's engine of this name (``gpu``) in place of its default: target and precision are that one's.
        precision: ``fp32``, ``int8``; for ONNX also ``fp16``, for Core ML ``fp16``, ``pal6``, ``pal4``.
        options: the target's own, by name (``tofe-edge convert --target coreml --help`` lists them).
        int8_mode: ``dynamic``, ``static`` or ``weights``.
        selection: ``topk`` or ``rank``.
        reproducible: the same bytes out on 64-bit ARM and on x86 with AVX2.
        calibration: a folder of images for int8 and palettes.
        calibration_images: how many of them.
        max_accuracy_drop: points of top-1 that int8 may cost on them.
        elastic: further budgets in GMACs, as methods of the same model.
        batch: images per run.
        image_size: side of the input in pixels.
        output: ``logits``, ``embedding`` or ``features``; ``None``: logits if the net has a head, else its embedding.
        normalize: give an embedding the length 1.
        waive: write the model even if it fails its parity gates, for this reason.
        on: measure the model before it is written, on this bench (``host``, ``ssh://…``, ``adb``).
        runner: folder of a ``tofe_runner`` for ``on``.
    """

    checkpoint: StrPath | Checkpoint | None = None
    profile: StrPath | DeviceProfile | None = None
    out: StrPath = "out"
    max_gmacs: float | None = None
    max_latency_ms: float | None = None
    backbone: str | None = None
    labels: StrPath | None = None
    preprocessing: StrPath | None = None
    dense: bool = False
    target: str | None = None
    engine: str | None = None
    precision: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    int8_mode: str | None = None
    selection: str | None = None
    reproducible: bool = False
    calibration: Path | None = None
    calibration_images: int = 256
    max_accuracy_drop: float | None = None
    elastic: Sequence[float] = ()
    batch: int = 1
    image_size: int | None = None
    output: str | None = None
    normalize: bool = False
    waive: str | None = None
    on: str | None = None
    runner: Path | None = None


@dataclass(frozen=True)
class Plan:
    """What will be made: options, profile and target resolved."""

    options: ConvertOptions
    profile: DeviceProfile | None
    request: ConvertRequest
    """Without the calibration images, which are not read yet."""
    reason: str
    """Why this checkpoint."""
    forecast: Forecast | None
    """What it is predicted to take, if that is known."""
    threads: int

    @property
    def path(self) -> Path:
        """Where the model will be."""
        return Path(self.options.out) / self.request.file_name

    @property
    def places(self) -> dict[Path, bool]:
        """Every file (``False``) and folder (``True``) that will be written."""
        path = self.path
        return {path: self.request.target.is_folder, golden_path_of(path): True, manifest_path_of(path): False}


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


def resolve_options(options: ConvertOptions) -> Plan:
    """Return what options, profile and target come to.

    Raises:
        InputError: the options do not go together.
        GateError: nothing fits the budget.
    """
    # 1. The device, the target and the checkpoint.
    profile = None if options.profile is None else open_profile(options.profile)
    options = _for_engine(options, profile)
    own_target = profile.defaults.target if profile else target_names()[0]
    target = find_target(options.target or own_target)
    target_options = target.options_from(options.options, profile)
    checkpoint, reason, forecast = _choose(options, profile)
    # 2. Everything that has a default of its own.
    default_precision = profile.defaults.precision if profile else "int8"
    precision = forecast.table.precision if forecast else options.precision or default_precision
    storage = target.precisions.get(precision)
    int8_modes = storage.int8_modes if storage and storage.int8_modes else ("dynamic",)
    usual_mode = "static" if options.reproducible and "static" in int8_modes else int8_modes[0]
    int8_mode = options.int8_mode or usual_mode
    usual_output = "logits" if checkpoint.classes.ids else "embedding"
    output = options.output or usual_output
    require(
        output != "logits" or len(checkpoint.classes.ids) != 1,
        f"{checkpoint.name}: has one output, of which the softmax is always 1; give it two classes, or use --output embedding",
    )
    usual_selection = target.default_selection(profile)
    selection = options.selection or usual_selection
    fitted = None if forecast is None or forecast.at_own_counts else forecast.counts
    # 3. What is predicted.
    require(
        options.on is None or target.native_runner,
        f"--on times ExecuTorch programs; a {target.title} model is timed by `tofe-edge profile`, on its own device",
    )
    if forecast is None and _not_predicted(options, own_target) is None:
        forecast = predicted_for(profile, checkpoint, precision)
    threads = forecast.table.threads if forecast else profile.defaults.threads if profile else 1
    # 4. The name: checkpoint, profile, precision and whatever else differs from the profile's plain artifact.
    size = options.image_size
    normalized = "normalized_" if options.normalize else ""
    changed_mode = precision == "int8" and int8_mode != int8_modes[0]
    parts = [
        checkpoint.name,
        f"{normalized}{output}" if output != "logits" else "",
        profile.name if profile else "",
        f"int8_{int8_mode}" if changed_mode else precision,
        target.backend if target.name != own_target else "",
        "elastic" if options.elastic else "",
        f"batch{options.batch}" if options.batch > 1 else "",
        f"{size}px" if size else "",
        str(fitted or "").replace(",", "_"),
        selection if selection != usual_selection else "",
        "reproducible" if options.reproducible else "",
        *target.name_suffix(target_options, profile),
    ]
    stem = _UNSAFE.sub("_", "-".join(filter(None, parts)))[:150].lstrip(".-")
    require(
        options.max_accuracy_drop is None or output == "logits",
        f"--max-accuracy-drop: is about classes, and the model gives its {output}; leave it out",
    )
    holds_drop = options.calibration is not None and output == "logits"
    drop = options.max_accuracy_drop or MAX_ACCURACY_DROP if holds_drop else None
    request = ConvertRequest(
        checkpoint=checkpoint,
        target=target,
        precision=precision,
        profile=profile.name if profile else None,
        file_name=stem + target.suffix,
        int8_mode=cast(Int8Mode, int8_mode),
        max_accuracy_drop=drop,
        further_gmacs=tuple(options.elastic),
        batch=options.batch,
        image_size=size,
        selection=cast(Selection, selection),
        reproducible=options.reproducible,
        token_counts=fitted,
        options=target_options,
        output=cast(Output, output),
        normalize=options.normalize,
    )
    return Plan(options, profile, request.check(), reason, forecast, threads)


def _for_engine(options: ConvertOptions, profile: DeviceProfile | None) -> ConvertOptions:
    """The options with target and precision of the engine that they name, if they name one."""
    if options.engine is None:
        return options
    engines = {one.name: one for one in profile.engines} if profile else {}
    if options.engine not in engines:
        known = f"{profile.name} knows {', '.join(engines) or 'none'}" if profile else "name one with --profile"
        raise InputError(f"--engine {options.engine}: is one of a device profile's engines; {known}")
    require(options.target is None, "--engine chooses the target itself; leave --target out")
    chosen = engines[options.engine]
    return replace(options, target=chosen.target, precision=options.precision or chosen.precision)


def variants_of(options: ConvertOptions) -> list[ConvertOptions]:
    """The options for each engine of the profile's device, the usual one first. Raises :class:`InputError` without one."""
    require(
        options.profile is not None and options.target is None, "--all: is of a device; give --profile, not --target"
    )
    profile = open_profile(cast(StrPath, options.profile))
    require(profile.engines, f"--all: {profile.name} knows one engine alone; leave it out")
    return [replace(options, profile=profile, engine=name) for name in (None, *(one.name for one in profile.engines))]


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


def _choose(options: ConvertOptions, profile: DeviceProfile | None) -> tuple[Checkpoint, str, Forecast | None]:
    """The checkpoint, why, and what it is predicted to take if it was chosen by that."""
    check_budget(options.max_gmacs, options.max_latency_ms)
    named = _named(options)
    if named is not None and options.dense:
        named = dense_form(named)
    require(
        named is not None or options.backbone is None,
        "--backbone names the net of plain dense weights; give their file with --checkpoint",
    )
    if options.max_latency_ms is not None:
        reason = _not_predicted(options, profile.defaults.target if profile else None)
        require(reason is None, f"--max-latency-ms: latency is not predicted {reason}")
        choice = choose_within(profile, options.max_latency_ms, options.precision, named, options.dense)
        return choice.forecast.net.checkpoint, choice.reason, choice.forecast
    if named is None:
        by_gmacs = choose_for(profile, options.max_gmacs, options.dense)
        return by_gmacs.checkpoint, by_gmacs.reason, None
    limit = options.max_gmacs or (profile.budget.gmacs.value if profile else None)
    if limit is not None and named.gmacs > limit * (1 + TOLERANCE):
        warn(f"{named.name} needs {named.gmacs:.2f} GMACs, over the budget of {limit:.2f}")
    return named, f"named with --checkpoint{', dense' if options.dense else ''}", None


def _named(options: ConvertOptions) -> Checkpoint | None:
    if options.checkpoint is None:
        given = [name for name in ("labels", "preprocessing") if getattr(options, name) is not None]
        require(not given, f"--{' and --'.join(given)} are of weights of your own; give them with --checkpoint")
        return None
    return open_checkpoint(options.checkpoint, options.backbone, options.labels, options.preprocessing)


def _not_predicted(options: ConvertOptions, own_target: str | None) -> str | None:
    """Why latency tables, which are of the usual graph, do not tell what the one that is asked for takes."""
    target = find_target(options.target or own_target or target_names()[0])
    tabled = ", ".join(name for name in target_names() if find_target(name).native_runner)
    reasons = {
        f"for {target.title}; use --target {tabled}": not target.native_runner,
        "for batches": options.batch > 1,
        "for other image sizes": options.image_size is not None,
        f"for --selection {options.selection}": options.selection not in (None, target.default_selection(None)),
        f"for --int8-mode {options.int8_mode}": options.int8_mode not in (None, "dynamic"),
        "for --output features": options.output == "features",
        "for --reproducible": options.reproducible,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


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

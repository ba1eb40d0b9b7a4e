"""What a conversion will make: options, device profile and target resolved, a checkpoint chosen."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from tofe_edge.budget.gmacs import TOLERANCE
from tofe_edge.budget.latency import Forecast
from tofe_edge.converters.quantize import Int8Mode
from tofe_edge.converters.request import ConvertRequest, Selection
from tofe_edge.converters.sensitivity import MAX_ACCURACY_DROP
from tofe_edge.errors import InputError, require
from tofe_edge.evaluation.golden import golden_path_of
from tofe_edge.io.artifact import manifest_path_of
from tofe_edge.io.progress import warn
from tofe_edge.io.targets import find_target, target_names
from tofe_edge.model.backbones import Output
from tofe_edge.model.checkpoint import Checkpoint, dense_form
from tofe_edge.profiles import DeviceProfile
from tofe_edge.workflows.select import check_budget, choose_for, choose_within, predicted_for
from tofe_edge.workflows.sources import StrPath, open_checkpoint, open_profile

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

"""One call from a checkpoint to an exported model and its manifest."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from typing import Any, Literal

import torch

from tofe_edge import __version__
from tofe_edge.budget.cost import fit_counts
from tofe_edge.converters import coreml, coreml_delegate, executorch
from tofe_edge.converters.attribution import LayerNoise, layer_noise_of
from tofe_edge.converters.channels_first import channels_first
from tofe_edge.converters.coreml_graph import NativeRankSelection, native_graph, native_topk
from tofe_edge.converters.coreml_package import About, check_text, unique_labels
from tofe_edge.converters.lowered import Lowered, LoweredMethod
from tofe_edge.converters.quantize import gather_statistics, layers_of, plan_int8, quantize
from tofe_edge.converters.reproducible import reproducible
from tofe_edge.converters.request import PALETTE_BITS, Calibration, ConvertRequest, CoreMlRequest
from tofe_edge.converters.selection import select_by_rank, select_by_topk
from tofe_edge.converters.sensitivity import MixedPlan, choose_layers, measure_cost
from tofe_edge.converters.smoothing import loudest_normalised, smooth_residual
from tofe_edge.converters.static_graph import StaticToFe, build_static_graph
from tofe_edge.errors import InputError
from tofe_edge.io.artifact import DEFAULT_METHOD, Manifest, Method
from tofe_edge.io.files import Content, fingerprint
from tofe_edge.io.preprocessing import Preprocessing, denormalize
from tofe_edge.model.backbones import Backbone, TokenCounts
from tofe_edge.model.checkpoint import load_model
from tofe_edge.model.macs import dense_macs, gmacs, tofe_macs
from tofe_edge.model.resolution import at_image_size
from tofe_edge.runtimes.coreml_names import function_name

_LIBRARIES = {"executorch": ("executorch", "torchao"), "coreml": ("coremltools",)}
"""What makes the artifact, by target and backend, beside what makes the graph."""

_BUDGET_TOLERANCE = 0.05
"""Share by which a further budget may be missed: counts are whole tokens, and kept in the checkpoint's proportions."""

_SMOOTHING_IMAGES = 16
"""Enough to tell the loud channels of the residual stream: they are the same in every image."""

_COST_IMAGES = 16
"""On which the cost of int8 is reported where no accuracy drop is held on all of them."""

_LAYER_IMAGES = 4
"""Enough for the noise of each layer, a mean over thousands of numbers an image."""

_SILENT_DB = 200.0
"""Stands for a layer without any noise: JSON has no infinity."""

_SELECTIONS = {"topk": select_by_topk, "rank": select_by_rank}

Budgets = Mapping[str, TokenCounts | None]
"""Token counts by method name, the default first; ``None`` for the dense net."""


@dataclass(frozen=True)
class Conversion:
    """The exported model and the manifest that goes beside it."""

    content: Content
    manifest: Manifest

    @property
    def program(self) -> bytes:
        """The content of a model that is one file."""
        assert isinstance(self.content, bytes), "a package is a folder"
        return self.content


def convert(request: ConvertRequest) -> Conversion:
    """Build the static graph of a checkpoint, quantize it and lower it.

    Raises:
        InputError: the target or precision is not available, a budget does not fit, or the net cannot be rewritten.
    """
    request.check()
    checkpoint = request.checkpoint
    model, counts, preprocessing = load_model(checkpoint), request.counts, checkpoint.preprocessing
    if request.image_size is not None and request.image_size != preprocessing.image_size:
        resized = at_image_size(model, counts, preprocessing, request.image_size)
        model, counts, preprocessing = resized.model, resized.counts, resized.preprocessing
    spec = model.backbone.spec
    if counts is not None:
        request.check_tokens(spec.patch_tokens)
    budgets = _budgets(spec, counts, request.further_gmacs)
    graph = build_static_graph(model, counts, _SELECTIONS[request.selection])
    if request.coreml is not None:
        request = _in_pixels(request, preprocessing)
        graph = _native(graph, request, preprocessing, spec)
    graph, report = _quantized(_rewritten(graph, request), request)
    channels_wanted = request.coreml is not None and request.coreml.layout == "channels_first"
    # Last: it moves quantized weights as they are.
    final = channels_first(graph) if channels_wanted else graph
    lowered = _lower(final, budgets, request, spec, preprocessing)
    return Conversion(lowered.content, _manifest(request, spec, graph, budgets, lowered, report, preprocessing))


def _in_pixels(request: ConvertRequest, preprocessing: Preprocessing) -> ConvertRequest:
    """The request with calibration inputs as the graph takes them."""
    assert request.coreml is not None
    if request.calibration is None or request.coreml.io == "tensor":
        return request
    images = tuple(torch.from_numpy(denormalize(image.numpy(), preprocessing)) for image in request.calibration.images)
    return replace(request, calibration=Calibration(images, request.calibration.labels))


def _native(graph: StaticToFe, request: ConvertRequest, preprocessing: Preprocessing, spec: Backbone) -> StaticToFe:
    assert request.coreml is not None
    select = NativeRankSelection(spec.patch_tokens) if request.selection == "rank" else native_topk
    return native_graph(graph, select, preprocessing if request.coreml.io == "image" else None)


def _rewritten(graph: StaticToFe, request: ConvertRequest) -> StaticToFe:
    """The fp32 graph as it is to be quantized: channels evened out where images tell the loud ones, kernels chosen."""
    if request.quantizes and request.coreml is None and request.calibration is not None:
        graph = smooth_residual(graph, loudest_normalised(graph, request.calibration.images[:_SMOOTHING_IMAGES]))
    return reproducible(graph) if request.reproducible else graph


def _quantized(graph: StaticToFe, request: ConvertRequest) -> tuple[StaticToFe, dict[str, Any] | None]:
    """The graph to lower, and what quantization cost where there are images to tell by."""
    if not request.quantizes:
        return graph, None
    bits = PALETTE_BITS.get(request.precision)
    plan = plan_int8(graph, "weights" if bits else request.int8_mode, quantizes_outputs=request.coreml is None)
    plan = replace(plan, palette_bits=bits)
    if request.calibration is None:
        return quantize(graph, plan), None
    images, labels = request.calibration.images, request.calibration.labels
    statistics = gather_statistics(graph, images)
    mixed = None
    if request.max_accuracy_drop is not None:
        mixed = choose_layers(graph, plan, statistics, images, labels, request.max_accuracy_drop)
        plan = mixed.plan
    quantized = quantize(graph, plan, statistics)
    if mixed is None:
        shown = images[:_COST_IMAGES]
        cost = measure_cost(graph, quantized, shown, labels and labels[: len(shown)])
        mixed = MixedPlan(plan, cost, cost, {})
    layers = layer_noise_of(graph, quantized, plan, images[:_LAYER_IMAGES])
    return quantized, _report(mixed, layers)


def _lower(
    graph: StaticToFe,
    budgets: Budgets,
    request: ConvertRequest,
    spec: Backbone,
    preprocessing: Preprocessing,
) -> Lowered:
    methods = {name: graph if kept is None else graph.with_counts(kept.kept) for name, kept in budgets.items()}
    shape = (request.batch, 3, spec.image_size, spec.image_size)
    if request.coreml is None:
        return executorch.lower(methods, shape)
    if request.delegated:
        precision: Literal["fp32", "fp16"] = "fp32" if request.precision == "fp32" else "fp16"
        return coreml_delegate.lower(methods, shape, request.coreml.deployment_target, precision)
    return coreml.lower(methods, shape, _coreml_options(request, request.coreml, budgets, spec, preprocessing))


def _coreml_options(
    request: ConvertRequest, wanted: CoreMlRequest, budgets: Budgets, spec: Backbone, preprocessing: Preprocessing
) -> coreml.CoreMlOptions:
    checkpoint, default = request.checkpoint, budgets[DEFAULT_METHOD]
    check_text(wanted.author, "--author")
    check_text(wanted.license, "--license")
    kept = {function_name(name): counts.kept for name, counts in budgets.items() if counts is not None}
    notes = {
        "tofe_edge.checkpoint": checkpoint.name,
        "tofe_edge.checkpoint_sha256": checkpoint.sha256(),
        "tofe_edge.backbone": spec.name,
        "tofe_edge.precision": request.precision,
        "tofe_edge.profile": request.profile or "",
        "tofe_edge.preprocessing": json.dumps(preprocessing.to_json(), sort_keys=True),
        "tofe_edge.version": __version__,
        **{f"tofe_edge.kept_tokens.{name}": ",".join(map(str, tokens)) for name, tokens in kept.items()},
    }
    tokens = "" if default is None else f", {', '.join(map(str, default.kept))} of {spec.patch_tokens} patches kept"
    about = About(
        title=f"{checkpoint.name}: image classifier, {len(checkpoint.classes.names)} classes{tokens}",
        author=wanted.author,
        license=wanted.license,
        version=__version__,
        stages=0 if default is None else len(default.kept),
        patch_tokens=spec.patch_tokens,
        metadata=notes,
    )
    return coreml.CoreMlOptions(
        deployment_target=wanted.deployment_target,
        precision="fp32" if request.precision == "fp32" else "fp16",
        about=about,
        labels=unique_labels(checkpoint.classes.names, checkpoint.classes.ids) if wanted.io == "image" else None,
        float32_selectors=wanted.float32_selectors,
        palettes=request.precision in PALETTE_BITS,
    )


def _manifest(
    request: ConvertRequest,
    spec: Backbone,
    graph: StaticToFe,
    budgets: Budgets,
    lowered: Lowered,
    report: dict[str, Any] | None,
    preprocessing: Preprocessing,
) -> Manifest:
    checkpoint, coreml_request = request.checkpoint, request.coreml
    default, *further = (_describe(spec, name, budgets[name], lowered.methods[name]) for name in budgets)
    dense, found = budgets[DEFAULT_METHOD] is None, fingerprint(lowered.content)
    return Manifest(
        artifact=request.file_name,
        sha256=found.sha256,
        size_bytes=found.size_bytes,
        target=request.target,
        backend="coreml" if coreml_request else "xnnpack",
        precision=request.precision,
        int8_mode=request.int8_mode if request.precision == "int8" else None,
        checkpoint=checkpoint.name,
        checkpoint_sha256=checkpoint.sha256(),
        backbone=spec.name,
        profile=request.profile,
        token_counts=default.token_counts,
        gmacs=default.gmacs,
        delegates=default.delegates,
        fallback_ops=default.fallback_ops,
        planned_memory_bytes=default.planned_memory_bytes,
        further_methods=further,
        batch=request.batch,
        selection=None if dense else request.selection,
        layout=coreml_request.layout if coreml_request else "tokens_first",
        io=coreml_request.io if coreml_request else "tensor",
        deployment_target=coreml_request.deployment_target if coreml_request else None,
        stage_blocks=[spec.depth] if dense else list(spec.stage_lengths()),
        patch_tokens=spec.patch_tokens,
        fp32_layers=sorted(layers_of(graph)) if request.quantizes else [],
        quantization=report,
        preprocessing=preprocessing,
        class_names=list(checkpoint.classes.names),
        class_ids=list(checkpoint.classes.ids),
        parity=None,
        versions=_versions(request),
        reproducible=request.reproducible,
    )


def _versions(request: ConvertRequest) -> dict[str, str]:
    used = {"torch", "timm", *_LIBRARIES[request.target], *(_LIBRARIES["coreml"] if request.coreml else ())}
    return {**{name: metadata.version(name) for name in sorted(used)}, "tofe-edge": __version__}


def _report(mixed: MixedPlan, layers: Mapping[str, LayerNoise]) -> dict[str, Any]:
    return {
        "cost": mixed.cost.to_json(),
        "all_int8": mixed.all_int8.to_json(),
        "fp32_because": mixed.reasons,
        "layers": {
            name: {key: round(min(value, _SILENT_DB), 2) for key, value in asdict(noise).items()}
            for name, noise in layers.items()
        },
    }


def _budgets(spec: Backbone, counts: TokenCounts | None, further: Sequence[float]) -> dict[str, TokenCounts | None]:
    """The default first, then from the largest to the smallest."""
    found: dict[str, TokenCounts | None] = {DEFAULT_METHOD: counts}
    if counts is None:
        return found
    for target in sorted(further, reverse=True):
        scaled = fit_counts(counts.kept, spec, target).counts
        reached = gmacs(tofe_macs(spec, scaled.kept))
        if abs(reached / target - 1) > _BUDGET_TOLERANCE:
            low, high = (
                gmacs(tofe_macs(spec, fit_counts(counts.kept, spec, extreme).counts.kept)) for extreme in (1e-9, 1e9)
            )
            raise InputError(
                f"--elastic {target:g}: the nearest that {spec.name} reaches is {reached:.3g} GMACs; choose a budget between "
                f"{low:.3g} and {high:.3g}"
            )
        if scaled != counts:
            found["_".join((DEFAULT_METHOD, *map(str, scaled.kept)))] = scaled
    return found


def _describe(spec: Backbone, name: str, counts: TokenCounts | None, lowered: LoweredMethod) -> Method:
    macs = dense_macs(spec) if counts is None else tofe_macs(spec, counts.kept)
    return Method(
        name=name,
        token_counts=None if counts is None else list(counts.kept),
        gmacs=round(gmacs(macs), 6),
        delegates=lowered.delegates,
        fallback_ops=lowered.fallback_ops,
        planned_memory_bytes=lowered.planned_memory_bytes,
    )

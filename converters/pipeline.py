"""One call from a checkpoint to an exported model and its manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from typing import Any

from tofe_edge import __version__
from tofe_edge.budget.cost import fit_counts
from tofe_edge.converters.quantize import gather_statistics, layers_of, plan_int8, quantize
from tofe_edge.converters.request import Build, ConvertRequest
from tofe_edge.converters.selection import select_by_rank, select_by_topk
from tofe_edge.converters.sensitivity import LayerNoise, MixedPlan, choose_layers, layer_noise_of, measure_cost
from tofe_edge.converters.static_graph import StaticToFe, build_static_graph
from tofe_edge.errors import InputError
from tofe_edge.io.artifact import DEFAULT_METHOD, Manifest, Method
from tofe_edge.io.files import Content, fingerprint
from tofe_edge.io.labels import Classes
from tofe_edge.io.targets import Lowered, LoweredMethod
from tofe_edge.model.backbones import Backbone, TokenCounts
from tofe_edge.model.backbones.spec import Output
from tofe_edge.model.checkpoint import ReducedBudget, load_model
from tofe_edge.model.macs import dense_macs, gmacs, tofe_macs
from tofe_edge.model.resolution import at_image_size

_BUDGET_TOLERANCE = 0.05
"""Share by which a further budget may be missed: counts are whole tokens, and kept in the checkpoint's proportions."""

_COST_IMAGES = 16
"""On which the cost of int8 is reported if no accuracy drop is held on all of them."""

_LAYER_IMAGES = 4
"""Enough for the noise of each layer, a mean over thousands of numbers per image."""

_SILENT_DB = 200.0
"""Stands for a layer without any noise: JSON has no infinity."""

_SELECTIONS = {"topk": select_by_topk, "rank": select_by_rank}


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


@dataclass(frozen=True)
class Exported:
    """What a target made of a net.

    Attributes:
        graph: as it was lowered, quantized if asked for.
        report: what quantization cost; ``None`` if there were no images to tell by.
    """

    graph: StaticToFe
    lowered: Lowered
    report: dict[str, Any] | None


def convert(request: ConvertRequest) -> Conversion:
    """Build the static graph of a checkpoint, quantize it and lower it.

    Raises:
        InputError: the target or precision is not available, a budget does not fit, or the net cannot be rewritten.
    """
    target, checkpoint = request.check().target, request.checkpoint
    # 1. Load the net, at its input size.
    model, counts, preprocessing = load_model(checkpoint), request.counts, checkpoint.preprocessing
    if request.image_size is not None and request.image_size != preprocessing.image_size:
        resized = at_image_size(model, counts, preprocessing, request.image_size)
        model, counts, preprocessing = resized.model, resized.counts, resized.preprocessing
    budgets = _budgets(model.backbone.spec, counts, request.further_gmacs, checkpoint.budgets)
    build = Build(request, model, preprocessing, budgets)
    if request.calibration is not None:
        build = replace(build, images=target.prepare_images(request.calibration.images, build))
    # 2. Build the static graph, quantize and lower it.
    exported = export(build)
    # 3. Describe the result.
    return Conversion(exported.lowered.content, _manifest(build, exported))


def export(build: Build) -> Exported:
    """Make a model of a net in memory, as its target does.

    Raises:
        InputError: the net cannot be rewritten, or the target cannot take it.
    """
    request, target = build.request, build.request.target
    graph = build_static_graph(
        build.model,
        build.budgets[DEFAULT_METHOD],
        _SELECTIONS[request.selection],
        output=request.output,
        normalize=request.normalize,
    )
    graph, report = _quantized(target.rewrite(graph, build), build)
    further = {
        name: graph.with_counts(kept.kept) for name, kept in build.budgets.items() if kept and name != DEFAULT_METHOD
    }
    return Exported(graph, target.lower({DEFAULT_METHOD: graph, **further}, build), report)


def _quantized(graph: StaticToFe, build: Build) -> tuple[StaticToFe, dict[str, Any] | None]:
    """The graph to lower, and what quantization cost if there are images to tell by."""
    request, storage = build.request, build.request.storage
    if not storage.quantizes:
        return graph, None
    mode = request.int8_mode if storage.palette_bits is None else "weights"
    plan = replace(
        plan_int8(graph, mode, storage.quantizes_outputs),
        symmetric=storage.symmetric,
        by_token=storage.by_token,
        palette_bits=storage.palette_bits,
    )
    if request.calibration is None:
        return quantize(graph, plan), None
    # Labels say what a class costs: vectors have none.
    images, labels = build.images, request.calibration.labels if request.output == "logits" else None
    statistics = gather_statistics(graph, images)
    mixed = None
    if request.max_accuracy_drop is not None:
        mixed = choose_layers(graph, plan, statistics, images, labels, request.max_accuracy_drop)
        plan = mixed.plan
    quantized = quantize(graph, plan, statistics)
    if mixed is None:
        cost_images = images[:_COST_IMAGES]
        cost = measure_cost(graph, quantized, cost_images, labels and labels[: len(cost_images)])
        mixed = MixedPlan(plan, cost, cost, {})
    layers = layer_noise_of(graph, quantized, plan, images[:_LAYER_IMAGES])
    return quantized, _report(mixed, layers)


def _manifest(build: Build, exported: Exported) -> Manifest:
    request, backbone, budgets = build.request, build.backbone, build.budgets
    target, checkpoint = request.target, request.checkpoint
    default, *further = (
        _describe(backbone, name, budgets[name], exported.lowered.methods[name], request.output) for name in budgets
    )
    dense, content = budgets[DEFAULT_METHOD] is None, fingerprint(exported.lowered.content)
    own = target.manifest_fields(request.options)
    classes = checkpoint.classes if request.output == "logits" else Classes((), ())
    shapes = {"logits": None, "embedding": [backbone.dim], "features": [backbone.patch_tokens, backbone.dim]}
    return Manifest(
        artifact=request.file_name,
        sha256=content.sha256,
        size_bytes=content.size_bytes,
        target=target.name,
        backend=target.backend,
        precision=request.precision,
        int8_mode=request.int8_mode if request.storage.int8_modes else None,
        checkpoint=checkpoint.name,
        checkpoint_sha256=checkpoint.sha256(),
        backbone=backbone.name,
        profile=request.profile,
        token_counts=default.token_counts,
        gmacs=default.gmacs,
        delegates=default.delegates,
        fallback_ops=default.fallback_ops,
        planned_memory_bytes=default.planned_memory_bytes,
        further_methods=further,
        batch=request.batch,
        selection=None if dense else request.selection,
        layout="tokens_first",
        io=own.get("io", "tensor"),
        deployment_target=own.get("deployment_target"),
        stage_blocks=[backbone.depth] if dense else list(backbone.stage_lengths()),
        patch_tokens=backbone.patch_tokens,
        fp32_layers=sorted(layers_of(exported.graph)) if request.quantizes else [],
        quantization=exported.report,
        preprocessing=build.preprocessing,
        class_names=list(classes.names),
        class_ids=list(classes.ids),
        parity=None,
        versions={
            **{name: metadata.version(name) for name in sorted({"torch", "timm", *target.libraries})},
            "tofe-edge": __version__,
        },
        reproducible=request.reproducible,
        output=request.output,
        normalized=request.normalize,
        output_shape=shapes[request.output],
    )


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


def _budgets(
    spec: Backbone, counts: TokenCounts | None, further: Sequence[float], reduced: Sequence[ReducedBudget]
) -> dict[str, TokenCounts | None]:
    """Token counts by method, the default first, then from the largest to the smallest.

    Those of a budget that the net was reduced for are taken from there; for any other they are in the proportions of its own.
    """
    budgets: dict[str, TokenCounts | None] = {DEFAULT_METHOD: counts}
    if counts is None:
        return budgets
    for target in sorted(further, reverse=True):
        scaled = fit_counts(counts.kept, spec, target).counts
        misses = {budget.counts: abs(gmacs(tofe_macs(spec, budget.counts)) / target - 1) for budget in reduced}
        nearest = min(misses, key=misses.__getitem__, default=None)
        if nearest is not None and misses[nearest] <= _BUDGET_TOLERANCE:
            scaled = TokenCounts(nearest)
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
            budgets["_".join((DEFAULT_METHOD, *map(str, scaled.kept)))] = scaled
    return budgets


def _describe(spec: Backbone, name: str, counts: TokenCounts | None, lowered: LoweredMethod, output: Output) -> Method:
    macs = dense_macs(spec, output) if counts is None else tofe_macs(spec, counts.kept, output=output)
    return Method(
        name=name,
        token_counts=None if counts is None else list(counts.kept),
        gmacs=round(gmacs(macs), 6),
        delegates=lowered.delegates,
        fallback_ops=lowered.fallback_ops,
        planned_memory_bytes=lowered.planned_memory_bytes,
    )

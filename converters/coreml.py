"""Lowering static graphs to a Core ML package: one function per method, weights shared."""

from __future__ import annotations

import hashlib
import json
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from tofe_edge.converters.static_graph import StaticToFe
from tofe_edge.errors import InputError
from tofe_edge.io.artifact import DEFAULT_METHOD
from tofe_edge.io.quiet import quiet
from tofe_edge.io.targets import Lowered, LoweredMethod
from tofe_edge.runtimes.coreml_checks import IMAGE, LABEL, LOGITS, PROBABILITIES, function_name, token_order

NAMESPACE = uuid.UUID("5c0d3a54-8f0e-5f5e-9d8a-2f3f6f0b7b11")
"""Of this project: identifiers follow from the content and are not drawn."""

_MODEL = "com.apple.CoreML/model.mlmodel"
_WEIGHTS = "com.apple.CoreML/weights"

_UNSTABLE = ("com.github.apple.coremltools.conversion_date",)
"""What coremltools notes and differs from day to day."""

PREVIEW = {"com.apple.coreml.model.preview.type": "imageClassifier"}
"""Lets Xcode try a classifier on a photograph."""


@dataclass(frozen=True)
class About:
    """What a package says of itself."""

    title: str
    author: str
    license: str
    version: str
    stages: int
    patch_tokens: int
    """Patches of the image."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """User-defined metadata."""
    output: str = LOGITS
    """What it gives, which is the name of its output too."""


def describe(spec: Any, about: About, image_size: int) -> None:
    """Fill in author, licence, version and a sentence for every input and output of a specification."""
    metadata = spec.description.metadata
    metadata.shortDescription, metadata.author = about.title, about.author
    metadata.license, metadata.versionString = about.license, about.version
    for key in _UNSTABLE:
        metadata.userDefined.pop(key, None)
    texts = _texts(about, image_size)
    for features in (spec.description, *spec.description.functions):
        if features.predictedFeatureName:
            metadata.userDefined.update(PREVIEW)
        for feature in (*features.input, *features.output):
            feature.shortDescription = texts[feature.name]
    # A feature of a package with several functions is described there.
    metadata.userDefined.update(about.metadata)


def _texts(about: About, image_size: int) -> dict[str, str]:
    return {
        IMAGE: f"The image{' to classify' if about.output == LOGITS else ''}, RGB, {image_size} x {image_size} pixels",
        LABEL: "The likeliest class",
        PROBABILITIES: "Probability of each class",
        LOGITS: "Scores of the classes before softmax",
        "embedding": "A vector that stands for the image: alike images have vectors of about the same direction",
        "features": f"A vector for each of the {about.patch_tokens} patches of the image, counted row by row",
        **{
            token_order(stage): (
                f"Selection {stage}: the patches it chose from, best first, by their place in the order of selection {stage - 1}"
                if stage > 1
                else f"Selection 1: the {about.patch_tokens} patches of the image, counted row by row, best first"
            )
            for stage in range(1, about.stages + 1)
        },
    }


def unique_labels(names: Sequence[str], identifiers: Sequence[str]) -> tuple[str, ...]:
    """Class names; those that several classes share (ImageNet has two cranes) with the class identifier behind them.

    Raises:
        InputError: two classes share name and identifier, or the result of another, or a name is empty or not text.
    """
    counts = Counter(names)
    labels = tuple(name if counts[name] == 1 else f"{name} ({key})" for name, key in zip(names, identifiers))
    for label, number in Counter(labels).items():
        check_text(label, "a class name")
        if number > 1 or not label.strip():
            raise InputError(
                f"class {label!r} of the checkpoint is empty or occurs twice; Core ML needs one name per class"
            )
    return labels


def check_text(text: str, what: str) -> None:
    """Raises :class:`InputError` for text that UTF-8 cannot store."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{what}, {text!r}, cannot be stored as UTF-8; use other characters") from error


def package_files(spec: Any, weights: bytes) -> dict[str, bytes]:
    """The files of a ``.mlpackage`` by their path in it."""
    model: bytes = spec.SerializeToString(deterministic=True)
    entries = {
        _identifier(_MODEL, model): {
            "author": "com.apple.CoreML",
            "description": "CoreML Model Specification",
            "name": "model.mlmodel",
            "path": _MODEL,
        },
        _identifier(_WEIGHTS, weights): {
            "author": "com.apple.CoreML",
            "description": "CoreML Model Weights",
            "name": "weights",
            "path": _WEIGHTS,
        },
    }
    manifest = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": entries,
        "rootModelIdentifier": _identifier(_MODEL, model),
    }
    return {
        "Manifest.json": (json.dumps(manifest, indent=4, sort_keys=True) + "\n").encode(),
        f"Data/{_MODEL}": model,
        f"Data/{_WEIGHTS}/weight.bin": weights,
    }


def _identifier(path: str, content: bytes) -> str:
    return str(uuid.uuid5(NAMESPACE, f"{path} {hashlib.sha256(content).hexdigest()}")).upper()


_PROBABILITIES = "probabilities"
"""What the classifier's dictionary is made of."""

_SELECTING = ("view", "topk", "gt", "eq")
"""Operators behind a selector's scores, up to the comparison that decides."""


@dataclass(frozen=True)
class CoreMlOptions:
    """How a package is made."""

    deployment_target: str
    precision: Literal["fp32", "fp16"]
    """Of all operators, whatever the weights are stored in."""
    about: About
    labels: tuple[str, ...] | None
    """The classes of a package that gives the likeliest one with all probabilities; ``None``: it gives tensors alone."""
    takes_image: bool = False
    """Whether it takes an image, else a tensor of normalised pixels."""
    float32_selectors: bool = False
    palettes: bool = False


class _Interface(nn.Module):
    """A static graph with the outputs that a package has."""

    def __init__(self, net: nn.Module, classifies: bool) -> None:
        super().__init__()
        self.net, self.classifies = net, classifies

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        given, *orders = self.net(image)
        if isinstance(self.net, StaticToFe) and self.net.ranks_all and orders:
            # The last selection tells of the tokens that are kept.
            orders[-1] = orders[-1][:, : self.net.kept[-1]]
        return (torch.softmax(given, -1), given, *orders) if self.classifies else (given, *orders)


def lower(methods: Mapping[str, nn.Module], input_shape: tuple[int, ...], options: CoreMlOptions) -> Lowered:
    """Convert graphs to one package, in which equal weights are stored once.

    Args:
        methods: graphs of :func:`tofe_edge.converters.coreml_graph.native_graph` by the name of the method; several need iOS 18.
        input_shape: ``(1, 3, H, W)``, of all of them.
    """
    with quiet(), tempfile.TemporaryDirectory(prefix="tofe-edge-") as scratch:
        models = {function_name(name): _convert(graph, input_shape, options) for name, graph in methods.items()}
        spec, weights = _merged(models, Path(scratch))
        describe(spec, options.about, input_shape[-1])
        files = package_files(spec, weights)
    return Lowered(files, {name: LoweredMethod(1, {}, None) for name in methods})


def _convert(graph: nn.Module, input_shape: tuple[int, ...], options: CoreMlOptions) -> Any:
    import coremltools as ct

    # 1. Trace the graph.
    example = (torch.zeros(*input_shape),)
    with torch.no_grad():
        program = torch.export.export(_Interface(graph, options.labels is not None), example).run_decompositions({})
    # 2. Name what goes in and what comes out.
    selections = len(program.graph.output_node().args[0]) - (2 if options.labels else 1)
    given = [*([_PROBABILITIES] if options.labels else []), options.about.output]
    names = [*given, *map(token_order, range(1, selections + 1))]
    if options.takes_image:
        image = ct.ImageType(name=IMAGE, shape=input_shape, color_layout=ct.colorlayout.RGB)
    else:
        image = ct.TensorType(name=IMAGE, shape=input_shape, dtype=np.float32)
    outputs = [ct.TensorType(name=name) for name in names]
    # 3. Convert to operators of Core ML, then to a specification.
    target = getattr(ct.target, options.deployment_target)
    built = ct.convert(
        program,
        convert_to="milinternal",
        inputs=[image],
        outputs=outputs,
        minimum_deployment_target=target,
        compute_precision=_precision(program, options),
    )
    classifier = None
    if options.labels is not None:
        classifier = ct.ClassifierConfig(
            list(options.labels), predicted_feature_name=LABEL, predicted_probabilities_output=_PROBABILITIES
        )
        # coremltools 9.0 looks up the type of every output of a classifier, of which there is one more than of the graph.
        (function,) = built.functions.values()
        function.output_types = None
    model = ct.convert(
        built,
        convert_to="mlprogram",
        classifier_config=classifier,
        skip_model_load=True,
        # Its passes have run; the back end's own run in any case.
        pass_pipeline=ct.PassPipeline.EMPTY,
        minimum_deployment_target=target,
    )
    return _with_palettes(model) if options.palettes else model


def _with_palettes(model: Any) -> Any:
    """Store weights of few different values by their numbers; others stay as they are."""
    from coremltools.optimize import coreml as optimize

    palettes = optimize.OpPalettizerConfig(mode="unique", weight_threshold=0)
    config = optimize.OptimizationConfig(op_type_configs={"linear": palettes, "conv": palettes})
    return optimize.palettize_weights(model, config)


def _precision(program: ExportedProgram, options: CoreMlOptions) -> Any:
    import coremltools as ct

    if options.precision == "fp32":
        return ct.precision.FLOAT32
    if not options.float32_selectors:
        return ct.precision.FLOAT16
    return ct.transform.FP16ComputePrecision(op_selector=_outside(_selector_operators(program)))


def _outside(names: frozenset[str]) -> Callable[[Any], bool]:
    return lambda operation: operation.name not in names


def _selector_operators(program: ExportedProgram) -> frozenset[str]:
    """Names of the operators that compute scores and compare them."""
    selecting: set[str] = set()
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        modules = (path for path, _ in (node.meta.get("nn_module_stack") or {}).values())
        scores = any(path.startswith("net.selectors.") for path in modules)
        compares = any(name.name in selecting for name in node.all_input_nodes) and node.name.startswith(_SELECTING)
        if scores or compares:
            selecting.add(node.name)
    return frozenset(selecting)


def _merged(models: Mapping[str, Any], scratch: Path) -> tuple[Any, bytes]:
    """The specification and weights of one package with these functions."""
    import coremltools as ct

    if len(models) == 1:
        (model,) = models.values()
        return model.get_spec(), _weights(Path(model.weights_dir))
    together = ct.utils.MultiFunctionDescriptor()
    for name, model in models.items():
        path = scratch / f"{name}.mlpackage"
        model.save(str(path))
        together.add_function(str(path), src_function_name="main", target_function_name=name)
    together.default_function_name = function_name(DEFAULT_METHOD)
    merged = scratch / "merged.mlpackage"
    ct.utils.save_multifunction(together, str(merged))
    data = merged / "Data" / "com.apple.CoreML"
    return ct.utils.load_spec(str(merged)), _weights(data / "weights")


def _weights(folder: Path) -> bytes:
    return (folder / "weight.bin").read_bytes()

"""Lowering static graphs to a Core ML package: one function per method, weights shared."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from tofe_edge.converters.coreml_package import About, describe, package_files
from tofe_edge.io.artifact import DEFAULT_METHOD
from tofe_edge.io.quiet import quiet
from tofe_edge.io.targets import Lowered, LoweredMethod
from tofe_edge.runtimes.coreml_checks import IMAGE, LABEL, LOGITS, function_name, token_order

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
    """The classes of a package that takes an image and gives the likeliest one with all probabilities; ``None``: tensors."""
    float32_selectors: bool = False
    palettes: bool = False


class _Interface(nn.Module):
    """A static graph with the outputs that a package has."""

    def __init__(self, net: nn.Module, classifies: bool) -> None:
        super().__init__()
        self.net, self.classifies = net, classifies

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        logits, *orders = self.net(image)
        return (torch.softmax(logits, -1), logits, *orders) if self.classifies else (logits, *orders)


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
    names = [*([_PROBABILITIES] if options.labels else []), LOGITS, *map(token_order, range(1, selections + 1))]
    if options.labels is not None:
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

"""The seam between the pipeline and its targets: a target of a test's own goes through it, and names decide nothing."""

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import manifest_for

from tofe_edge.converters.pipeline import convert
from tofe_edge.converters.quantize import Int8Weights, StaticRange
from tofe_edge.converters.request import Calibration, ConvertRequest
from tofe_edge.errors import InputError
from tofe_edge.io.targets import (
    FP32_GATES,
    INT8_GATES,
    Lowered,
    LoweredMethod,
    Precision,
    Target,
    find_target,
    runs_on,
    target_names,
    target_of,
    targets_for,
)
from tofe_edge.model.checkpoint import Checkpoint

PRECISIONS = {
    "fp32": Precision(FP32_GATES),
    "int8": Precision(INT8_GATES, int8_modes=("static",), quantizes_outputs=False),
    "pal4": Precision(INT8_GATES, palette_bits=4),
    "own": Precision(FP32_GATES),
}


def recording_target(calls: list[tuple[str, Any]]) -> Target:
    """A target that notes what the pipeline gives it, in the order in which it does."""

    def noted(name: str) -> Any:
        def function(value: Any, build: Any) -> Any:
            calls.append((name, value))
            return tuple(image + 1 for image in value) if name == "prepare_images" else value

        return function

    def lower(methods: Any, build: Any) -> Lowered:
        calls.append(("lower", methods))
        return Lowered(b"model", {name: LoweredMethod(7, {"topk": 3}, None) for name in methods})

    def nothing(*_: Any) -> None:
        return None

    return Target(
        name="paper",
        backend="pencil",
        title="Paper",
        suffix=".txt",
        is_folder=False,
        libraries=("numpy",),
        precisions=PRECISIONS,
        lower=lower,
        open=nothing,
        time=nothing,
        check=lambda request: calls.append(("check", request)),
        rewrite=noted("rewrite"),
        prepare_images=noted("prepare_images"),
        selections=("topk",),
        manifest_fields=lambda options: {"io": "image", "deployment_target": "any"},
    )


def request(checkpoint: Checkpoint, calls: list[tuple[str, Any]], precision: str) -> ConvertRequest:
    images = tuple(torch.randn(2, 1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    target = recording_target(calls)
    return ConvertRequest(
        checkpoint, target, precision, "board", "tiny.txt", "static", Calibration(images, None), further_gmacs=(0.0016,)
    )


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_target_of_ones_own_goes_through_the_pipeline(tiny_checkpoint: Checkpoint, precision: str) -> None:
    calls: list[tuple[str, Any]] = []
    asked = request(tiny_checkpoint, calls, precision)
    conversion = convert(asked)
    assert [name for name, _ in calls] == ["check", "prepare_images", "rewrite", "lower"]
    made = dict(calls)
    assert made["check"] is asked
    forward, further = made["lower"].values()
    # Quantized between rewrite and lower, if the precision is the pipeline's to make; ranges are of prepared images.
    layers = {type(module).__name__ for module in forward.modules()}
    stored = {"int8": "Int8Weights", "pal4": "PaletteWeights"}.get(precision)
    assert layers & {"Int8Weights", "PaletteWeights"} == ({stored} if stored else set())
    assert made["rewrite"] is not forward or stored is None
    if precision == "int8":
        ranges, weights = forward.get_submodule("blocks.1.fc1")[0], forward.get_submodule("blocks.1.fc1")
        assert isinstance(ranges, StaticRange) and isinstance(weights[-1], Int8Weights), "no quantizer behind it"
    assert forward.kept == (9, 5, 3) != further.kept and forward.blocks is further.blocks
    # The manifest says what the target says.
    manifest = conversion.manifest
    assert (conversion.program, manifest.target, manifest.backend) == (b"model", "paper", "pencil")
    assert (manifest.io, manifest.deployment_target, manifest.layout) == ("image", "any", "tokens_first")
    assert (manifest.delegates, manifest.fallback_ops, manifest.profile) == (7, {"topk": 3}, "board")
    assert manifest.int8_mode == ("static" if precision == "int8" else None)
    assert set(manifest.versions) == {"torch", "timm", "numpy", "tofe-edge"}
    assert (manifest.quantization is None) == (stored is None)
    assert [method.name for method in manifest.further_methods] == list(made["lower"])[1:]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "int4"}, "precision 'int4' for paper: use one of fp32, int8, pal4, own"),
        ({"int8_mode": "dynamic"}, "--int8-mode dynamic for paper: use one of static"),
        ({"selection": "rank"}, "--selection rank for paper: use one of topk"),
        ({"batch": 0}, "batch must be at least 1 and at most 4096, not 0"),
    ],
)
def test_what_a_target_lacks_is_refused(tiny_checkpoint: Checkpoint, changes: dict[str, Any], message: str) -> None:
    calls: list[tuple[str, Any]] = []
    with pytest.raises(InputError) as refused:
        convert(replace(request(tiny_checkpoint, calls, "int8"), **changes))
    assert str(refused.value) == message and calls == []


def test_every_listed_target_is_whole() -> None:
    targets = [find_target(name) for name in target_names()]
    assert [target.name for target in targets] == list(target_names())
    assert len({target.suffix for target in targets}) == len(targets)
    for target in targets:
        assert "fp32" in target.precisions and target.selections and target.title
        assert target.default_selection(None) in target.selections
        assert len({option.name for option in target.options}) == len(target.options)
        assert target.manifest_fields(target.options_from({})).keys() <= {"io", "deployment_target"}
    assert targets_for("linux") == tuple(target.name for target in targets if target.native_runner)
    with pytest.raises(InputError, match=r"^target 'tflite' is not one of executorch, coreml, onnx$"):
        find_target("tflite")


def test_a_manifest_of_a_backend_that_is_gone_is_refused(tiny_checkpoint: Checkpoint) -> None:
    manifest = manifest_for(tiny_checkpoint, "tiny.pte", b"")
    assert target_of(manifest) is find_target(manifest.target) and runs_on(manifest, "linux")
    former = replace(manifest, backend="coreml")
    assert not runs_on(former, "linux") and not runs_on(replace(manifest, target="tflite"), "linux")
    with pytest.raises(InputError, match=r"^tiny\.pte: is a model for executorch with coreml, which this version no"):
        target_of(former)


def test_listing_targets_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom tofe_edge.io.targets import find_target, target_names\n"
        "[find_target(name).options_from({}) for name in target_names()]\n"
        "sys.exit(str({'torch', 'numpy', 'executorch', 'coremltools', 'onnx', 'onnxruntime'} & sys.modules.keys() or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.stderr.strip() == ""

"""Timing and placement by Core ML against a stub of coremltools, whose interface is held to the real one's."""

import inspect
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import coreml_stub
import pytest
from conftest import manifest_for
from coreml_stub import COMPILED, Model, Plan, Program, Structure, Units, pretend
from PIL import Image

from tofe_edge.errors import DeviceError, InputError
from tofe_edge.io.artifact import Artifact
from tofe_edge.io.quiet import quiet
from tofe_edge.model.checkpoint import Checkpoint
from tofe_edge.runtimes import coreml
from tofe_edge.runtimes.coreml_device import UNKNOWN, Placement, time_on_device

with quiet():
    import coremltools as ct
    from coremltools.models import compute_device, compute_plan

_OF_OPERATIONS = [f"get_{what}_for_mlprogram_operation" for what in ("compute_device_usage", "estimated_cost")]
_METHODS = [
    (Model, ct.models.MLModel, ["__init__", "predict", "get_compiled_model_path"]),
    (Plan, compute_plan.MLComputePlan, ["load_from_path", *_OF_OPERATIONS]),
]
_HELD = {
    **{name: f"MLModelStructureProgram{name}" for name in ("Operation", "Block", "Function")},
    "Program": "MLModelStructureProgram",
    "Structure": "MLModelStructure",
    "Usage": "MLComputePlanDeviceUsage",
    "Cost": "MLComputePlanCost",
}
"""Name in the stub: name in coremltools."""


def test_the_stub_has_coremltools_interface() -> None:
    for stub, real, names in _METHODS:
        for name in names:
            signatures = (inspect.signature(getattr(kind, name)).parameters.values() for kind in (stub, real))
            one, other = ([(each.name, each.kind, each.default is each.empty) for each in all_] for all_ in signatures)
            assert one == other
    private = {"answer", "__proxy__"}
    for here, there in _HELD.items():
        mine, theirs = (
            {field.name for field in fields(kind)}
            for kind in (getattr(coreml_stub, here), getattr(compute_plan, there))
        )
        assert mine - private == theirs - private
    assert isinstance(inspect.getattr_static(compute_plan.MLComputePlan, "model_structure"), property)
    assert {unit.name for unit in Units} == {unit.name for unit in ct.ComputeUnit}
    assert {units.upper() for units in coreml.COMPUTE_UNITS} == {unit.name for unit in Units}
    for name in ("MLCPUComputeDevice", "MLGPUComputeDevice", "MLNeuralEngineComputeDevice"):
        assert issubclass(getattr(compute_device, name), compute_device.MLComputeDevice)


@pytest.fixture
def artifact(tiny_checkpoint: Checkpoint, tmp_path: Path) -> Artifact:
    """A package by its manifest, with two methods."""
    manifest = manifest_for(tiny_checkpoint, "tiny.mlpackage", b"")
    other = replace(manifest.methods["forward"], name="forward_2_1_1")
    manifest = replace(manifest, target="coreml", backend="coreml", io="image", further_methods=[other])
    return Artifact(tmp_path / "tiny.mlpackage", manifest)


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A Mac with the stub."""
    pretend(monkeypatch)
    return monkeypatch


@pytest.mark.usefixtures("mac")
def test_predictions_are_timed_on_one_image(artifact: Artifact) -> None:
    timed = time_on_device(artifact, "forward", "cpu_and_ne", runs=3)
    assert Model.made == {"model": str(artifact.path), "compute_units": Units.CPU_AND_NE, "function_name": "main"}
    assert len(timed.latency.samples_ms) == 3 < len(Model.given)
    assert all(given is Model.given[0] for given in Model.given)
    assert isinstance(Model.given[0], Image.Image) and Model.given[0].size == (64, 64)
    assert timed.load_ms >= 0 and timed.compute_units == "cpu_and_ne"
    # A tensor package gets a tensor, and one with one budget no function name.
    artifact = replace(artifact, manifest=replace(artifact.manifest, io="tensor", further_methods=[]))
    time_on_device(artifact, "forward", "all", runs=1)
    tensor: Any = Model.given[0]
    assert (tensor.shape, str(tensor.dtype)) == ((1, 3, 64, 64), "float32")
    assert Model.made["function_name"] is None


@pytest.mark.usefixtures("mac")
def test_placement_sums_by_operator_and_device(artifact: Artifact) -> None:
    placement = time_on_device(artifact, "forward", "all", runs=1).placement()
    assert Plan.asked == (COMPILED, Units.ALL)
    assert placement == (
        Placement("linear", "ne", 2, 0.75),
        Placement("linear", "gpu", 1, 0.125),
        Placement("topk", "cpu", 1, 0.0625),
        Placement("classify", UNKNOWN, 1, 0.0),
        Placement("gather", "cpu", 1, 0.0),
    )
    further = time_on_device(artifact, "forward_2_1_1", "all", runs=1)
    assert Model.made["function_name"] == "forward_2_1_1"
    assert further.placement() == (Placement("linear", "ne", 1, 1.0),)


def test_an_empty_or_foreign_plan_is_a_device_error(artifact: Artifact, mac: pytest.MonkeyPatch) -> None:
    timed = time_on_device(artifact, "forward_2_1_1", "all", runs=1)
    with mac.context() as patch:
        patch.setattr(Plan, "get_compute_device_usage_for_mlprogram_operation", lambda self, operation: None)
        message = "says nothing of function 'forward_2_1_1'; coremltools asks for the default"
        with pytest.raises(DeviceError, match=message):
            timed.placement()
    for structure in (Structure(None, None, None), Structure(None, Program({}), None)):
        mac.setattr(Plan, "structure", structure)
        with pytest.raises(DeviceError, match="has no function 'forward_2_1_1'"):
            timed.placement()


def test_what_core_ml_raises_is_a_device_error(artifact: Artifact, mac: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no such luck")

    for kind, name, message in (
        (Plan, "load_from_path", "needs macOS 14.4"),
        (Model, "predict", "tiny.mlpackage: Core ML failed to run it"),
        (Model, "__init__", "tiny.mlpackage: Core ML cannot load it"),
    ):
        mac.setattr(kind, name, broken)
        with pytest.raises(DeviceError, match=rf"{message} \(no such luck\)"):
            time_on_device(artifact, "forward", "all", runs=1).placement()


def test_elsewhere_it_says_what_it_needs(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coreml, "has_core_ml", lambda: False)
    with pytest.raises(DeviceError, match="Core ML runs on macOS alone"):
        time_on_device(artifact, "forward", "all", runs=1)


@pytest.mark.usefixtures("mac")
def test_other_models_and_unknown_methods_are_refused(artifact: Artifact) -> None:
    with pytest.raises(InputError, match="has no method 'nope'; it has forward, forward_2_1_1"):
        time_on_device(artifact, "nope", "all", runs=1)
    other = replace(artifact, manifest=replace(artifact.manifest, target="executorch"))
    with pytest.raises(InputError, match="a model for executorch, not a Core ML package"):
        time_on_device(other, "forward", "all", runs=1)

"""Faults put into artifacts on purpose: ``tofe-edge parity`` has to notice each of them."""

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Program, TinyModel, edit_json, refusal

from tofe_edge.converters.executorch import lower
from tofe_edge.converters.pipeline import convert
from tofe_edge.converters.quantize import Int8Weights, plan_int8, quantize
from tofe_edge.converters.request import ConvertRequest
from tofe_edge.converters.sensitivity import measure_cost
from tofe_edge.converters.static_graph import StaticToFe, build_static_graph
from tofe_edge.io.artifact import Artifact, open_artifact, write_manifest
from tofe_edge.io.files import fingerprint
from tofe_edge.io.inputs import load_photographs
from tofe_edge.io.targets import FP32_GATES, INT8_GATES, find_target
from tofe_edge.model.checkpoint import Checkpoint, load_model
from tofe_edge.model.zoo import find_checkpoint

SHAPE = (1, 3, 64, 64)
Parity = Callable[..., Any]


@pytest.fixture(scope="module")
def fp32(tiny_model: TinyModel) -> Artifact:
    return open_artifact(tiny_model())


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Checkpoint) -> Artifact:
    conversion = convert(ConvertRequest(tiny_checkpoint, find_target("executorch"), "int8", None, "tiny.pte"))
    path = tmp_path_factory.mktemp("faults") / "tiny.pte"
    path.write_bytes(conversion.program)
    return write_manifest(path, conversion.manifest)


def copied(artifact: Artifact, folder: Path) -> Path:
    for path in (artifact.path, artifact.manifest_path):
        shutil.copy(path, folder)
    return folder / artifact.path.name


def edited(artifact: Artifact, folder: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    """A copy with another manifest."""
    path = copied(artifact, folder)
    edit_json(path.with_suffix(".json"), edit)
    return path


def with_program(artifact: Artifact, folder: Path, graph: StaticToFe) -> Path:
    """Another program under the manifest of the right one, checksums made to fit."""
    program = lower({"forward": graph}, SHAPE).program
    found = fingerprint(program)
    path = folder / artifact.path.name
    path.write_bytes(program)
    write_manifest(path, replace(artifact.manifest, sha256=found.sha256, size_bytes=found.size_bytes))
    return path


@pytest.fixture
def parity(program: Program, weights: Path, image_folder: Path) -> Parity:
    """``parity(model, code=0)``: the document."""
    call = ("--checkpoint", weights, "--data", image_folder, "--device", "cpu")

    def run(model: Path, code: int = 0) -> Any:
        ended, out, _ = program("parity", model, *call, "--json")
        assert ended == code
        return json.loads(out)

    return run


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_gates_pass_if_nothing_is_wrong(precision: str, request: pytest.FixtureRequest, parity: Parity) -> None:
    assert parity(request.getfixturevalue(precision).path)["passed"]


def swap_classes(document: dict[str, Any]) -> None:
    for key in ("class_ids", "class_names"):
        document[key] = document[key][::-1]


MANIFEST_FAULTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "wrong mean": lambda document: document["preprocessing"].update(mean=[0.5, 0.5, 0.5]),
    "wrong spread": lambda document: document["preprocessing"].update(std=[0.229, 0.224, 0.235]),
    "means of other channels": lambda document: document["preprocessing"].update(mean=[0.406, 0.456, 0.485]),
    "wrong crop": lambda document: document["preprocessing"].update(crop_pct=1.0),
    "wrong filter": lambda document: document["preprocessing"].update(interpolation="bilinear"),
    "shuffled classes": swap_classes,
}


@pytest.mark.parametrize("fault", MANIFEST_FAULTS)
def test_a_manifest_that_prepares_otherwise_fails(fault: str, fp32: Artifact, tmp_path: Path, parity: Parity) -> None:
    found = parity(edited(fp32, tmp_path, MANIFEST_FAULTS[fault]), code=1)["failures"]
    assert any(failure.startswith("class ") for failure in found) == (fault == "shuffled classes")


def swapped_channels(graph: StaticToFe) -> StaticToFe:
    embed = graph.stem.embed
    assert isinstance(embed, torch.nn.Linear)
    weight = embed.weight.detach().view(embed.out_features, 3, -1)
    embed.weight = torch.nn.Parameter(weight.flip(1).reshape(embed.out_features, -1), requires_grad=False)
    return graph


GRAPH_FAULTS: dict[str, Callable[[StaticToFe], StaticToFe]] = {
    "swapped channels": swapped_channels,
    "one token more in stage 1": lambda graph: graph.with_counts((10, 5, 3)),
    "one token less in stage 2": lambda graph: graph.with_counts((9, 4, 3)),
}


@pytest.mark.parametrize("fault", GRAPH_FAULTS)
def test_a_program_of_other_tokens_or_colours_fails(
    fault: str, fp32: Artifact, tiny_checkpoint: Checkpoint, tmp_path: Path, parity: Parity
) -> None:
    graph = build_static_graph(load_model(tiny_checkpoint), tiny_checkpoint.token_counts)
    model = with_program(fp32, tmp_path, GRAPH_FAULTS[fault](copy.deepcopy(graph)))
    assert open_artifact(model).manifest.token_counts == [9, 5, 3]
    parity(model, code=1)


def test_a_corrupt_scale_fails(int8: Artifact, tiny_checkpoint: Checkpoint, tmp_path: Path, parity: Parity) -> None:
    graph = build_static_graph(load_model(tiny_checkpoint), tiny_checkpoint.token_counts)
    quantized = quantize(graph, plan_int8(graph, "dynamic"))
    weights = quantized.get_submodule("blocks.1.fc2.1")
    assert isinstance(weights, Int8Weights)
    # The lowest bit of the exponent's upper half: what one flipped bit can do to a float.
    weights.scale[5] *= 2.0**8
    parity(with_program(int8, tmp_path, quantized), code=1)


def test_stricter_gates_can_be_asked_for(
    int8: Artifact, weights: Path, image_folder: Path, program: Program, tmp_path: Path
) -> None:
    junit, page = tmp_path / "parity.xml", tmp_path / "parity.html"
    call = ("parity", int8.path, "--checkpoint", weights, "--data", image_folder, "--device", "cpu")
    code, out, _ = program(*call, "--min-agreement", 100, "--max-drop", 0, "--junit", junit, "--html", page, "--json")
    document = json.loads(out)
    gates = {gate["name"]: gate["passed"] for gate in document["gates"]}
    assert {"top-1 agreement on all images", "top-1 drop", "logits SNR"} <= gates.keys()
    assert gates["top-1 agreement on all images"] == (document["top1_agreement"] == 1.0)
    assert code == (0 if all(gates.values()) else 1)
    assert document["analysis"]["accuracy"]["mcnemar"]["images"] == 6
    assert len(document["analysis"]["worst"]) == 6
    assert document["reference_device"] == "cpu"
    assert junit.read_text().count("<testcase") == len(gates)
    html = page.read_text()
    assert html.count("data:image/jpeg;base64,") == 6
    assert "http" not in html.replace("http-equiv", "")


def test_a_waiver_writes_what_fails_and_says_so(
    weights: Path, tmp_path: Path, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = replace(FP32_GATES, min_snr_db=400.0)
    monkeypatch.setattr("tofe_edge.workflows.parity.gates_of", lambda _manifest: strict)
    call = ("convert", "--checkpoint", weights, "--precision", "fp32", "--out", tmp_path)
    assert "not written, it differs from the reference: logits SNR" in refusal(program, *call, code=1)
    assert not list(tmp_path.iterdir())
    code, out, _ = program(*call, "--waive", "demo only, ticket 12")
    assert code == 0 and "waived" in out
    manifest = open_artifact(tmp_path / "tiny-fp32.pte").manifest
    assert manifest.parity is not None and not manifest.parity["passed"]
    waiver = manifest.parity["waiver"]
    assert waiver["text"] == "demo only, ticket 12"
    assert len(waiver["failures"]) == 1 and waiver["failures"][0].startswith("forward: logits SNR")


def test_four_bits_are_too_few_for_the_shipped_net_and_six_reach_the_gate_of_noise() -> None:
    checkpoint = find_checkpoint("tofe_deit_tiny_063")
    graph = build_static_graph(load_model(checkpoint), checkpoint.token_counts)
    photographs = [torch.from_numpy(pixels) for pixels in load_photographs(checkpoint.preprocessing).pixels[:8]]
    plan = plan_int8(graph, "weights", quantizes_outputs=False)
    four, six = (
        measure_cost(graph, quantize(graph, replace(plan, palette_bits=bits)), photographs, None) for bits in (4, 6)
    )
    assert four.snr_db < INT8_GATES.min_snr_db < six.snr_db
    assert min(four.kept_overlap) < INT8_GATES.min_kept_overlap

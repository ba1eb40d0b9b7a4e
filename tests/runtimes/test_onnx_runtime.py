"""ONNX Runtime: the same commands as for the other targets, and who ran what."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from conftest import Program, TinyModel, document_of, refusal

from tofe_edge.io.artifact import open_artifact, write_manifest
from tofe_edge.io.files import fingerprint_of
from tofe_edge.runtimes import trial
from tofe_edge.runtimes.breakdown import times_by_stage
from tofe_edge.runtimes.onnx_trace import NodeTime, node_times


@pytest.fixture
def model(tiny_model: TinyModel) -> Path:
    return tiny_model("--target", "onnx")


def test_every_command_takes_it(model: Path, weights: Path, program: Program, tmp_path: Path) -> None:
    assert document_of(program, "run", model, "--self-test")["passed"]
    assert document_of(program, "parity", model, "--checkpoint", weights)["snr_db"] > 100
    code, out, _ = program("profile", model, "--runs", 10, "--against", "dense", "--checkpoint", weights, "--json")
    report = json.loads(out)
    assert code == 0 and report["runs"] == 10 and report["against"]["model"] == "dense"
    assert list(report["nodes"]) == ["cpu"] and report["nodes"]["cpu"] == sum(
        one["count"] for one in report["operators"]
    )
    assert len(report["stages"]) == 4 and "selector 1" in report["stages"][0]["name"]
    assert f"operators       {report['nodes']['cpu']} by cpu" in program("profile", model, "--runs", 1)[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("run MODEL --self-test --provider cpux", "--provider cpux: is not in this build of ONNX Runtime, which has "),
        ("run OTHER --self-test --provider cpu", "--provider is for .onnx models"),
        ("profile OTHER --provider cpu", "--provider is for .onnx models"),
        ("run OTHER IMAGE --deadline-ms 9 --provider cpu", "--provider for .onnx models; leave one out"),
        ("profile OTHER --engine tensorrt --on ssh://board", "--engine is for .onnx models"),
        ("profile MODEL --on ssh://board", "--on: ONNX Runtime is timed here; on a board use --engine tensorrt"),
        ("profile MODEL --runner .", "--runner is for .pte models"),
        (
            "profile MODEL --engine tensorrt",
            "--engine tensorrt: builds and runs on a board; name it with --on ssh://HOST",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(
    words: str, message: str, model: Path, tiny_model: TinyModel, image_folder: Path, program: Program
) -> None:
    paths = {"MODEL": model, "OTHER": tiny_model(), "IMAGE": next(image_folder.rglob("*.png"))}
    assert message in refusal(program, *(paths.get(word, word) for word in words.split()))


def test_a_file_that_is_not_what_its_manifest_says_is_refused(model: Path, tmp_path: Path, program: Program) -> None:
    artifact, path = open_artifact(model), tmp_path / model.name
    proto = onnx.load(model)
    del proto.graph.output[3]
    for content, code, message in (
        (proto.SerializeToString(), 2, "gives selections of [16, 16] tokens, which are not those of its manifest"),
        (b"nothing of the kind", 3, "ONNX Runtime cannot load it"),
    ):
        path.write_bytes(content)
        found = fingerprint_of(path)
        trial.trust(found.sha256)
        write_manifest(path, replace(artifact.manifest, sha256=found.sha256, size_bytes=found.size_bytes))
        assert message in refusal(program, "profile", path, code=code)


def test_a_file_of_unknown_origin_is_tried_first(
    model: Path, program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(trial, "_START", "import os; os.abort()")
    assert "(SIGABRT)" in refusal(program, "profile", model, code=3)


def test_a_trace_tells_providers_and_stages() -> None:
    def event(name: str, provider: str, dur: int, cat: str = "Node") -> dict[str, Any]:
        args = {"op_name": name.split("/")[-1].split("_")[0], "provider": f"{provider}ExecutionProvider"}
        return {"cat": cat, "name": name, "dur": dur, "args": args}

    first, second = "stage1/blocks.0/MatMul_1_kernel_time", "stage2/blocks.1/Add_2_kernel_time"
    fused = "SkipLayerNorm_kernel_time"
    events = [event("model_run", "CPU", 9, "Session"), event("stage1/blocks.0/MatMul_1_fence_before", "CPU", 1)]
    events += [event(first, "CUDA", dur) for dur in (1000, 3000, 2000)] + [
        event(fused, "CPU", 500),
        event(second, "CUDA", 4000),
    ]
    nodes = node_times(events)
    assert nodes[0] == NodeTime("stage1/blocks.0/MatMul_1", "MatMul", "cuda", 2.0)
    assert [node.provider for node in nodes] == ["cuda", "cpu", "cuda"]
    assert [
        (one.name, one.ms, one.count) for one in times_by_stage([(node.name, node.ms) for node in nodes], ["a", "b"])
    ] == [("a", 2.5, 2), ("b", 4.0, 1)]

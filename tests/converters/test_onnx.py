"""ONNX files by the real exporter: what they compute in ONNX Runtime, what they say of themselves, what readers need of them."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from conftest import Program, TinyModel, refusal, tiny_tofe
from tiny_exports import COUNTS, images

from tofe_edge.converters.onnx_graph import IR_VERSION, OPSET, lower, onnx_graph
from tofe_edge.converters.quantize import gather_statistics, plan_int8, quantize
from tofe_edge.converters.static_graph import build_static_graph
from tofe_edge.evaluation.parity import snr_db
from tofe_edge.runtimes.onnx import INPUT

NOTES = {"tofe_edge.version": "0"}
KINDS = {
    "deit fp32": ("deit_tiny_patch16_224", "logits", 2),
    "lvvit fp16": ("lvvit_s", "logits", 1),
    "deit int8 dynamic": ("deit_tiny_patch16_224", "logits", 2),
    "deit int8 static": ("deit_tiny_patch16_224", "features", 1),
}


def made(kind: str) -> tuple[Any, bytes, torch.Tensor]:
    """The graph of a tiny net before it was lowered, the file, and an input."""
    backbone, output, batch = KINDS[kind]
    graph = onnx_graph(build_static_graph(tiny_tofe(backbone), COUNTS, output=output), batch)  # type: ignore[arg-type]
    image = torch.cat(images(batch, seed=5))
    if "int8" in kind:
        mode: Any = kind.split()[-1]
        plan = replace(plan_int8(graph, mode, quantizes_outputs=False), symmetric=True, by_token=False)
        graph = quantize(graph, plan, gather_statistics(graph, [image]))
    with torch.no_grad():
        wanted = graph(image)
    content = lower(graph, tuple(image.shape), output, "fp16" in kind, NOTES)
    return wanted, content, image


@pytest.mark.parametrize(
    ("kind", "least_snr_db"),
    [("deit fp32", 100), ("lvvit fp16", 40), ("deit int8 dynamic", 30), ("deit int8 static", 30)],
)
def test_a_file_computes_what_its_graph_computes(kind: str, least_snr_db: float) -> None:
    import onnxruntime

    wanted, content, image = made(kind)
    found = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, {INPUT: image.numpy()})
    assert snr_db(wanted[0].numpy(), found[0]) > least_snr_db
    assert [order.dtype for order in found[1:]] == [np.int32] * 3, "TensorRT 8 has no int64"
    assert found[1].reshape(-1).tolist() == wanted[1].reshape(-1).tolist()
    # What readers need: an old opset that is kept to, zero points of 0, nothing of this machine.
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    assert (model.ir_version, [(one.domain, one.version) for one in model.opset_import]) == (IR_VERSION, [("", OPSET)])
    operators = Counter(node.op_type for node in model.graph.node)
    assert operators["TopK"] == 4 if "static" in kind else 3, "of features one more puts patches in raster order"
    assert b"/tofe_edge/" not in content and all(node.name.startswith("stage") for node in model.graph.node)
    constants = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
    points = [
        constants[node.input[2]] for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")
    ]
    assert len(points) > 30 if "static" in kind else not points
    assert all(point.dtype == np.int8 and not point.any() for point in points)
    sizes: Counter[np.dtype[Any]] = Counter()
    for one in constants.values():
        sizes[one.dtype] += one.size
    assert sizes.most_common(1)[0][0] == {"fp32": np.float32, "fp16": np.float16}.get(kind.split()[1], np.int8)
    if kind == "deit fp32":
        assert made(kind)[1] == content, "the same bytes again"


def test_a_file_says_what_it_is(tiny_model: TinyModel) -> None:
    path = tiny_model("--target", "onnx")
    checkpoint = json.loads(path.with_suffix(".json").read_text())["checkpoint_sha256"]
    notes = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert notes["tofe_edge.checkpoint_sha256"] == checkpoint and notes["tofe_edge.kept_tokens"] == "9,5,3"
    assert json.loads(notes["tofe_edge.preprocessing"])["image_size"] == 64
    assert len(json.loads(notes["tofe_edge.classes"])) == 10


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--elastic", "0.0016"], "--elastic: an ONNX file holds one budget; convert once for each"),
        (["--reproducible"], "--reproducible: ONNX leaves rounding to its reader"),
        (["--selection", "rank"], "--selection rank for onnx: use one of topk"),
        (["--precision", "pal4"], "precision 'pal4' for onnx: use one of fp32, fp16, int8"),
    ],
)
def test_what_an_onnx_file_has_not_is_refused(words: list[str], message: str, weights: Path, program: Program) -> None:
    assert message in refusal(program, "convert", "--checkpoint", weights, "--target", "onnx", *words)


def test_a_missing_library_is_one_line(weights: Path, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    said = refusal(program, "convert", "--checkpoint", weights, "--target", "onnx")
    assert said == "ONNX needs onnx, onnxscript, onnxruntime, not installed here; pip install 'tofe-edge[onnx]'"

"""``tofe-edge profile`` of Core ML packages: counts anywhere, and what a Mac measures, against a stub of it."""

import json
from pathlib import Path
from typing import Any

import coreml_stub
import pytest
from conftest import Program, TinyModel, document_of, flat, refusal

from tofe_edge.runtimes import coreml

COUNTED_KEYS = {
    "model", "method", "gmacs", "graph_gmacs", "size_bytes", "weight_bytes", "operators", "stages", "forecast", "measured",
}  # fmt: skip
MEASURED_KEYS = {
    "compute_units", "latency_ms", "cpu_ms", "load_ms", "runs", "warm_up_runs", "by_compute_units", "placement",
}  # fmt: skip


@pytest.fixture(scope="module")
def package(tiny_model: TinyModel) -> Path:
    """Two budgets, selection by topk."""
    options = ("--selection", "topk", "--elastic", "0.0016", "--option", "deployment_target=iOS18")
    return tiny_model("--target", "coreml", "--precision", "fp16", *options)


@pytest.fixture(autouse=True)
def _no_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless a test pretends."""
    monkeypatch.setattr(coreml, "has_core_ml", lambda: False)


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    coreml_stub.pretend(monkeypatch)
    return monkeypatch


def document(program: Program, *arguments: object) -> Any:
    return document_of(program, "profile", *arguments)


def test_json_has_counts_and_says_that_nothing_was_measured(program: Program, package: Path) -> None:
    found = document(program, package)
    assert found.keys() == COUNTED_KEYS
    assert found["model"] == str(package) and found["method"] == "forward" and found["measured"] is False
    size = sum(path.stat().st_size for path in package.rglob("*") if path.is_file())
    assert 0 < found["weight_bytes"] < found["size_bytes"] == size
    for listed in (found["operators"], found["stages"]):
        assert all(entry.keys() == {"name", "count", "macs", "weight_bytes"} for entry in listed)
        assert sum(entry["macs"] for entry in listed) == pytest.approx(found["graph_gmacs"] * 1e9)
    assert found["stages"][0]["name"] == "stem, block 1, selector 1" and found["forecast"] is None
    counts = {entry["name"]: entry["count"] for entry in found["operators"]}
    assert counts["topk"] == counts["gather"] == 3
    (further,) = json.loads(package.with_suffix(".json").read_text())["further_methods"]
    smaller = document(program, package, "--method", further["name"])
    assert smaller["gmacs"] == further["gmacs"]
    assert found["graph_gmacs"] - smaller["graph_gmacs"] == pytest.approx(found["gmacs"] - smaller["gmacs"], rel=0.2)
    code, out, err = program("profile", package)
    assert (code, err) == (0, "") and "not measured: that needs a Mac" in flat(out) and len(out.splitlines()) < 45


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--threads 1", "--threads is for .pte and .onnx models, not for"),
        ("--method nope", "has no method 'nope'; it has forward, forward_"),
        ("--on adb", "--on is for .pte and .onnx models"),
        ("--sustained 1", "--sustained is for .pte and .onnx models"),
        ("--against dense", "--against is for .pte and .onnx models"),
        ("--html page.html", "--html is for .pte models"),
    ],
)
def test_what_a_package_does_not_have_is_refused(options: str, message: str, program: Program, package: Path) -> None:
    assert message in refusal(program, "profile", package, *options.split())


@pytest.mark.usefixtures("mac")
def test_a_mac_measures_the_choices_of_compute_units(program: Program, package: Path) -> None:
    found = document(program, package, "--runs", 2)
    assert found.keys() == COUNTED_KEYS | MEASURED_KEYS
    assert found["measured"] is True and found["compute_units"] == "all" and found["runs"] == 2
    assert found["latency_ms"].keys() == {"p50", "p90", "p99", "min"}
    assert [one["compute_units"] for one in found["by_compute_units"]] == list(coreml.COMPUTE_UNITS)
    assert found["by_compute_units"][0] == {key: found[key] for key in ("compute_units", "latency_ms", "load_ms")}
    assert found["placement"][0] == {"operator": "linear", "device": "ne", "count": 2, "share": 0.75}
    found = document(program, package, "--runs", 2, "--compute-units", "cpu_and_ne")
    assert [one["compute_units"] for one in found["by_compute_units"]] == [found["compute_units"]] == ["cpu_and_ne"]
    code, out, err = program("profile", package, "--runs", 2, "--compute-units", "cpu_only")
    assert (code, err) == (0, "")
    assert "needs a Mac" not in flat(out) and "Core ML's plan, cpu_only" in flat(out) and "75.0%" in flat(out)


def test_a_mac_without_a_plan_still_has_its_times(program: Program, package: Path, mac: pytest.MonkeyPatch) -> None:
    mac.setattr(coreml_stub.Plan, "structure", coreml_stub.Structure(None, None, None))
    code, out, err = program("profile", package, "--runs", 1, "--json")
    found = json.loads(out)
    assert code == 0 and found["placement"] == [] and found["latency_ms"]["p50"] >= 0
    assert err.startswith("tofe-edge: warning: no placement: ") and err.count("\n") == 1

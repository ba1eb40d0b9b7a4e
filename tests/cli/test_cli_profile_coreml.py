"""``tofe-edge profile`` of Core ML packages: counts anywhere, and what a Mac measures, against a stub of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import coreml_stub
import pytest
from conftest import manifest_for

from tofe_edge.cli import main
from tofe_edge.converters.pipeline import convert
from tofe_edge.converters.request import ConvertRequest
from tofe_edge.io.artifact import write_manifest
from tofe_edge.io.files import write_content
from tofe_edge.io.targets import find_target
from tofe_edge.model.checkpoint import Checkpoint
from tofe_edge.runtimes import coreml

COUNTED_KEYS = {
    "model", "method", "gmacs", "graph_gmacs", "size_bytes", "weight_bytes", "operators", "stages", "forecast", "measured",
}  # fmt: skip
MEASURED_KEYS = {
    "compute_units", "latency_ms", "cpu_ms", "load_ms", "runs", "warm_up_runs", "by_compute_units", "placement",
}  # fmt: skip

Profile = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Checkpoint) -> Path:
    """Two budgets, selection by topk."""
    path = tmp_path_factory.mktemp("package") / "tiny.mlpackage"
    target = find_target("coreml")
    options = target.options_from({"deployment_target": "iOS18"})
    request = ConvertRequest(tiny_checkpoint, target, "fp16", None, path.name, further_gmacs=(0.0016,), options=options)
    conversion = convert(request)
    write_content(path, conversion.content)
    write_manifest(path, conversion.manifest)
    return path


@pytest.fixture
def profile(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Profile:
    """Run the command; no Mac unless a test pretends."""
    monkeypatch.setattr(coreml, "has_core_ml", lambda: False)

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main(["profile", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def mac(profile: Profile, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    coreml_stub.pretend(monkeypatch)
    return monkeypatch


def document(profile: Profile, *arguments: object) -> Any:
    code, out, err = profile(*arguments, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


def test_json_has_counts_and_says_that_nothing_was_measured(profile: Profile, package: Path) -> None:
    found = document(profile, package)
    assert found.keys() == COUNTED_KEYS
    assert found["model"] == str(package) and found["method"] == "forward" and found["measured"] is False
    size = sum(path.stat().st_size for path in package.rglob("*") if path.is_file())
    assert 0 < found["weight_bytes"] < found["size_bytes"] == size
    for listed in (found["operators"], found["stages"]):
        assert all(entry.keys() == {"name", "count", "macs", "weight_bytes"} for entry in listed)
        assert sum(entry["macs"] for entry in listed) == pytest.approx(found["graph_gmacs"] * 1e9)
    assert found["stages"][0]["name"] == "stem, block 1, selector 1" and found["forecast"] is None
    (further,) = json.loads(package.with_suffix(".json").read_text())["further_methods"]
    smaller = document(profile, package, "--method", further["name"])
    assert smaller["gmacs"] == further["gmacs"]
    assert found["graph_gmacs"] - smaller["graph_gmacs"] == pytest.approx(found["gmacs"] - smaller["gmacs"], rel=0.2)
    counts = {entry["name"]: entry["count"] for entry in found["operators"]}
    assert counts["topk"] == counts["gather"] == 3
    code, out, err = profile(package)
    assert (code, err) == (0, "") and "not measured: that needs a Mac" in out and len(out.splitlines()) < 45


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--threads", 1], "--threads is for .pte models; Core ML has its own threads, see --compute-units"),
        (["--method", "nope"], "has no method 'nope'; it has forward, forward_"),
    ],
)
def test_what_a_package_does_not_have_is_refused(
    options: list[object], message: str, profile: Profile, package: Path
) -> None:
    code, out, err = profile(package, *options)
    assert (code, out) == (2, "") and message in err and err.count("\n") == 1


def test_compute_units_are_for_packages(profile: Profile, tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "model.pte"
    path.write_bytes(b"not run")
    write_manifest(path, manifest_for(tiny_checkpoint, path.name, path.read_bytes()))
    code, out, err = profile(path, "--compute-units", "all")
    assert (code, out) == (2, "")
    assert err == "tofe-edge: error: --compute-units is for .mlpackage models; use --threads\n"


@pytest.mark.usefixtures("mac")
def test_a_mac_measures_every_choice_of_compute_units(profile: Profile, package: Path) -> None:
    found = document(profile, package, "--runs", 2)
    assert found.keys() == COUNTED_KEYS | MEASURED_KEYS
    assert found["measured"] is True and found["compute_units"] == "all" and found["runs"] == 2
    assert found["latency_ms"].keys() == {"p50", "p90", "p99", "min"}
    assert [one["compute_units"] for one in found["by_compute_units"]] == list(coreml.COMPUTE_UNITS)
    assert found["by_compute_units"][0] == {key: found[key] for key in ("compute_units", "latency_ms", "load_ms")}
    assert found["placement"][0] == {"operator": "linear", "device": "ne", "count": 2, "share": 0.75}


@pytest.mark.usefixtures("mac")
def test_a_mac_measures_the_choice_it_is_told(profile: Profile, package: Path) -> None:
    found = document(profile, package, "--runs", 2, "--compute-units", "cpu_and_ne")
    assert [one["compute_units"] for one in found["by_compute_units"]] == [found["compute_units"]] == ["cpu_and_ne"]
    code, out, err = profile(package, "--runs", 2, "--compute-units", "cpu_only")
    assert (code, err) == (0, "")
    assert "needs a Mac" not in out and "Core ML's plan, cpu_only" in out and "75.0%" in out


def test_a_mac_without_a_plan_still_has_its_times(profile: Profile, package: Path, mac: pytest.MonkeyPatch) -> None:
    mac.setattr(coreml_stub.Plan, "structure", coreml_stub.Structure(None, None, None))
    code, out, err = profile(package, "--runs", 1, "--json")
    found = json.loads(out)
    assert code == 0 and found["placement"] == [] and found["latency_ms"]["p50"] >= 0
    assert err.startswith("tofe-edge: warning: no placement: ") and err.count("\n") == 1

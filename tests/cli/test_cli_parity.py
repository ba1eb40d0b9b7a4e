"""``parity`` in continuous integration: gates on intervals and against an earlier run, several models, a report whatever happens."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from conftest import Program, document_of, refusal

from tofe_edge.errors import InputError
from tofe_edge.evaluation.parity import ClassParity, gates_against


def test_few_images_fail_a_gate_with_confidence_and_several_models_have_a_suite_each(
    two_budgets: Path, weights: Path, image_folder: Path, program: Program, tmp_path: Path
) -> None:
    report = tmp_path / "parity.xml"
    call = ("--checkpoint", weights, "--data", image_folder, "--device", "cpu", "--junit", report)
    code, out, _ = program("parity", two_budgets, two_budgets, *call, "--max-drop", 1, "--confidence", 90, "--json")
    first, second = json.loads(out)
    assert code == 1 and first == second and first["analysis"]["accuracy"]["difference"]["confidence"] == 0.9
    gates = {gate["name"]: gate for gate in first["gates"]}
    assert gates["top-1 drop"]["passed"] and not gates["end of the top-1 drop"]["passed"]
    assert gates["end of the top-1 drop"]["message"].endswith("is over 1: 6 images are too few to say less")
    assert {"reference_name", "artifact_name"} <= first["analysis"]["worst"][0].keys()
    root = ElementTree.parse(report).getroot()
    assert [suite.get("failures") for suite in root] == ["1", "1"] and str(tmp_path) not in report.read_text()
    properties = {one.get("name"): one.get("value") for one in root[0].iter("property")}
    assert properties["images"] == "6" and len(properties["model sha256"] or "") == 64


def test_the_report_is_there_even_if_nothing_can_be_compared(
    two_budgets: Path, program: Program, tmp_path: Path
) -> None:
    report, gone = tmp_path / "parity.xml", tmp_path / "gone.pte"
    refusal(program, "parity", gone, "--junit", report)
    (case,) = ElementTree.parse(report).getroot().iter("testcase")
    assert case[0].tag == "error" and "gone.pte: " in case[0].get("message", "")
    assert str(tmp_path) not in report.read_text()
    assert "give both" in refusal(program, "parity", two_budgets, "--confidence", 95, "--junit", report)
    assert "take 95 or 99" in refusal(program, "parity", two_budgets, "--confidence", 100, "--max-drop", 1)


def test_a_baseline(two_budgets: Path, weights: Path, image_folder: Path, program: Program, tmp_path: Path) -> None:
    last = tmp_path / "last.json"
    call = ("parity", two_budgets, "--checkpoint", weights, "--data", image_folder, "--device", "cpu")
    last.write_text(json.dumps(document_of(program, *call)))
    document = document_of(program, *call, "--baseline", last)
    assert {"SNR against the baseline", "top-1 against the baseline"} <= {gate["name"] for gate in document["gates"]}
    last.write_text("[]")
    assert "is not `parity --json` of the same 6 images" in refusal(program, *call, "--baseline", last)


@pytest.mark.parametrize(
    ("before", "failing"),
    [
        ({"snr_db": 20.9, "top1_artifact": 0.704, "top1_agreement": 0.99}, []),
        ({"snr_db": 21.1, "top1_artifact": 0.706, "top1_agreement": 0.991}, ["top-1", "SNR", "top-1 agreement"]),
        ({"snr_db": None, "top1_artifact": None}, []),
    ],
)
def test_what_is_worse_than_the_baseline(before: dict[str, float | None], failing: list[str]) -> None:
    now = ClassParity(
        images=100, snr_db=20.0, psnr_db=30.0, kept_overlap=(), top1_agreement=0.98, top1_reference=0.7,
        top1_artifact=0.7, decided_images=90, decided_agreement=1.0,
    )  # fmt: skip
    gates = gates_against({"images": 100, **before}, now)
    assert {gate.name for gate in gates if not gate.passed} == {f"{name} against the baseline" for name in failing}
    with pytest.raises(InputError, match="of the same 100 images"):
        gates_against({"images": 99, **before}, now)

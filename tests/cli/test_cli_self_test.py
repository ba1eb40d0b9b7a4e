"""``convert`` writes golden vectors, ``run --self-test`` replays them."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from conftest import Program, TinyModel, document_of, edit_json, flat, refusal
from golden_files import spoilt_weight

from tofe_edge.evaluation.golden import DOCUMENT, golden_path_of
from tofe_edge.io.artifact import manifest_path_of, open_artifact
from tofe_edge.io.files import fingerprint, fingerprint_of
from tofe_edge.io.targets import FP32_GATES

PARITY_KEYS = {"images", "top1_agreement", "snr_db", "psnr_db", "kept_overlap", "near_ties", "passed", "failures"}


@pytest.fixture
def model(two_budgets_copy: Path) -> Path:
    return two_budgets_copy


def self_test(program: Program, model: Path, *options: object, code: int = 0) -> Any:
    return document_of(program, "run", model, "--self-test", *options, code=code)


def test_a_copy_passes_with_the_parity_of_each_method(model: Path, program: Program) -> None:
    first, second = open_artifact(model).manifest.methods
    code, out, _ = program("run", model, "--self-test")
    lines = out.splitlines()
    assert code == 0
    assert [line.split()[0] for line in lines if "the same to the bit" in line] == [first, second]
    assert flat(out).endswith(f"self-test passed: {model} computes here what it computed where it was converted")
    for options, methods in (([], [first, second]), (["--method", second], [second]), (["--method", first], [first])):
        document = self_test(program, model, "--threads", 2, *options)
        assert document["passed"] is True and list(document["methods"]) == methods
        for parity in document["methods"].values():
            assert parity.keys() >= PARITY_KEYS
            assert parity["passed"] is True and parity["images"] == 4 and parity["kept_overlap"] == [1, 1, 1]


def test_the_folder_is_the_same_each_time_and_replaced_whole(
    tiny_model: TinyModel, weights: Path, tmp_path: Path, program: Program
) -> None:
    first = tiny_model()
    stale = tmp_path / golden_path_of(first).name
    stale.mkdir()
    (stale / "9.png").write_bytes(b"of an older version")
    assert program("convert", "--checkpoint", weights, "--precision", "fp32", "--out", tmp_path)[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in first.parent.iterdir())
    assert sorted(path.name for path in stale.iterdir()) == ["0.png", "1.png", "2.png", "3.png", DOCUMENT]
    assert fingerprint_of(stale) == fingerprint_of(golden_path_of(first))


def test_a_package_of_core_ml_has_them_too(tiny_model: TinyModel, program: Program) -> None:
    package = tiny_model("--target", "coreml")
    assert package.is_dir() and self_test(program, package)["methods"].keys() == {"forward"}


def test_a_wrong_weight_fails_even_if_all_checksums_vouch_for_it(model: Path, program: Program) -> None:
    spoilt = spoilt_weight(model.read_bytes())
    model.write_bytes(spoilt)
    assert "its checksum is not the manifest's" in refusal(program, "run", model, "--self-test")
    edit_json(manifest_path_of(model), lambda document: document.update(asdict(fingerprint_of(model))))
    line = refusal(program, "run", model, "--self-test")
    assert line.startswith(f"{golden_path_of(model) / DOCUMENT}: it is of another model file than {model.name}; copy")
    edit_json(
        golden_path_of(model) / DOCUMENT, lambda document: document.update(artifact_sha256=fingerprint(spoilt).sha256)
    )
    code, out, _ = program("run", model, "--self-test")
    assert code == 1
    assert "FAILED" in out and "logits SNR" in flat(out) and f"is under {FP32_GATES.min_snr_db:.0f} dB" in flat(out)
    assert f"self-test FAILED: {model} computes something else here" in flat(out)
    document = self_test(program, model, code=1)
    assert document["passed"] is False and all(parity["failures"] for parity in document["methods"].values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "run needs an IMAGE, or --self-test"),
        ("a.png --self-test", "--self-test takes the model's own images; leave IMAGE out"),
        ("--self-test --deadline-ms 5", "--self-test measures no time; leave --deadline-ms out"),
        ("a.png --deadline-ms 5 --method x", "--deadline-ms chooses the method itself; leave --method out"),
        ("--self-test --method none", "has no method 'none'; it has forward, "),
    ],
)
def test_images_and_a_self_test_exclude_each_other(model: Path, program: Program, options: str, message: str) -> None:
    assert message in refusal(program, "run", model, *options.split())

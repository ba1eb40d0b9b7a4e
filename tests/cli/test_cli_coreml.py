"""``tofe-edge`` with Core ML packages, through its real entry point and the real converter."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import TinyModel

from tofe_edge.cli import main
from tofe_edge.io.artifact import open_artifact
from tofe_edge.io.files import fingerprint_of
from tofe_edge.model.checkpoint import Checkpoint


def run_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    code = main([*map(str, arguments), "--json"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return json.loads(captured.out)


def convert(checkpoint: Checkpoint, out: Path, *arguments: object) -> list[object]:
    return ["convert", "--checkpoint", checkpoint.path, "--target", "coreml", "--out", out, *arguments]


def test_convert_run_and_parity_of_a_package(
    tiny_checkpoint: Checkpoint, tmp_path: Path, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    made = run_json(capsys, *convert(tiny_checkpoint, out, "--precision", "fp32", "--author", "A. Author"))
    path = Path(made["artifact"])
    assert path == out / "tiny-fp32-coreml.mlpackage"
    names = ["tiny-fp32-coreml.golden", "tiny-fp32-coreml.json", "tiny-fp32-coreml.mlpackage"]
    assert sorted(child.name for child in out.iterdir()) == names
    assert made["size_bytes"] == sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    assert (made["target"], made["selection"], made["delegates"], made["fallback_ops"]) == ("coreml", "rank", 1, {})
    assert made["parity"]["passed"] and made["parity"]["psnr_db"] > 60
    manifest = open_artifact(path).manifest
    assert (manifest.io, manifest.layout, manifest.deployment_target) == ("image", "tokens_first", "iOS17")
    assert {"coremltools", "torch", "timm", "tofe-edge"} == set(manifest.versions)

    from tofe_edge.runtimes.mil import open_package

    notes = open_package(path).metadata.user_defined
    assert json.loads(notes["tofe_edge.preprocessing"]) == manifest.preprocessing.to_json()
    assert notes["tofe_edge.kept_tokens.main"] == "9,5,3"

    image = image_folder / "0" / "0.png"
    (ranked,) = run_json(capsys, "run", path, image)
    assert len(ranked["top5"]) == 5 and ranked["kept"] == [9, 5, 3]
    checked = run_json(
        capsys, "parity", path, "--data", image_folder, "--checkpoint", tiny_checkpoint.path, "--device", "cpu"
    )
    assert checked["images"] == 6 and checked["top1_agreement"] == 1.0


def test_converting_again_replaces_the_package(
    tiny_checkpoint: Checkpoint, tiny_model: TinyModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = tiny_model("--target", "coreml", "--io", "tensor", "--selection", "topk")
    path = Path(shutil.copytree(first.parent, tmp_path / "out")) / first.name
    leftover = path / "Data" / "leftover"
    leftover.write_text("of an older version")
    again = convert(tiny_checkpoint, path.parent, "--precision", "fp32", "--io", "tensor", "--selection", "topk")
    assert run_json(capsys, *again)["artifact"] == str(path)
    assert not leftover.exists()
    assert open_artifact(path).manifest.io == "tensor"
    assert fingerprint_of(path.parent) == fingerprint_of(first.parent)


def test_a_profile_of_an_apple_device_chooses_core_ml_and_its_system(
    tiny_checkpoint: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = run_json(
        capsys, "convert", "--profile", "iphone_16", "--checkpoint", tiny_checkpoint.path, "--out", tmp_path,
        "--precision", "fp16", "--elastic", "0.0016", "--layout", "channels_first",
    )  # fmt: skip
    manifest = open_artifact(Path(made["artifact"])).manifest
    assert Path(made["artifact"]).name == "tiny-iphone_16-fp16-elastic-channels_first.mlpackage"
    assert (manifest.deployment_target, manifest.layout, len(manifest.methods)) == ("iOS18", "channels_first", 2)


def test_an_executorch_program_with_core_ml_inside(
    tiny_checkpoint: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = run_json(
        capsys,
        "convert",
        "--checkpoint",
        tiny_checkpoint.path,
        "--out",
        tmp_path,
        "--precision",
        "fp16",
        "--backend",
        "coreml",
    )
    path = Path(made["artifact"])
    assert path.name == "tiny-fp16-coreml_delegate.pte"
    assert (made["delegates"], made["fallback_ops"]) == (1, {})
    assert main(["profile", str(path)]) == 3
    assert "its delegate is Core ML, which runs on macOS and iOS alone" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--elastic", "0.0016"],
            "--elastic: with --backend coreml each budget stores all weights; use --target coreml",
        ),
        (["--precision", "pal6"], "--backend coreml has no palettes and no --float32-selectors; use --target coreml"),
        (["--author", "A"], "--io image, --author and --license describe a Core ML package; add --target coreml"),
    ],
)
def test_what_a_delegate_does_not_have_is_refused(
    tiny_checkpoint: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    call = [
        "convert",
        "--checkpoint",
        str(tiny_checkpoint.path),
        "--backend",
        "coreml",
        "--out",
        str(tmp_path),
        *arguments,
    ]
    assert main(call) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_more_tokens_than_float16_counts_are_refused_before_any_work(
    tiny_checkpoint: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = convert(tiny_checkpoint, tmp_path, "--precision", "fp16", "--image-size", "768")
    assert main([str(word) for word in call]) == 2
    assert "2304 tokens cannot be ranked: float16 counts to 2048; use --selection topk" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".mlpackage", ".json", ".golden"])
def test_what_is_in_the_way_is_found_first_and_left_alone(
    tiny_checkpoint: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    place = tmp_path / f"tiny-fp16-coreml{suffix}"
    if suffix == ".json":
        place.mkdir()
        (place / "precious").write_text("mine")
    else:
        place.write_text("mine")
    assert main([str(word) for word in convert(tiny_checkpoint, tmp_path, "--precision", "fp16")]) == 2
    assert f"{place}: is a f" in capsys.readouterr().err
    assert (place / "precious" if suffix == ".json" else place).read_text() == "mine"
    assert list(tmp_path.iterdir()) == [place]

"""``tofe-edge`` with Core ML packages, through its real entry point and the real converter."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import Program, TinyModel, document_of, refusal

from tofe_edge.cli import main
from tofe_edge.io.artifact import open_artifact
from tofe_edge.io.files import fingerprint_of


def convert(weights: Path, out: Path, *arguments: object) -> list[object]:
    return ["convert", "--checkpoint", weights, "--target", "coreml", "--out", out, *arguments]


def test_convert_run_parity(weights: Path, tmp_path: Path, image_folder: Path, program: Program) -> None:
    out = tmp_path / "out"
    made = document_of(program, *convert(weights, out, "--precision", "fp32", "--option", "author=A. Author"))
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
    (ranked,) = document_of(program, "run", path, image)
    assert len(ranked["top5"]) == 5 and ranked["kept"] == [9, 5, 3]
    checked = document_of(program, "parity", path, "--data", image_folder, "--checkpoint", weights, "--device", "cpu")
    assert checked["images"] == 6 and checked["top1_agreement"] == 1.0


def test_a_package_is_replaced(weights: Path, tiny_model: TinyModel, tmp_path: Path, program: Program) -> None:
    first = tiny_model("--target", "coreml", "--option", "io=tensor", "--selection", "topk")
    path = Path(shutil.copytree(first.parent, tmp_path / "out")) / first.name
    leftover = path / "Data" / "leftover"
    leftover.write_text("of an older version")
    again = convert(weights, path.parent, "--precision", "fp32", "--option", "io=tensor", "--selection", "topk")
    assert document_of(program, *again)["artifact"] == str(path)
    assert not leftover.exists()
    assert open_artifact(path).manifest.io == "tensor"
    assert fingerprint_of(path.parent) == fingerprint_of(first.parent)


def test_apple_devices_choose_core_ml_and_ios(weights: Path, tmp_path: Path, program: Program) -> None:
    made = document_of(
        program, "convert", "--profile", "iphone_16", "--checkpoint", weights, "--out", tmp_path,
        "--precision", "fp16", "--elastic", "0.0016", "--option", "float32_selectors=true",
    )  # fmt: skip
    manifest = open_artifact(Path(made["artifact"])).manifest
    assert Path(made["artifact"]).name == "tiny-iphone_16-fp16-elastic-fp32_selectors.mlpackage"
    assert (manifest.deployment_target, manifest.layout, len(manifest.methods)) == ("iOS18", "tokens_first", 2)


@pytest.mark.parametrize("removed", [["--layout", "channels_first"], ["--backend", "coreml"], ["--backend"]])
def test_a_removed_option(weights: Path, tmp_path: Path, program: Program, removed: list[str]) -> None:
    line = refusal(program, *convert(weights, tmp_path, *removed))
    assert line == f"{removed[0]} was removed, see CHANGELOG.md; leave it out"


@pytest.mark.parametrize(
    ("former", "option"),
    [
        (["--io", "tensor"], "io=tensor"),
        (["--deployment-target", "iOS7"], "deployment_target=iOS7"),
        (["--float32-selectors"], "float32_selectors=true"),
        (["--author", "A"], "author=A"),
        (["--license", "MIT"], "license=MIT"),
    ],
)
def test_a_former_spelling_works_with_a_hint(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], former: list[str], option: str
) -> None:
    words = ["convert", "--checkpoint", str(weights), "--out", str(tmp_path)]
    assert main([*words, *former]) == main([*words, "--option", option]) == 2
    hint, error, same = capsys.readouterr().err.splitlines()
    assert hint == f"tofe-edge: hint: {former[0]} is now --option {option}, see CHANGELOG.md"
    assert error == same and f"--option {option.split('=')[0]} is not an option of target executorch" in error
    assert error.endswith("it is for --target coreml")


def test_the_help_of_a_target_shows_every_option_and_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    shown = []
    for words in ([], ["--target", "executorch"], ["--target", "coreml"]):
        with pytest.raises(SystemExit) as ended:
            main(["convert", *words, "--help"])
        assert ended.value.code == 0
        shown.append(capsys.readouterr().out)
    plain, executorch, coreml = shown
    assert plain.count("\n  --") <= 20 and "--batch" not in plain and "--io" not in "".join(shown)
    assert "--batch" in executorch and "deployment_target" not in executorch
    assert all(
        f"--option {name}=" in coreml for name in ("io", "deployment_target", "float32_selectors", "author", "license")
    )


def test_tokens_float16_cannot_count_are_refused(weights: Path, tmp_path: Path, program: Program) -> None:
    line = refusal(program, *convert(weights, tmp_path, "--precision", "fp16", "--image-size", "768"))
    assert "2304 tokens cannot be ranked: float16 counts to 2048; use --selection topk" in line


@pytest.mark.parametrize("suffix", [".mlpackage", ".json", ".golden"])
def test_what_is_in_the_way_is_left(weights: Path, tmp_path: Path, program: Program, suffix: str) -> None:
    place = tmp_path / f"tiny-fp16-coreml{suffix}"
    if suffix == ".json":
        place.mkdir()
        (place / "precious").write_text("mine")
    else:
        place.write_text("mine")
    assert f"{place}: is a f" in refusal(program, *convert(weights, tmp_path, "--precision", "fp16"))
    assert (place / "precious" if suffix == ".json" else place).read_text() == "mine"
    assert list(tmp_path.iterdir()) == [place]

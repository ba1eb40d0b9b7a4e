"""``convert`` with several budgets, batches, other sizes, ranks and calibration, and the commands on what it wrote."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Program, TinyModel, document_of, edit_json, refusal, write_images
from test_cli import CONVERT_KEYS

from tofe_edge.cli import main
from tofe_edge.converters import pipeline
from tofe_edge.converters.request import ConvertRequest
from tofe_edge.evaluation.golden import golden_path_of
from tofe_edge.io.artifact import manifest_path_of
from tofe_edge.model.checkpoint import Checkpoint


def convert(weights: Path, out: Path, *arguments: object) -> Path:
    """The one model that ``convert`` wrote."""
    call = ["convert", "--checkpoint", weights, *arguments, "--out", out]
    assert main([str(argument) for argument in call]) == 0
    (model,) = out.glob("*.pte")
    assert sorted(out.iterdir()) == [golden_path_of(model), manifest_path_of(model), model]
    return model


@pytest.fixture(scope="module")
def elastic(tiny_model: TinyModel) -> Path:
    """With a second budget, for two images at once."""
    return tiny_model("--elastic", "0.0016", "--batch", 2)


@pytest.fixture(scope="module")
def resized(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Path:
    """For images of 48 px, tokens selected by rank."""
    options = ["--precision", "fp32", "--image-size", 48, "--selection", "rank"]
    return convert(weights, tmp_path_factory.mktemp("resized"), *options)


@pytest.fixture
def image(image_folder: Path) -> Path:
    return image_folder / "0" / "0.png"


def manifest(model: Path) -> Any:
    return json.loads(manifest_path_of(model).read_text(encoding="utf-8"))


def test_elastic_writes_further_methods(elastic: Path) -> None:
    document = manifest(elastic)
    assert document["token_counts"] == [9, 5, 3]
    (further,) = document["further_methods"]
    assert further["gmacs"] == pytest.approx(0.0016, rel=0.05) and further["gmacs"] < document["gmacs"]
    assert further["name"] == "_".join(["forward", *map(str, further["token_counts"])])
    assert further["delegates"] == document["delegates"] == 4
    assert (document["batch"], document["selection"]) == (2, "topk")
    assert document["parity"]["passed"] is True


def without_time(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key != "latency_ms"}


def test_run_takes_a_method(elastic: Path, image: Path, program: Program) -> None:
    (further,) = manifest(elastic)["further_methods"]
    ((default,), (smaller,)) = (
        document_of(program, "run", elastic, image),
        document_of(program, "run", elastic, image, "--method", further["name"]),
    )
    assert default["kept"] == [9, 5, 3] and smaller["kept"] == further["token_counts"]
    assert default["top5"] != smaller["top5"]
    (named,) = document_of(program, "run", elastic, image, "--method", "forward")
    assert without_time(named) == without_time(default)


def test_a_deadline_chooses_the_method(elastic: Path, image: Path, program: Program) -> None:
    (further,) = manifest(elastic)["further_methods"]
    missed = document_of(program, "run", elastic, *([image] * 15), "--deadline-ms", 1e-6)
    assert [entry["kept"] for entry in missed] == [further["token_counts"]] * 15
    easy = document_of(program, "run", elastic, *([image] * 60), "--deadline-ms", 1e6)
    assert easy[0]["kept"] == further["token_counts"] and easy[-1]["kept"] == [9, 5, 3]


def test_profile_and_parity_take_a_method(elastic: Path, weights: Path, program: Program) -> None:
    (further,) = manifest(elastic)["further_methods"]
    document = document_of(program, "profile", elastic, "--runs", 2, "--method", further["name"])
    assert (document["method"], document["batch"], document["gmacs"]) == (further["name"], 2, further["gmacs"])
    assert document["planned_memory_bytes"] == further["planned_memory_bytes"]
    assert [stage["name"] for stage in document["stages"] if stage["name"].startswith("selection")] == [
        "selection 1", "selection 2", "selection 3",
    ]  # fmt: skip
    against = ["--checkpoint", weights, "--device", "cpu"]
    document = document_of(program, "parity", elastic, "--method", further["name"], *against)
    assert document["passed"] is True and document["kept_overlap"] == [1, 1, 1]


def test_parity_uses_the_methods_counts(elastic: Path, weights: Path, tmp_path: Path, program: Program) -> None:
    """A manifest that is wrong about a method is found out where that method is loaded, and in no other."""
    model = tmp_path / elastic.name
    model.write_bytes(elastic.read_bytes())
    (further,) = manifest(elastic)["further_methods"]
    further["token_counts"] = [count + 1 for count in further["token_counts"]]
    shutil.copy(manifest_path_of(elastic), tmp_path)
    edit_json(manifest_path_of(model), lambda document: document.update(further_methods=[further]))
    against = ["--checkpoint", weights, "--device", "cpu"]
    assert document_of(program, "parity", model, *against)["passed"] is True
    line = refusal(program, "parity", model, "--method", further["name"], *against)
    assert (
        f"method {further['name']} gives selections of [16, 16, 2] tokens, which are not those of its manifest" in line
    )


@pytest.mark.parametrize("command", ["run", "profile", "parity"])
def test_an_unknown_method_is_refused_with_the_names_there_are(
    command: str, elastic: Path, image: Path, weights: Path, program: Program
) -> None:
    rest: dict[str, list[object]] = {"run": [image], "parity": ["--checkpoint", weights]}
    line = refusal(program, command, elastic, *rest.get(command, []), "--method", "forward_1")
    (further,) = manifest(elastic)["further_methods"]
    assert f"has no method 'forward_1'; it has forward, {further['name']}" in line and elastic.name in line


def test_a_method_that_is_not_what_its_manifest_says_keeps_all_from_being_written(
    tmp_path: Path,
    weights: Path,
    program: Program,
    monkeypatch: pytest.MonkeyPatch,
    elastic_artifact: Any,
) -> None:
    """The exporter is given away: it hands out a good program whose manifest is wrong about one further method."""
    *_, last = elastic_artifact.manifest.further_methods
    wrong = replace(last, token_counts=[count + 1 for count in last.token_counts])

    def fake(request: ConvertRequest) -> pipeline.Conversion:
        others = elastic_artifact.manifest.further_methods[:-1]
        stated = replace(elastic_artifact.manifest, artifact=request.file_name, further_methods=[*others, wrong])
        return pipeline.Conversion(elastic_artifact.path.read_bytes(), stated)

    monkeypatch.setattr(pipeline, "convert", fake)
    out = tmp_path / "out"
    line = refusal(program, "convert", "--checkpoint", weights, "--precision", "fp32", "--out", out)
    assert f"method {last.name} gives selections of" in line and "not those of its manifest" in line
    assert not out.exists() or list(out.iterdir()) == []


def test_another_size_and_selection_by_rank(resized: Path, tiny_checkpoint: Checkpoint) -> None:
    document = manifest(resized)
    assert (document["batch"], document["selection"]) == (1, "rank")
    assert document["preprocessing"]["image_size"] == 48 and document["patch_tokens"] == 9
    assert document["token_counts"] == [5, 3, 2]  # 9, 5 and 3 of 16, of 9
    assert document["delegates"] == 1 and document["fallback_ops"].keys() <= {"view_copy"}
    assert document["gmacs"] < tiny_checkpoint.gmacs
    assert document["parity"]["passed"] is True and document["parity"]["kept_overlap"] == [1, 1, 1]


def test_resized_models_run(resized: Path, image_folder: Path, weights: Path, program: Program) -> None:
    images = sorted(image_folder.rglob("*.png"))[:3]
    together = document_of(program, "run", resized, *images)
    assert [entry["kept"] for entry in together] == [[5, 3, 2]] * 3
    apart = [entry for path in images for entry in document_of(program, "run", resized, path)]
    assert [*map(without_time, together)] == [*map(without_time, apart)]
    profile = document_of(program, "profile", resized, "--runs", 2)
    assert profile["batch"] == 1 and [stage["name"] for stage in profile["stages"]] == ["the whole net"]
    against = ["--checkpoint", weights, "--device", "cpu"]
    assert document_of(program, "parity", resized, *against)["passed"] is True


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("calibration"), 6, seed=1)


def test_int8_says_its_cost(weights: Path, calibration: Path, tmp_path: Path, program: Program) -> None:
    document = document_of(
        program, "convert", "--checkpoint", weights, "--precision", "int8", "--calibration", calibration,
        "--calibration-images", 4, "--max-accuracy-drop", 50, "--out", tmp_path,
    )  # fmt: skip
    assert document.keys() == set(CONVERT_KEYS.split())
    assert (document["precision"], document["int8_mode"], document["batch"]) == ("int8", "dynamic", 1)
    assert document["methods"].keys() == {"forward"} and document["selection"] == "topk"
    stored = manifest(Path(document["artifact"]))
    assert stored["quantization"] == document["quantization"]
    cost = stored["quantization"]["cost"]
    assert cost["images"] == 4 and cost["drop"] <= 50 and cost["snr_db"] > 10
    assert stored["quantization"].keys() == {"cost", "all_int8", "fp32_because", "layers"}
    assert stored["quantization"]["fp32_because"].keys() <= set(stored["fp32_layers"])


def test_drops_need_labels(weights: Path, image_folder: Path, tmp_path: Path, program: Program) -> None:
    (image_folder / "1").rename(image_folder / "cats")
    options = ["--precision", "int8", "--max-accuracy-drop", 1, "--calibration", image_folder]
    line = refusal(program, "convert", "--checkpoint", weights, *options, "--out", tmp_path / "out")
    assert line == f"{image_folder}: --max-accuracy-drop needs labelled images, DIR/<class id>/<image>"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--int8-mode", "static"], "static int8 needs calibration images; give a folder with --calibration"),
        (["--max-accuracy-drop", 1], "--max-accuracy-drop is held on images; give a folder with --calibration"),
        (["--elastic", 100, "--precision", "fp32"], "--elastic 100: the nearest that deit_tiny_patch16_224 reaches"),
        (["--elastic", "0.0016,1e-9", "--precision", "fp32"], "--elastic 1e-09: the nearest that deit_tiny"),
        (["--image-size", 50], "image size 50 does not fit deit_tiny_patch16_224: it must be a multiple of 16"),
        (["--image-size", 16], "from 32 to 1024; try 32"),
        (["--image-size", 10**9], "from 32 to 1024; try 1024"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(
    weights: Path, tmp_path: Path, program: Program, arguments: list[object], message: str
) -> None:
    out = tmp_path / "out"
    assert message in refusal(program, "convert", "--checkpoint", weights, *arguments, "--out", out)
    assert not out.exists() or list(out.iterdir()) == []


def test_a_dense_model_has_one_budget(tiny_dense_checkpoint: Checkpoint, tmp_path: Path, program: Program) -> None:
    line = refusal(
        program, "convert", "--checkpoint", tiny_dense_checkpoint.path, "--elastic", 0.001, "--out", tmp_path / "out"
    )
    assert line == "tiny-dense: a dense model has one budget; leave --elastic out"


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--elastic", "abc", "'abc' is not a list of numbers such as 0.5,0.4"),
        ("--elastic", "0.5,", "'0.5,' is not a list of numbers such as 0.5,0.4"),
        ("--elastic", "", "'' is not a list of numbers such as 0.5,0.4"),
        ("--elastic", "-1", "-1 is not a number greater than 0"),
        ("--elastic", "0", "0 is not a number greater than 0"),
        ("--elastic", "0.5,nan", "nan is not a number greater than 0"),
        ("--elastic", "inf", "inf is not a number greater than 0"),
        ("--batch", "0", "0 is not at least 1"),
        ("--image-size", "-48", "-48 is not at least 1"),
        ("--max-accuracy-drop", "0", "0 is not a number greater than 0"),
        ("--selection", "random", "invalid choice: 'random' (choose from 'topk', 'rank')"),
        ("--int8-mode", "mixed", "invalid choice: 'mixed' (choose from 'dynamic', 'static', 'weights')"),
    ],
)
def test_bad_values_name_the_option(option: str, value: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["convert", option, value])
    assert ended.value.code == 2
    assert f"error: argument {option}: {message}" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["0", "-5", "nan", "inf"])
def test_a_deadline_that_is_none_is_refused(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", "model.pte", "a.png", "--deadline-ms", value])
    assert ended.value.code == 2
    assert f"argument --deadline-ms: {value} is not a number greater than 0" in capsys.readouterr().err

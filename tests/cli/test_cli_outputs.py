"""Embeddings and features from conversion to the vectors of an image, and what is refused of them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY_COUNTS, Program, TinyModel, document_of, edit_json, flat, refusal, tiny_tofe

from tofe_edge.errors import InputError
from tofe_edge.evaluation.golden import DOCUMENT, golden_path_of
from tofe_edge.evaluation.reference import load_reference
from tofe_edge.io.artifact import open_artifact
from tofe_edge.io.inputs import load_image
from tofe_edge.io.labels import Classes
from tofe_edge.model.checkpoint import Checkpoint, describe, save
from tofe_edge.workflows.run import load

EMBEDDING = ("--output", "embedding", "--normalize")
FEATURES = ("--output", "features", "--elastic", "0.0016")
SHAPES: dict[tuple[str, ...], tuple[int, ...]] = {EMBEDDING: (48,), FEATURES: (16, 48)}


@pytest.fixture(params=list(SHAPES), ids=lambda options: options[1])
def options(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def pictures(image_folder: Path) -> list[Path]:
    return sorted((image_folder / "0").iterdir())


def test_run_gives_what_the_reference_gives(
    options: tuple[str, ...], tiny_model: TinyModel, tiny_checkpoint: Checkpoint, pictures: list[Path], tmp_path: Path,
    program: Program,
) -> None:  # fmt: skip
    model, shape = tiny_model(*options), SHAPES[options]
    normalizes = options is EMBEDDING
    reference = load_reference(tiny_checkpoint, device="cpu", output=options[1], normalize=normalizes)  # type: ignore[arg-type]
    wanted = np.stack([reference(load_image(one, tiny_checkpoint.preprocessing)).output for one in pictures])
    documents = document_of(program, "run", model, *pictures, "--save", tmp_path / "all.npy")
    saved = np.load(tmp_path / "all.npy")
    assert saved.dtype == np.float32 and saved.shape == (len(pictures), *shape)
    np.testing.assert_allclose(saved, wanted, atol=1e-4)
    first = documents[0]
    assert (first["output"], first["shape"], first["kept"]) == (options[1], list(shape), [9, 5, 3])
    assert first["first"] == saved[0].ravel()[:8].tolist() and ("values" in first) == normalizes
    assert first["length"] == pytest.approx(1.0 if normalizes else np.linalg.norm(saved[0], axis=-1).mean(), abs=1e-4)
    code, out, _ = program("run", model, pictures[0])
    words = "embedding of 48 numbers, length 1.0000" if normalizes else "features of 16 patches, 48 numbers each"
    assert code == 0 and words in flat(out)


def test_a_classifier_saves_its_logits(
    tiny_model: TinyModel, pictures: list[Path], tmp_path: Path, program: Program
) -> None:
    code, out, _ = program("run", tiny_model(), *pictures, "--save", tmp_path / "logits.npy")
    assert code == 0 and out.endswith(f"Wrote {tmp_path / 'logits.npy'}\n")
    assert np.load(tmp_path / "logits.npy").shape == (3, 10)


def test_the_manifest_says_what_it_is(options: tuple[str, ...], tiny_model: TinyModel) -> None:
    manifest = open_artifact(tiny_model(*options)).manifest
    document = json.loads(tiny_model(*options).with_suffix(".json").read_text())
    assert (document["output"], document["output_shape"]) == (options[1], list(SHAPES[options]))
    assert document["normalized"] is (options is EMBEDDING)
    assert manifest.class_names == manifest.class_ids == [] and not manifest.classifies
    assert manifest.shape == SHAPES[options] and manifest.parity is not None and manifest.parity["output"] == options[1]
    plain = json.loads(tiny_model().with_suffix(".json").read_text())
    assert not plain.keys() & {"output", "output_shape", "normalized"}


def test_parity_compares_vectors_on_any_folder_of_images(
    options: tuple[str, ...], tiny_model: TinyModel, weights: Path, image_folder: Path, program: Program, tmp_path: Path
) -> None:
    call = ("parity", tiny_model(*options), "--checkpoint", weights, "--device", "cpu")
    document = document_of(program, *call, "--data", image_folder, "--html", tmp_path / "page.html")
    assert document["passed"] and document["images"] == 6 and document["analysis"] is None
    assert document["cosine_mean"] == pytest.approx(1, abs=1e-6) and "top1_agreement" not in document
    assert (document.get("neighbour_agreement") == 1.0) is (options is EMBEDDING)
    assert "cosine" in (tmp_path / "page.html").read_text() and "cosine" in program(*call, "--data", image_folder)[1]


def of_vector(number: int, values: dict[str, Any]) -> Callable[[Any], object]:
    """Change one golden vector."""
    return lambda document: document["vectors"][number].update(values)


def test_golden_vectors_are_replayed_and_checked(
    options: tuple[str, ...], tiny_model: TinyModel, program: Program, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(tiny_model(*options).parent, tmp_path / "copy")) / tiny_model(*options).name
    assert document_of(program, "run", model, "--self-test")["passed"]
    assert options[1] in program("run", model, "--self-test")[1].splitlines()[0]
    golden = golden_path_of(model) / DOCUMENT
    vector = json.loads(golden.read_text())["vectors"][0]
    assert len(vector[options[1]]) == np.prod(SHAPES[options]) and "logits" not in vector and "top5" not in vector
    good = golden.read_text()
    faults: list[tuple[dict[str, Any], str]] = [
        ({"logits": [0.0] * 10}, "unknown key 'logits'"),
        ({options[1]: None}, f"key '{options[1]}' is missing"),
        ({options[1]: [0.0]}, f"its {options[1]} are not "),
        *([({"tokens": [0]}, "its tokens are not those")] if options is FEATURES else []),
    ]
    for change, message in faults:
        edit_json(golden, of_vector(1, change))
        assert f"vector 1: {message}" in refusal(program, "run", model, "--self-test")
        golden.write_text(good)
    edit_json(golden, of_vector(0, {options[1]: [-x for x in vector[options[1]]]}))
    assert program("run", model, "--self-test")[0] == 1


def test_a_net_without_head_gives_its_embedding(tmp_path: Path, program: Program, pictures: list[Path]) -> None:
    net = tiny_tofe(classes=0)
    spec, path = net.backbone.spec, tmp_path / "headless.safetensors"
    save(path, net, describe("headless", spec, net.backbone.preprocessing, Classes((), ()), TINY_COUNTS))
    call = ("convert", "--checkpoint", path, "--precision", "fp32", "--out", tmp_path)
    made = document_of(program, *call)
    assert (made["output"], made["output_shape"]) == ("embedding", [48]) and made["parity"]["passed"]
    assert document_of(program, "run", made["artifact"], pictures[0])[0]["shape"] == [48]
    assert "has no head; use --output embedding or features" in refusal(program, *call, "--output", "logits")
    assert "has no head" in refusal(program, "evaluate", path, "--data", pictures[0].parent.parent)


def test_profile_names_the_parts_of_features(tiny_model: TinyModel, program: Program) -> None:
    document = document_of(program, "profile", tiny_model(*FEATURES), "--runs", "3")
    names = [one["name"] for one in document["stages"]]
    assert names[-1] == "patches in raster order" and names[-2].endswith("last norm"), names


REFUSED = [
    (("run", "MODEL", "IMAGE", "--save", "/dev/null/all.npy"), "/dev/null"),
    (("run", "MODEL", "--self-test", "--save", "x.npy"), "leave --save out"),
    (("parity", "MODEL", "--checkpoint", "WEIGHTS", "--max-drop", "1", "--data", "DATA"), "no classes; leave it out"),
    (("parity", "MODEL", "--checkpoint", "WEIGHTS", "--data", "WEIGHTS"), "is not a folder"),
    (
        ("convert", "--checkpoint", "WEIGHTS", "--output", "features", "--normalize"),
        "--normalize: is for --output embedding",
    ),
    (("convert", "--checkpoint", "WEIGHTS", "--normalize"), "--normalize: is for --output embedding, not for logits"),
    (
        (
            "convert",
            "--checkpoint",
            "WEIGHTS",
            "--output",
            "embedding",
            "--calibration",
            "DATA",
            "--max-accuracy-drop",
            "1",
        ),
        "--max-accuracy-drop: is about classes",
    ),
    (
        (
            "convert",
            "--checkpoint",
            "WEIGHTS",
            "--profile",
            "jetson_orin",
            "--max-latency-ms",
            "9",
            "--output",
            "features",
        ),
        "latency is not predicted for --output features",
    ),
]


@pytest.mark.parametrize(("words", "message"), REFUSED)
def test_what_does_not_apply_is_refused_in_one_line(
    words: tuple[str, ...], message: str, tiny_model: TinyModel, weights: Path, image_folder: Path, program: Program
) -> None:
    names = {
        "MODEL": tiny_model(*EMBEDDING),
        "WEIGHTS": weights,
        "DATA": image_folder,
        "IMAGE": image_folder / "0" / "0.png",
    }
    assert message in refusal(program, *(names.get(word, word) for word in words))


def test_features_have_neither_class_nor_neighbour(tiny_model: TinyModel, weights: Path, program: Program) -> None:
    call = ("parity", tiny_model(*FEATURES), "--checkpoint", weights, "--min-agreement", "90")
    assert "neither class nor neighbour" in refusal(program, *call)


def test_a_model_of_vectors_classifies_nothing(tiny_model: TinyModel, pictures: list[Path]) -> None:
    model = load(tiny_model(*EMBEDDING))
    with pytest.raises(InputError, match=r"gives an embedding, no classes; use Model\.outputs"):
        model.run(pictures[0])
    (found,) = model.outputs(pictures[0])
    assert found.length == pytest.approx(1, abs=1e-5) and found.values.shape == (48,)

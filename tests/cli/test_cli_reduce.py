"""``tofe-edge reduce`` and what the other commands make of its checkpoints."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from conftest import Program, document_of, flat, refusal, write_images
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_run import to_reduce

from tofe_edge.cli import main

BUDGET = ("--share", "0.8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with to_reduce(tmp_path_factory.mktemp("reduce")) as folder:
        yield folder


def call(folder: Path, *budget: object, **options: object) -> list[object]:
    given = {"weights": folder / "dense.safetensors", "images": folder / "images", "out": folder / "small.safetensors"}
    words = [word for key, value in {**given, **options}.items() for word in (f"--{key}", value)]
    return ["reduce", *words, *budget]


@pytest.fixture(scope="module")
def small(folder: Path) -> Path:
    """A reduced checkpoint."""
    assert main([str(word) for word in call(folder, *BUDGET, out=folder / "made.safetensors")]) == 0
    return folder / "made.safetensors"


def test_it_says_what_it_found(folder: Path, program: Program) -> None:
    code, out, _ = program(*call(folder, *BUDGET, "--elastic", "0.0019"))
    assert code == 0
    for text in (
        "plans tried",
        "64 images, judged on 16 others",
        "without resemblance",
        "agrees with dense",
        "small.safetensors",
    ):
        assert text in flat(out)
    assert "0.0019 GMACs" in out


def test_the_document(folder: Path, program: Program) -> None:
    code, out, _ = program(*call(folder, "--target-gmacs", "0.002"), "--json")
    document = json.loads(out)
    assert code == 0 and document["checkpoint"] == str(folder / "small.safetensors")
    assert document["gmacs"] <= 0.002 < document["dense_gmacs"]
    assert document.keys() >= {"stages", "outcomes", "without", "fitted_to", "judged_on", "plans", "seed"}


def with_nan(folder: Path) -> list[object]:
    weights = load_file(folder / "dense.safetensors")
    weights["blocks.1.attn.qkv.weight"][3, 3] = torch.nan
    save_file(weights, folder / "nan.safetensors")
    return call(folder, *BUDGET, weights=folder / "nan.safetensors")


def with_five(folder: Path) -> list[object]:
    return call(folder, *BUDGET, images=write_images(folder / "five", 5, ["0"]))


def with_one_colour(folder: Path) -> list[object]:
    (folder / "plain").mkdir(exist_ok=True)
    for number in range(70):
        Image.new("RGB", (64, 64), (number, 90, 200)).save(folder / "plain" / f"{number}.png")
    return call(folder, *BUDGET, images=folder / "plain")


def with_text(folder: Path) -> list[object]:
    (folder / "text.txt").write_text("no image")
    return call(folder, *BUDGET, images=folder / "text.txt")


def onto_itself(folder: Path) -> list[object]:
    return call(folder, *BUDGET, out=folder / "dense.safetensors")


BAD: dict[str, tuple[Callable[[Path], list[object]], str]] = {
    "NaN weights": (with_nan, "blocks.1.attn.qkv.weight holds NaN"),
    "five images": (with_five, "5 images; selectors need at least 64"),
    "images of one colour": (with_one_colour, "70 more are of one colour"),
    "images are a text file": (with_text, "text.txt"),
    "missing images": (lambda at: call(at, *BUDGET, images=at / "absent"), "absent"),
    "missing weights": (lambda at: call(at, *BUDGET, weights=at / "absent.pth"), "absent.pth"),
    "under the floor": (lambda at: call(at, "--share", "0.1"), "choose .* between them"),
    "above dense": (lambda at: call(at, "--target-gmacs", "1"), "choose .* between them"),
    "nearly the floor": (lambda at: call(at, "--share", "0.43"), "out of reach|between them"),
    "profile without limit": (lambda at: call(at, *BUDGET, "--profile", "raspberry_pi_5"), "--max-latency-ms"),
    "limit without profile": (lambda at: call(at, "--max-latency-ms", "5"), "--profile"),
    "no table of the net": (
        lambda at: call(at, "--max-latency-ms", "5", "--profile", "jetson_orin"),
        "latency table|not of",
    ),
    "out without suffix": (lambda at: call(at, *BUDGET, out=at / "small.pt"), "ends in .safetensors"),
    "out that cannot be written": (
        lambda at: call(at, *BUDGET, out=at / "dense.safetensors" / "small.safetensors"),
        "cannot be written",
    ),
    "out is the weights": (onto_itself, "is what the reduction starts from"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case: str, folder: Path, program: Program) -> None:
    make, message = BAD[case]
    words = make(folder)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert re.search(message, refusal(program, *words))
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@pytest.mark.parametrize("budget", [(*BUDGET, "--target-gmacs", "1"), (), ("--share", "0"), ("--share", "nan")])
def test_calls_that_the_parser_refuses(
    budget: tuple[str, ...], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in call(folder, *budget)])
    assert end.value.code == 2
    assert "tofe-edge reduce: error: " in capsys.readouterr().err.splitlines()[-1]


def test_convert_and_parity_of_a_reduced_net(small: Path, folder: Path, program: Program) -> None:
    out = folder / "converted"
    code, _, err = program("convert", "--checkpoint", small, "--precision", "fp32", "--out", out)
    assert code == 0, err
    (model,) = out.glob("*.pte")
    report = document_of(program, "parity", model, "--checkpoint", small, "--data", folder / "images")
    assert report["passed"]


def test_other_commands_read_it(small: Path, folder: Path, program: Program, tmp_path: Path) -> None:
    code, out, _ = program("checkpoints", small)
    assert (
        code == 0
        and "divergence" in flat(out)
        and "agreement" in flat(out)
        and "with the dense net's best class" in flat(out)
    )
    document = document_of(program, "checkpoints", small)
    assert document["accuracy"] is None and document["reduction"] == "merging"
    assert document["training"]["reduced"]["judged_on"] == 16
    code, out, _ = program("evaluate", small, "--data", folder / "images", "--limit", "4")
    assert code == 0 and "top-1" in out
    image = folder / "images" / "0" / "0.png"
    code, out, err = program("tokens", small, "--image", image, "--html", tmp_path / "tokens.html")
    assert code == 0, err

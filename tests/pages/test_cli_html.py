"""``--html`` of ``convert`` and ``profile`` through the real program, and the latency tables on the page of ``convert``."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Program, refusal
from page_contents import Tags, convert_page, plain_manifest

from tofe_edge.budget.latency_model import shape_of
from tofe_edge.cli import main
from tofe_edge.cli.pages.convert import render, with_block_latency
from tofe_edge.model.backbones import create_backbone
from tofe_edge.model.checkpoint import Checkpoint
from tofe_edge.profiles import DeviceProfile, load_profile
from tofe_edge.profiles.latency import Anchor, LatencyTable

DEADLINE_SECONDS = 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("html")


@pytest.fixture(scope="module")
def converted(folder: Path, tiny_checkpoint: Checkpoint) -> Path:
    """A model that was converted with a page; stdout is JSON all the same."""
    done = subprocess.run(
        [sys.executable, "-m", "tofe_edge", "convert", "--checkpoint", str(tiny_checkpoint.path), "--precision", "int8",
         "--waive", "weights that were never trained", "--out", str(folder), "--html", str(folder / "made.html"), "--json"],
        capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return Path(json.loads(done.stdout)["artifact"])


def test_convert_writes_the_page_of_what_it_made(converted: Path, folder: Path) -> None:
    tags = Tags((folder / "made.html").read_text(encoding="utf-8"))
    for part in (
        converted.name, "Tokens per block", "What is computed", "Parity with the reference", "Time per stage",
        "Time per operator", "Histogram of latency", "50 runs", "with 1 thread", "Where rounding comes from",
    ):  # fmt: skip
        assert part in tags.text, part
    manifest = json.loads(converted.with_suffix(".json").read_text(encoding="utf-8"))
    assert manifest["sha256"] in tags.text
    assert all(layer in tags.text for layer in manifest["quantization"]["layers"])


def test_profile_writes_what_it_measured(converted: Path, folder: Path, program: Program) -> None:
    page = folder / "measured.html"
    document = json.loads(program("profile", converted, "--runs", 7, "--html", page, "--json")[1])
    tags = Tags(page.read_text(encoding="utf-8"))
    for part in (converted.name, "7 runs", f"{document['latency_ms']['p50']:.2f} ms", document["stages"][0]["name"]):
        assert part in tags.text, part
    assert "stage 3: 3 computed, 13 frozen" in tags.text


def test_profile_does_without_golden_vectors(converted: Path, tmp_path: Path) -> None:
    for file in (converted, converted.with_suffix(".json")):
        shutil.copy(file, tmp_path)
    page = tmp_path / "a page.html"
    assert main(["profile", str(tmp_path / converted.name), "--runs", "2", "--html", str(page)]) == 0
    assert "What is computed" not in Tags(page.read_text(encoding="utf-8")).text


@pytest.mark.parametrize(
    "place", ["", "tiny-int8.json", "tiny-int8.pte", "tiny-int8.golden/0.png", "../out/tiny-int8.json"]
)
def test_a_page_where_the_model_goes_is_refused_before_any_work(
    place: str, tmp_path: Path, weights: Path, program: Program
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    page = out / place
    given = ["convert", "--checkpoint", str(weights), "--precision", "int8", "--out", str(out)]
    error = refusal(program, *given, "--html", page)
    assert "--html" in error or "is a folder" in error
    assert list(out.iterdir()) == []


def test_every_latency_table_of_the_model_is_a_line_and_others_are_left_out(tiny_checkpoint: Checkpoint) -> None:
    backbone = create_backbone(tiny_checkpoint.backbone_name, tiny_checkpoint.overrides).spec
    page = replace(convert_page(plain_manifest(tiny_checkpoint)), block_ms={}, fitted_ms={})
    points = ((2, 0.1), (9, 0.4), (17, 0.9))
    table = LatencyTable(
        backbone=backbone.name, shape=shape_of(backbone), precision="fp32", threads=4, provenance="measured", source="a test",
        stem=0.5, selection=0.1, block=points, tail=points, approximator=points, dense=5.0, tofe=(Anchor((8, 4, 2), 3.0),),
    )  # fmt: skip

    def board(*tables: LatencyTable) -> DeviceProfile:
        return replace(load_profile("jetson_orin"), latency=tables)

    shown = with_block_latency(page, backbone, board(table, replace(table, precision="int8")))
    assert set(shown.block_ms) == set(shown.fitted_ms) == {"fp32", "int8"} and shown.block_ms["fp32"] == table.block
    assert [count for count, _ in shown.fitted_ms["fp32"]] == list(range(1, 18))
    assert dict(shown.fitted_ms["fp32"])[9] == pytest.approx(0.4)
    assert "3 token counts in fp32; 3 token counts in int8" in Tags(render(shown)).text

    larger = replace(page, manifest=replace(page.manifest, patch_tokens=25))
    assert with_block_latency(page, backbone, board(replace(table, backbone="another"))) == page
    assert with_block_latency(page, backbone, board()) == with_block_latency(page, backbone, None) == page
    assert with_block_latency(larger, backbone, board(table)) == larger

"""The check of a GPU, on the CPU: no minute on a GPU is lost to a defect of the script."""

import argparse
from pathlib import Path

import pytest
import torch
import yaml
from conftest import TINY

from benchmarks import gpu_check
from tofe_edge.errors import GateError

TINY_NET = "deit_tiny_patch16_224"


def call(out: Path, *words: str) -> argparse.Namespace:
    arguments = gpu_check.parser().parse_args(
        ["--out", str(out), "--device", "cpu", "--nets", TINY_NET, "--batches", "1,2", "--seconds", "0.01", *words]
    )
    arguments.overrides = TINY
    return arguments


def test_all_parts_are_measured_and_the_rest_of_the_time_is_training(
    tmp_path: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["--weights", "w", "--start", "s", "--data", str(image_folder), "--minutes", "2"]
    (tmp_path / "tofe_edge").mkdir()
    (tmp_path / "tofe_edge" / "__init__.py").touch()
    (tmp_path / "tofe_edge" / "__main__.py").write_text("import sys\nprint(' '.join(sys.argv), file=sys.stderr)")
    monkeypatch.chdir(tmp_path)  # what is found first is not the program
    path = gpu_check.run(call(tmp_path, *given), "command")
    found = yaml.safe_load(path.read_text())
    assert [list(row)[:3] for row in found["throughput"]] == [["net", "batch", "precision"]] * 4
    assert all(
        row[f"{key}_images_per_second"] > 0 for row in found["throughput"] for key in ("dense", "reduced", "step")
    )
    assert set(found["parity"]) == {f"{TINY_NET}, paper", f"{TINY_NET}, merging"}
    training = found["training"]
    assert training["finished"]
    assert f"--data {image_folder} --set epochs=" in training["log"] and "--set device=cpu" in training["log"]
    (tmp_path / "tofe_edge" / "__main__.py").write_text("import time\ntime.sleep(99)")
    ended = gpu_check.train(call(tmp_path, *given), 1.0, torch.device("cpu"), 1.0)
    assert not ended.finished and ended.seconds < 60


def test_a_device_that_differs_fails_the_check_and_its_figures_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = gpu_check.outputs
    turns = iter(range(9))
    monkeypatch.setattr(
        gpu_check, "outputs",
        lambda net, images: {name: value * (1 + next(turns) % 2 * 0.01) for name, value in list(own(net, images).items())[:1]},
    )  # fmt: skip
    with pytest.raises(GateError, match=r"dense differs from the CPU by 1\.0e-02"):
        gpu_check.run(call(tmp_path), "command")
    assert yaml.safe_load((tmp_path / "gpu.yaml").read_text())["throughput"]


def test_half_of_a_training_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_check.main(["--out", str(tmp_path), "--weights", "w", "--device", "cpu"]) == 2
    assert "give all of them for the training run, or none" in capsys.readouterr().err

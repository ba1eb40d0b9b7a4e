"""Whatever happens, the command line ends with one line and the right exit code."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from tofe_edge.cli import main, parse
from tofe_edge.cli.convert_options import Settings, settle
from tofe_edge.errors import InputError
from tofe_edge.io.artifact import manifest_path_of
from tofe_edge.model.backbones import create_host
from tofe_edge.model.checkpoint import Checkpoint
from tofe_edge.training.config import TrainingConfig


def only_line(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert captured.out == ""
    assert len(lines) == 1
    return lines[0]


def test_a_defect_is_one_line_and_not_a_failed_gate(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("some key")

    monkeypatch.setattr("tofe_edge.workflows.select.choose", broken)
    assert main(["select", "--max-gmacs", "1"]) == 3
    assert "internal error (KeyError: 'some key'); run again with --debug" in only_line(capsys)
    with pytest.raises(KeyError):
        main(["select", "--max-gmacs", "1", "--debug"])


@pytest.mark.parametrize("command", ["run", "checkpoints"])
def test_a_name_too_long_for_the_file_system_is_one_line(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    name = "x" * 300 + (".pte" if command == "run" else ".safetensors")
    assert main([command, name, *(["a.png"] if command == "run" else [])]) == 2
    assert only_line(capsys).startswith("tofe-edge: error:")


def settings(
    checkpoint: Checkpoint,
    target: Literal["executorch", "coreml"] = "executorch",
    precision: str = "int8",
    mode: Literal["dynamic", "static", "weights"] = "dynamic",
    profile: str | None = None,
) -> Settings:
    backend: Literal["xnnpack", "coreml"] = "coreml" if target == "coreml" else "xnnpack"
    return Settings(checkpoint, "", target, backend, precision, profile, mode, "topk", "iOS17")


def test_artifacts_that_differ_share_neither_name_nor_manifest(tiny_checkpoint: Checkpoint) -> None:
    targets = [["--target", "executorch"], ["--target", "coreml"], ["--target", "executorch", "--backend", "coreml"]]
    kinds = [["--precision", "fp32"], ["--precision", "int8"], ["--precision", "int8", "--int8-mode", "static"]]
    apple = [
        ["--io", "tensor"],
        ["--layout", "channels_first"],
        ["--deployment-target", "iOS16"],
        ["--float32-selectors"],
    ]
    calls = [[*target, *kind, *rest] for target in targets for kind in kinds for rest in ([], ["--image-size", "96"])]
    calls += [[*targets[1], "--precision", "fp16", *option] for option in ([], *apple)]
    for profile in ([], ["--profile", "iphone_15"], ["--profile", "jetson_orin"]):
        names = [
            settle(parse(["convert", "--checkpoint", str(tiny_checkpoint.path), *profile, *call])).file_name
            for call in calls
        ]
        manifests = {manifest_path_of(Path(name)) for name in names}
        assert len(manifests) == len(calls), sorted(names)
        suffixes = {Path(name).suffix for name, call in zip(names, calls) if call[1] == "coreml"}
        assert suffixes == {".mlpackage"}


@pytest.mark.parametrize("profile", ["iphone_15", "jetson_orin"])
def test_what_the_profile_asks_for_has_the_plain_name(tiny_checkpoint: Checkpoint, profile: str) -> None:
    call = ["convert", "--checkpoint", str(tiny_checkpoint.path), "--profile", profile]
    assert Path(settle(parse(call)).file_name).stem == f"tiny-{profile}-int8"


def test_nothing_in_a_checkpoints_name_can_leave_the_output_folder(tiny_checkpoint: Checkpoint) -> None:
    from dataclasses import replace

    hostile = replace(tiny_checkpoint, name="../../etc/$(reboot) \n; x" + "y" * 300)
    name = settings(hostile).file_name
    assert Path(name).name == name
    assert len(name) <= 160
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")


@pytest.mark.parametrize(
    "option", [{"seed": -1}, {"epochs": float("inf")}, {"fixed_epochs": float("nan")}, {"budget_weight": -1.0}]
)
def test_hyper_parameters_out_of_range_are_refused_by_name(option: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(option))):
        TrainingConfig(target_gmacs=0.6, **option)  # type: ignore[arg-type]


def test_a_net_without_a_classifier_is_refused() -> None:
    with pytest.raises(InputError, match="no classifier head"):
        create_host("vit_small_patch14_reg4_dinov2", {"image_size": 56, "depth": 4, "dim": 48, "heads": 3})

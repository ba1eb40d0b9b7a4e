"""Whatever happens, the command line ends with one line and the right exit code."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Program, refusal

from tofe_edge.errors import InputError
from tofe_edge.io.artifact import manifest_path_of
from tofe_edge.io.targets import target_names
from tofe_edge.model.backbones import create_backbone
from tofe_edge.model.checkpoint import Checkpoint
from tofe_edge.workflows.convert import ConvertOptions, resolve_options


def test_a_defect_is_one_line_and_not_a_failed_gate(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("some key")

    monkeypatch.setattr("tofe_edge.workflows.select.choose", broken)
    code, out, err = program("select", "--max-gmacs", "1")
    assert (code, out) == (3, "") and err.count("\n") == 1
    assert "internal error (KeyError: 'some key'); run again with --debug" in err
    with pytest.raises(KeyError):
        program("select", "--max-gmacs", "1", "--debug")


@pytest.mark.parametrize("call", [("run", "x" * 300 + ".pte", "a.png"), ("checkpoints", "x" * 300 + ".safetensors")])
def test_a_name_too_long_for_the_file_system_is_one_line(call: tuple[str, ...], program: Program) -> None:
    assert refusal(program, *call)


def planned(checkpoint: Checkpoint, **options: Any) -> str:
    """The name of the artifact that these options ask for."""
    return resolve_options(ConvertOptions(checkpoint=checkpoint, **options)).path.name


def test_artifacts_that_differ_share_neither_name_nor_manifest(tiny_checkpoint: Checkpoint) -> None:
    kinds: list[dict[str, Any]] = [
        {"precision": "fp32"},
        {"precision": "int8"},
        {"precision": "int8", "int8_mode": "static"},
    ]
    apple = [{}, {"io": "tensor"}, {"deployment_target": "iOS16"}, {"float32_selectors": "true"}]
    calls = [
        {"target": target, **kind, **rest}
        for target in target_names()
        for kind in kinds
        for rest in ({}, {"image_size": 96})
    ]
    calls += [{"target": "coreml", "precision": "fp16", "options": options} for options in apple]
    for profile in (None, "iphone_15", "jetson_orin"):
        names = [Path(planned(tiny_checkpoint, profile=profile, **call)) for call in calls]
        assert len({manifest_path_of(name) for name in names}) == len(calls), sorted(names)
        assert {name.suffix for name, call in zip(names, calls) if call["target"] == "coreml"} == {".mlpackage"}


@pytest.mark.parametrize("profile", ["iphone_15", "jetson_orin"])
def test_what_the_profile_asks_for_has_the_plain_name(tiny_checkpoint: Checkpoint, profile: str) -> None:
    assert Path(planned(tiny_checkpoint, profile=profile)).stem == f"tiny-{profile}-int8"


def test_nothing_in_a_checkpoints_name_can_leave_the_output_folder(tiny_checkpoint: Checkpoint) -> None:
    name = planned(replace(tiny_checkpoint, name="../../etc/$(reboot) \n; x" + "y" * 300))
    assert len(name) <= 160
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")


def test_a_net_without_a_classifier_is_refused() -> None:
    with pytest.raises(InputError, match="no classifier head"):
        create_backbone("vit_small_patch14_reg4_dinov2", {"image_size": 56, "depth": 4, "dim": 48, "heads": 3})

"""``--reproducible``: what it may be asked with, and what the artifact says of itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import manifest_for

from tofe_edge.cli import main
from tofe_edge.converters.request import ConvertRequest
from tofe_edge.errors import InputError
from tofe_edge.io.artifact import Manifest, open_artifact
from tofe_edge.io.targets import find_target
from tofe_edge.model.checkpoint import Checkpoint


def request(checkpoint: Checkpoint, precision: str) -> ConvertRequest:
    return ConvertRequest(checkpoint, find_target("executorch"), precision, None, "tiny.pte", reproducible=True)


def test_fp32_and_static_int8_may_be_reproducible(tiny_checkpoint: Checkpoint) -> None:
    for wanted in (request(tiny_checkpoint, "fp32"), replace(request(tiny_checkpoint, "int8"), int8_mode="static")):
        assert wanted.check() is wanted


def test_dynamic_int8_and_core_ml_may_not(tiny_checkpoint: Checkpoint) -> None:
    coreml = find_target("coreml")
    with pytest.raises(InputError, match=r"--reproducible: .*dynamic int8.*; use --int8-mode static"):
        request(tiny_checkpoint, "int8").check()
    with pytest.raises(InputError, match=r"--reproducible: Core ML .*; use XNNPACK"):
        replace(request(tiny_checkpoint, "fp32"), target=coreml, options=coreml.options_from({})).check()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "static int8 needs calibration images; give a folder with --calibration"),
        (["--int8-mode", "dynamic"], "use --int8-mode static"),
        (["--target", "coreml"], "use XNNPACK"),
    ],
)
def test_a_wrong_call_says_what_to_do(
    tiny_checkpoint: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: Sequence[str], said: str
) -> None:
    call = ["convert", "--checkpoint", str(tiny_checkpoint.path), "--reproducible", *options, "--out", str(tmp_path)]
    assert main(call) == 2
    message = capsys.readouterr().err
    assert said in message and message.count("\n") == 1
    assert not list(tmp_path.iterdir())


def convert(checkpoint: Checkpoint, out: Path, *options: object) -> Path:
    assert main(["convert", "--checkpoint", str(checkpoint.path), *map(str, options), "--out", str(out)]) == 0
    (model,) = out.glob("*.pte")
    return model


def test_the_artifact_says_that_it_is_reproducible(
    tiny_checkpoint: Checkpoint, image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = convert(tiny_checkpoint, tmp_path, "--reproducible", "--calibration", image_folder)
    manifest = open_artifact(model).manifest
    assert model.name == f"{tiny_checkpoint.name}-int8_static-reproducible.pte"
    assert (manifest.reproducible, manifest.precision, manifest.int8_mode) == (True, "int8", "static")
    assert manifest.parity is not None and manifest.parity["passed"]
    assert main(["run", str(model), "--self-test"]) == 0


def edited(checkpoint: Checkpoint, edit: Callable[[dict[str, object]], object]) -> Manifest:
    document = json.loads(json.dumps(manifest_for(checkpoint, "tiny.pte", b"").to_json()))
    edit(document)
    return Manifest.from_json(document)


def test_a_manifest_has_the_key_where_it_is_true(tiny_checkpoint: Checkpoint) -> None:
    plain = manifest_for(tiny_checkpoint, "tiny.pte", b"")
    assert "reproducible" not in plain.to_json() and edited(tiny_checkpoint, lambda document: None) == plain
    marked = edited(tiny_checkpoint, lambda document: document.update(reproducible=True))
    assert marked == replace(plain, reproducible=True) and marked.to_json()["reproducible"] is True


@pytest.mark.parametrize("value", [None, 1, "yes", []], ids=str)
def test_anything_but_true_or_false_is_refused(tiny_checkpoint: Checkpoint, value: object) -> None:
    with pytest.raises(InputError, match="manifest key 'reproducible' has the wrong type"):
        edited(tiny_checkpoint, lambda document: document.update(reproducible=value))

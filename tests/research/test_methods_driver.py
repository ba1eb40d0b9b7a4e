"""The comparison of methods end to end on a tiny net: rows, tables, settings, and refusals."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import TINY, tiny_tofe
from peer_nets import TARGET, tiny_teacher
from safetensors.torch import save_file

from research import compare_methods
from research.training import Fit, fit
from tofe_edge.model.backbones import create_backbone

IDS = [str(number) for number in range(10)]
CPU = torch.device("cpu")

Compare = Callable[..., int]
"""``compare(*options)``: the exit code; results go to ``methods.yaml``."""


@pytest.fixture
def compare(tmp_path: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Compare:
    weights = tmp_path / "tiny.safetensors"
    save_file(tiny_teacher().backbone.vit.state_dict(), weights)  # type: ignore[union-attr,operator]
    monkeypatch.setattr(
        compare_methods, "create_backbone", lambda name, stages: create_backbone(name, TINY, stages=stages)
    )
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)

    def run(*options: str) -> int:
        words = f"--weights {weights} --data {image_folder} --set held_out=0"
        words += f" --validation {image_folder} --target-gmacs {TARGET} --set batch_size=4 --steps 4"
        return compare_methods.main([*words.split(), "--out", str(tmp_path / "methods.yaml"), *options])

    return run


def document(folder: Path) -> dict[str, Any]:
    text = (folder / "methods.yaml").read_text()
    assert str(folder) not in text
    read: dict[str, Any] = yaml.safe_load(text)
    return read


def test_methods_give_rows(compare: Compare, tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = "tofe,evit,tome_untrained,random,resolution"
    assert compare("--methods", names, "--checkpoint", str(weights)) == 0
    rows = document(tmp_path)["methods"]
    assert list(rows) == ["dense", "tiny", *names.split(",")]
    trained = {name: (row["trained"], row["steps"], row["images_seen"]) for name, row in rows.items()}
    assert trained["tofe"] == trained["resolution"] == ("yes", 4, 16)
    assert trained["tome_untrained"] == ("no", 0, 0) and trained["tiny"] == ("elsewhere", 0, 0)
    dense = rows["dense"]
    assert dense["difference"] == dense["lost"] == dense["gained"] == 0 and dense["mid_p"] == 1
    for row in rows.values():
        low, high = row["top1_interval"]
        assert 0 <= low <= row["top1"] <= high <= 100 and 0 < row["gmacs"] < 0.003
        assert row["difference"] == pytest.approx(row["top1"] - dense["top1"], abs=0.011)
    assert document(tmp_path)["to_tofe"]["method"] == "tofe"
    assert "| tome_untrained" in capsys.readouterr().out


def test_an_interrupted_comparison_goes_on(compare: Compare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fit

    def cut(method: Any, *arguments: Any) -> Fit:
        if type(method).__name__ == "ToMe":
            raise KeyboardInterrupt
        return whole(method, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(compare_methods, "fit", cut)
        with pytest.raises(KeyboardInterrupt):
            compare("--methods", "evit,tome")
    first = document(tmp_path)["methods"]
    assert list(first) == ["dense", "evit"]
    assert compare("--methods", "tome") == 0
    rows = document(tmp_path)["methods"]
    assert list(rows) == ["dense", "evit", "tome"] and rows["evit"] == first["evit"]
    calls = document(tmp_path)["calls"]
    assert [call["command"].split(" --methods ")[1] for call in calls] == ["evit,tome", "tome"]
    assert (rows["evit"]["call"], rows["tome"]["call"]) == (0, 1)
    assert all({"date", "command", "threads", "host", "versions"} == set(call) for call in calls)
    assert compare("--methods", "tome") == 0
    assert document(tmp_path)["calls"] == calls


def test_weights_and_images_that_were_tested_are_settings(
    compare: Compare, tmp_path: Path, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare("--methods", "evit_untrained") == 0
    settings = document(tmp_path)["settings"]
    weights = tmp_path / "tiny.safetensors"
    assert settings["weights_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()[:16]
    assert settings["selections"] == [1, 2, 3]
    assert settings["validation_images"] == 6 and "validation_unreadable" not in settings
    (image_folder / "1" / "2.png").write_bytes(b"no image")
    assert compare("--methods", "evit_untrained") == 2
    assert "has results with another validation_images, validation_unreadable; use" in capsys.readouterr().err
    (tmp_path / "methods.yaml").unlink()
    assert compare("--methods", "evit_untrained") == 0
    settings = document(tmp_path)["settings"]
    assert (settings["validation_images"], settings["validation_unreadable"]) == (5, 1)
    save_file(tiny_tofe(seed=1).backbone.vit.state_dict(), weights)  # type: ignore[union-attr,operator]
    assert compare("--methods", "tome_untrained") == 2
    assert "has results with another weights_sha256; use" in capsys.readouterr().err
    (tmp_path / "methods.yaml").write_text("[]")
    assert compare("--methods", "tome_untrained") == 2
    assert "is not a result of research.compare_methods" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--methods", "evitt"], "'evitt' is unknown"),
        ([], "nothing to compare"),
        (["--methods", "evit", "--steps", "0"], "--steps 0: is at least 1"),
        (["--methods", "evit", "--selecting-share", "1"], "--selecting-share 1: is in [0, 1)"),
        (["--methods", "evit", "--target-gmacs", "0.5"], "out of reach"),
        (["--checkpoint", "nothing"], "nothing"),
    ],
)
def test_wrong_calls(compare: Compare, options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(*options) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and message in error

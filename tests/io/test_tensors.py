"""State dicts are read, and nothing in a pickle runs."""

import argparse
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import refused
from safetensors.torch import save_file

from tofe_edge.errors import InputError
from tofe_edge.io.tensors import is_averaged, must_be_finite, read_state_dict, read_tensors

SUFFIXES = [".pth", ".pt", ".bin", ".ckpt", ".pth.tar", ".PTH", "", ".safetensors"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("wrapper", [None, "model", "state_dict", "model_state_dict", "weights_of_mine"])
def test_a_pickled_state_dict_may_have_a_wrapper(tmp_path: Path, suffix: str, wrapper: str | None) -> None:
    weights = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(1)}
    path = tmp_path / f"weights{suffix}"
    torch.save({wrapper: weights, "epoch": 3} if wrapper else weights, path)
    found = read_tensors(path)
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[key], weights[key]) for key in weights)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_safetensors_may_have_any_suffix(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    save_file({"a": torch.ones(2)}, tmp_path / "own")
    (tmp_path / "own").rename(path)
    assert torch.equal(read_tensors(path)["a"], torch.ones(2))


RAW, AVERAGED = {"a": torch.zeros(2)}, {"a": torch.ones(2)}


@pytest.mark.parametrize(
    ("content", "key", "passed_over"),
    [
        ({"model": RAW, "model_ema": AVERAGED}, "model_ema", ("model",)),
        ({"state_dict": RAW, "state_dict_ema": AVERAGED, "epoch": 3}, "state_dict_ema", ("state_dict",)),
        ({"student": RAW, "teacher": AVERAGED}, "teacher", ("student",)),
        ({"model_state": {"model": AVERAGED}, "optimizer": {"state": {}}}, "model_state.model", ()),
        ({"state_dict": AVERAGED, "optimizer": {"momentum": RAW}}, "state_dict", ()),
    ],
)
def test_averaged_weights_come_first(tmp_path: Path, content: Any, key: str, passed_over: tuple[str, ...]) -> None:
    torch.save(content, tmp_path / "weights.pth")
    found = read_state_dict(tmp_path / "weights.pth")
    assert torch.equal(found.tensors["a"], torch.ones(2))
    assert (found.key, found.passed_over) == (key, passed_over)
    assert is_averaged(found.key) == bool(passed_over)


def test_what_training_programs_keep_beside_weights_is_read_past(tmp_path: Path) -> None:
    torch.save({"model": AVERAGED, "args": argparse.Namespace(lr=0.1), "epoch": 1}, tmp_path / "deit.pth")
    assert read_state_dict(tmp_path / "deit.pth").key == "model"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 22\n", "git-lfs pointer, .*git lfs pull"),
        (b"<!DOCTYPE html>\n<html><body>Sign in</body></html>", "is a web page, not weights"),
        (b"\n  <html lang='en'>", "is a web page, not weights"),
        (b"", "is damaged"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ""])
def test_what_is_no_weights_is_called_by_its_name(tmp_path: Path, content: bytes, message: str, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    assert re.search(message, refused(path, lambda: read_tensors(path)))


@pytest.mark.parametrize(("value", "what"), [(torch.nan, "NaN"), (torch.inf, "infinity"), (-torch.inf, "infinity")])
def test_a_tensor_that_is_not_finite_is_named(value: float, what: str) -> None:
    weights = {"good": torch.ones(3), "count": torch.tensor(3), "blocks.1.bias": torch.tensor([1.0, value])}
    with pytest.raises(InputError, match=f"blocks.1.bias holds {what}"):
        must_be_finite(weights)


@pytest.mark.parametrize("content", [[torch.zeros(1)], {"model": [1, 2]}, {"epoch": 3}, torch.zeros(2), 7])
def test_a_pickle_of_something_else_is_no_state_dict(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    assert "holds no state dict" in refused(path, lambda: read_tensors(path))


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrap", [lambda bad: bad, lambda bad: {"model": {"x": torch.zeros(1), "y": bad}}])
def test_a_malicious_pickle_is_refused_and_not_run(tmp_path: Path, zipped: bool, wrap: Callable[[Any], Any]) -> None:
    target, path = tmp_path / "pwned", tmp_path / "weights.pth"
    torch.save(wrap(Malicious(target)), path, _use_new_zipfile_serialization=zipped)
    refused(path, lambda: read_tensors(path))
    assert not target.exists()
    torch.load(path, weights_only=False)
    assert target.exists(), "the pickle must be one that would have run"

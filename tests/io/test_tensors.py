"""State dicts are read, and nothing in a pickle runs."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import refused

from tofe_edge.io.tensors import read_tensors


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
def test_a_pickled_state_dict_may_have_a_wrapper(tmp_path: Path, suffix: str, wrapper: str | None) -> None:
    weights = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(1)}
    path = tmp_path / f"weights{suffix}"
    torch.save({wrapper: weights, "epoch": 3} if wrapper else weights, path)
    found = read_tensors(path)
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[key], weights[key]) for key in weights)


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

"""The state of an interrupted run: what is refused, and what a full disk leaves behind."""

from __future__ import annotations

import errno
import math
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY

from tofe_edge.budget.cost import GmacsCost
from tofe_edge.errors import InputError
from tofe_edge.model.backbones import TokenCounts, create_host
from tofe_edge.model.checkpoint import Checkpoint, save
from tofe_edge.model.tofe import ToFe
from tofe_edge.training import state
from tofe_edge.training.batches import Source, TrainingSet
from tofe_edge.training.config import TrainingConfig
from tofe_edge.training.schedule import make_optimizer
from tofe_edge.training.trainer import train

CPU = torch.device("cpu")
COST = GmacsCost(create_host("deit_tiny_patch16_224", TINY).spec, 0.0017)
SHORT = TrainingConfig(target_gmacs=0.0017, epochs=1, fixed_epochs=0.5, batch_size=2, held_out=0)
ORIGIN = {"weights": "w", "start": "s", "images": "i", "selections": "1,2,3"}


@pytest.fixture
def data(image_folder: Path) -> TrainingSet:
    return TrainingSet.find([Source(image_folder)], [str(number) for number in range(10)], 0, 0)


def weights_of(model: ToFe) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


@contextmanager
def nearly_full_disk(bytes_left: int) -> Iterator[None]:
    """Let the operating system refuse files over ``bytes_left``: the writers see it as they see a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_left, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_while_saving_is_an_error_and_the_old_state_survives(
    tmp_path: Path, tiny_tofe: Callable[..., ToFe]
) -> None:
    path, model = tmp_path / "net.state", tiny_tofe()
    optimizer = make_optimizer(model, SHORT)
    state.save_state(path, model, optimizer, SHORT, state.Progress(3, 1), ORIGIN)
    with nearly_full_disk(20_000), pytest.raises(InputError, match=r"net\.state: cannot be written"):
        state.save_state(path, model, optimizer, SHORT, state.Progress(4, 1), ORIGIN)
    assert state.load_state(path, model, optimizer, SHORT, ORIGIN) == state.Progress(3, 1)
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.state"]


def test_a_disk_that_python_finds_full_leaves_the_old_state(
    tmp_path: Path, tiny_tofe: Callable[..., ToFe], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(content: Any, path: Path) -> None:
        path.write_bytes(b"a part of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path, model = tmp_path / "net.state", tiny_tofe()
    optimizer = make_optimizer(model, SHORT)
    state.save_state(path, model, optimizer, SHORT, state.Progress(3, 1), ORIGIN)
    monkeypatch.setattr(torch, "save", no_space)
    with pytest.raises(InputError, match="No space left on device"):
        state.save_state(path, model, optimizer, SHORT, state.Progress(4, 1), ORIGIN)
    assert state.load_state(path, model, optimizer, SHORT, ORIGIN) == state.Progress(3, 1)


def test_a_full_disk_while_training_is_an_error(
    tmp_path: Path, tiny_tofe: Callable[..., ToFe], data: TrainingSet
) -> None:
    out = tmp_path / "net.safetensors"
    with nearly_full_disk(20_000), pytest.raises(InputError, match="cannot be written"):
        train(tiny_tofe(), data, SHORT, COST, out, CPU)
    assert not out.with_suffix(".state").exists()


def test_a_log_that_cannot_be_written_is_an_error(
    tmp_path: Path, tiny_tofe: Callable[..., ToFe], data: TrainingSet
) -> None:
    (tmp_path / "net.log.jsonl").mkdir()
    with pytest.raises(InputError, match=r"net\.log\.jsonl: cannot be written"):
        train(tiny_tofe(), data, SHORT, COST, tmp_path / "net.safetensors", CPU)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"learning_rate": 0.1}, "another learning_rate;"),
        ({"seed": 5, "batch_size": 4}, "another batch_size, seed;"),
        ({"budget": "per_batch"}, "another budget;"),
    ],
)
def test_a_state_of_another_configuration_is_refused_naming_the_option(
    tmp_path: Path, tiny_tofe: Callable[..., ToFe], changes: dict[str, Any], named: str
) -> None:
    path, model = tmp_path / "net.state", tiny_tofe()
    optimizer = make_optimizer(model, SHORT)
    state.save_state(path, model, optimizer, SHORT, state.Progress(3, 0), ORIGIN)
    before = weights_of(model)
    with pytest.raises(InputError, match=named):
        state.load_state(path, model, optimizer, replace(SHORT, **changes), ORIGIN)
    after = model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_a_state_of_another_net_is_refused(tmp_path: Path, tiny_tofe: Callable[..., ToFe]) -> None:
    path, model, other = tmp_path / "net.state", tiny_tofe(), tiny_tofe(dim=24)
    state.save_state(path, model, make_optimizer(model, SHORT), SHORT, state.Progress(3, 0), ORIGIN)
    with pytest.raises(InputError, match="belongs to another net"):
        state.load_state(path, other, make_optimizer(other, SHORT), SHORT, ORIGIN)


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "list"])
def test_a_damaged_state_is_refused_and_says_what_to_do(
    tmp_path: Path, tiny_tofe: Callable[..., ToFe], data: TrainingSet, damage: str
) -> None:
    out, model = tmp_path / "net.safetensors", tiny_tofe()
    path = out.with_suffix(".state")
    state.save_state(path, model, make_optimizer(model, SHORT), SHORT, state.Progress(3, 0), ORIGIN)
    content = path.read_bytes()
    path.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "text": b"hello"}.get(damage, b""))
    if damage == "list":
        torch.save([1, 2], path)
    with pytest.raises(InputError, match=r"net\.state: cannot be read as a training state .* delete it to start anew"):
        train(tiny_tofe(), data, SHORT, COST, out, CPU)


@pytest.mark.parametrize(
    "damage", [{"optimizer": {}}, {"config": "[]"}, {"model": []}, {"model": {1: 2}}, {"step": math.inf}], ids=str
)
def test_a_state_with_odd_contents_is_refused_and_says_what_to_do(
    tmp_path: Path, tiny_tofe: Callable[..., ToFe], damage: dict[str, Any]
) -> None:
    path, model = tmp_path / "net.state", tiny_tofe()
    optimizer = make_optimizer(model, SHORT)
    state.save_state(path, model, optimizer, SHORT, state.Progress(3, 0), ORIGIN)
    torch.save({**torch.load(path, weights_only=True), **damage}, path)
    with pytest.raises(InputError, match=r"net\.state: .* delete it to start anew"):
        state.load_state(path, model, optimizer, SHORT, ORIGIN)


def test_a_full_disk_while_writing_a_checkpoint_is_an_error_and_leaves_nothing(
    tmp_path: Path, tiny_tofe: Callable[..., ToFe], tiny_checkpoint: Checkpoint
) -> None:
    with nearly_full_disk(20_000), pytest.raises(InputError, match=r"net\.safetensors: cannot be written"):
        save(tmp_path / "net.safetensors", tiny_tofe(), tiny_checkpoint)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["weights", "start", "images", "selections"])
def test_a_state_of_another_origin_is_refused(tmp_path: Path, tiny_tofe: Callable[..., ToFe], what: str) -> None:
    path, model = tmp_path / "net.state", tiny_tofe()
    optimizer = make_optimizer(model, SHORT)
    state.save_state(path, model, optimizer, SHORT, state.Progress(3, 0), ORIGIN)
    with pytest.raises(InputError, match=f"belongs to a run with other {what}; use another --out"):
        state.load_state(path, model, optimizer, SHORT, {**ORIGIN, what: "another"})


def test_an_option_that_is_left_out_is_a_change_too(tmp_path: Path, tiny_tofe: Callable[..., ToFe]) -> None:
    path, model = tmp_path / "net.state", tiny_tofe()
    optimizer, given = make_optimizer(model, SHORT), replace(SHORT, gathered_epochs=0.5, token_counts="9,5,3")
    state.save_state(path, model, optimizer, given, state.Progress(3, 0, TokenCounts((9, 5, 3))), ORIGIN)
    assert state.load_state(path, model, optimizer, given, ORIGIN).counts == TokenCounts((9, 5, 3))
    with pytest.raises(InputError, match="another token_counts"):
        state.check_state(path, replace(given, token_counts=None))


def test_a_run_with_other_images_does_not_go_on_from_the_state(
    tmp_path: Path, data: TrainingSet, tiny_tofe: Callable[..., ToFe]
) -> None:
    out = tmp_path / "net.safetensors"
    train(tiny_tofe(), data, SHORT, COST, out, CPU)
    with pytest.raises(InputError, match="other images"):
        train(tiny_tofe(), replace(data, train=data.train[1:]), SHORT, COST, out, CPU)


def test_a_run_that_selects_elsewhere_does_not_go_on_from_the_state(
    tmp_path: Path, data: TrainingSet, tiny_tofe: Callable[..., ToFe]
) -> None:
    out, moved = tmp_path / "net.safetensors", tiny_tofe(depth=5)
    train(tiny_tofe(depth=5), data, SHORT, COST, out, CPU)
    moved.backbone.spec = replace(moved.backbone.spec, stages=(1, 3, 4))
    with pytest.raises(InputError, match="other selections"):
        train(moved, data, SHORT, COST, out, CPU)


def test_a_run_that_diverges_says_so_and_keeps_no_state(
    tmp_path: Path, data: TrainingSet, tiny_tofe: Callable[..., ToFe]
) -> None:
    wild = replace(SHORT, epochs=4, fixed_epochs=0, learning_rate=1e30, backbone_learning_rate=1e30)
    with pytest.raises(InputError, match=r"the loss is .* at step \d+; lower learning_rate"):
        train(tiny_tofe(), data, wild, COST, tmp_path / "net.safetensors", CPU)
    assert not (tmp_path / "net.state").exists()

"""The state of an interrupted run: what is refused, and what a full disk leaves behind."""

import errno
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY, nearly_full_disk, tiny_tofe

from tofe_edge.budget.cost import GmacsCost
from tofe_edge.errors import InputError
from tofe_edge.model.backbones import TokenCounts, create_backbone
from tofe_edge.model.checkpoint import Checkpoint, save
from tofe_edge.model.tofe import ToFe
from tofe_edge.training import state
from tofe_edge.training.batches import Source, TrainingSet
from tofe_edge.training.recipe import TrainingConfig
from tofe_edge.training.running import Running
from tofe_edge.training.schedule import make_optimizer
from tofe_edge.training.state import Progress
from tofe_edge.training.trainer import train

CPU = Running(torch.device("cpu"))
COST = GmacsCost(create_backbone("deit_tiny_patch16_224", TINY).spec, 0.0017)
SHORT = TrainingConfig(target_gmacs=0.0017, epochs=1, fixed_epochs=0.5, batch_size=2, held_out=0)
ORIGIN = {"weights": "w", "start": "s", "images": "i", "selections": "1,2,3"}


@dataclass(frozen=True)
class Saved:
    """A net whose state is at ``path``."""

    path: Path
    model: ToFe

    def save(self, progress: Progress, config: TrainingConfig = SHORT) -> None:
        state.save_state(self.path, self.model, make_optimizer(self.model, config), config, progress, ORIGIN)

    def load(self, config: TrainingConfig = SHORT, **origin: str) -> Progress:
        return state.load_state(self.path, self.model, make_optimizer(self.model, config), config, {**ORIGIN, **origin})


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    made = Saved(tmp_path / "net.state", tiny_tofe())
    made.save(Progress(3, 1))
    return made


@pytest.fixture
def data(image_folder: Path) -> TrainingSet:
    return TrainingSet.find([Source(image_folder)], [str(number) for number in range(10)], 0, 0)


def test_a_full_disk_leaves_the_old_state(saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(content: Any, path: Path) -> None:
        path.write_bytes(b"a part of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with nearly_full_disk(20_000), pytest.raises(InputError, match=r"net\.state: cannot be written"):
        saved.save(Progress(4, 1))
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", no_space)
        with pytest.raises(InputError, match="No space left on device"):
            saved.save(Progress(4, 1))
    assert saved.load() == Progress(3, 1)
    assert [entry.name for entry in saved.path.parent.iterdir()] == ["net.state"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"learning_rate": 0.1}, "another learning_rate;"),
        ({"seed": 5, "batch_size": 4}, "another batch_size, seed;"),
        ({"budget": "per_batch"}, "another budget;"),
    ],
)
def test_a_state_of_another_configuration_is_refused(saved: Saved, changes: dict[str, Any], named: str) -> None:
    before = {key: value.clone() for key, value in saved.model.state_dict().items()}
    with pytest.raises(InputError, match=named):
        saved.load(replace(SHORT, **changes))
    assert all(torch.equal(saved.model.state_dict()[key], value) for key, value in before.items())


def test_a_state_of_another_net_or_origin_is_refused(saved: Saved) -> None:
    with pytest.raises(InputError, match="belongs to another net"):
        Saved(saved.path, tiny_tofe(dim=24)).load()
    for what in ORIGIN:
        with pytest.raises(InputError, match=f"belongs to a run with other {what}; use another --out"):
            saved.load(SHORT, **{what: "another"})


@pytest.mark.parametrize("damage", ["cut", b"", b"hello", [1, 2]], ids=str)
def test_a_damaged_state_is_refused_and_says_what_to_do(saved: Saved, data: TrainingSet, damage: Any) -> None:
    if isinstance(damage, list):
        torch.save(damage, saved.path)
    else:
        content = saved.path.read_bytes()
        saved.path.write_bytes(content[: len(content) // 2] if damage == "cut" else damage)
    with pytest.raises(InputError, match=r"net\.state: cannot be read as a training state .* delete it to start anew"):
        train(tiny_tofe(), data, SHORT, COST, saved.path.with_suffix(".safetensors"), CPU)


@pytest.mark.parametrize(
    "damage", [{"optimizer": {}}, {"config": "[]"}, {"model": []}, {"model": {1: 2}}, {"step": math.inf}], ids=str
)
def test_a_state_with_odd_contents_is_refused_and_says_what_to_do(saved: Saved, damage: dict[str, Any]) -> None:
    torch.save({**torch.load(saved.path, weights_only=True), **damage}, saved.path)
    with pytest.raises(InputError, match=r"net\.state: .* delete it to start anew"):
        saved.load()


def test_a_full_disk_leaves_no_part_of_a_checkpoint(tmp_path: Path, tiny_checkpoint: Checkpoint) -> None:
    with nearly_full_disk(20_000), pytest.raises(InputError, match=r"net\.safetensors: cannot be written"):
        save(tmp_path / "net.safetensors", tiny_tofe(), tiny_checkpoint)
    assert list(tmp_path.iterdir()) == []


def test_an_option_that_is_left_out_is_a_change_too(saved: Saved) -> None:
    given = replace(SHORT, gathered_epochs=0.5, token_counts="9,5,3")
    saved.save(Progress(3, 0, TokenCounts((9, 5, 3))), given)
    assert saved.load(given).counts == TokenCounts((9, 5, 3))
    with pytest.raises(InputError, match="another token_counts"):
        state.check_state(saved.path, replace(given, token_counts=None))


def test_a_run_with_other_images_or_selections_does_not_go_on_from_the_state(tmp_path: Path, data: TrainingSet) -> None:
    out, moved = tmp_path / "net.safetensors", tiny_tofe(depth=5)
    train(tiny_tofe(depth=5), data, SHORT, COST, out, CPU)
    with pytest.raises(InputError, match="other images"):
        train(tiny_tofe(depth=5), replace(data, train=data.train[1:]), SHORT, COST, out, CPU)
    moved.backbone.spec = replace(moved.backbone.spec, stages=(1, 3, 4))
    with pytest.raises(InputError, match="other selections"):
        train(moved, data, SHORT, COST, out, CPU)


def test_a_run_that_diverges_says_so_and_keeps_no_state(tmp_path: Path, data: TrainingSet) -> None:
    wild = replace(SHORT, epochs=4, fixed_epochs=0, learning_rate=1e30, backbone_learning_rate=1e30)
    with pytest.raises(InputError, match=r"the loss is .* at step \d+; lower learning_rate"):
        train(tiny_tofe(), data, wild, COST, tmp_path / "net.safetensors", CPU)
    assert not (tmp_path / "net.state").exists()

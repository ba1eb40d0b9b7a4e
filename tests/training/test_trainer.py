"""The training loop on a tiny net: it learns, it meets its budget, and it can be stopped anywhere."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, tiny_tofe
from tiny_run import assert_same_weights, records, striped_images

from tofe_edge.budget.cost import GmacsCost
from tofe_edge.model.backbones import create_backbone
from tofe_edge.model.macs import tofe_macs
from tofe_edge.model.tofe import ToFe
from tofe_edge.training import trainer
from tofe_edge.training.batches import Batch, Source, TrainingSet, batches, normalized
from tofe_edge.training.recipe import TrainingConfig
from tofe_edge.training.running import Running
from tofe_edge.training.schedule import Schedule
from tofe_edge.training.trainer import train

CPU = Running(torch.device("cpu"))
IDS = [str(number) for number in range(10)]
TARGET_GMACS = 0.0017
COST = GmacsCost(create_backbone("deit_tiny_patch16_224", TINY).spec, TARGET_GMACS)
# A tiny net's costs are thousandths of a GMAC and their squares millionths: the weight makes up for it.
CONFIG = TrainingConfig(
    target_gmacs=TARGET_GMACS,
    epochs=20,
    fixed_epochs=2,
    batch_size=8,
    learning_rate=2e-3,
    backbone_learning_rate=2e-3,
    budget_weight=3e6,
    held_out=8,
)
SHORT = replace(CONFIG, epochs=2, fixed_epochs=0.5, noise_decay_start=0.25)
"""8 steps, the backbone fixed for the first 2, the noise fading from then on."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TrainingSet:
    """40 noisy images, class 0 bright at the top and class 1 bright at the bottom; 32 to train on."""
    folder = striped_images(tmp_path_factory.mktemp("data"), 20)
    return TrainingSet.find([Source(folder)], IDS, CONFIG.held_out, CONFIG.seed)


def weights_of(model: ToFe) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


@pytest.fixture(scope="module")
def short_run(tmp_path_factory: pytest.TempPathFactory, data: TrainingSet) -> dict[str, torch.Tensor]:
    """Weights after an uninterrupted run of 8 steps."""
    model = tiny_tofe()
    train(model, data, SHORT, COST, tmp_path_factory.mktemp("short") / "net.safetensors", CPU)
    return weights_of(model)


def stop_after(steps: int, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let the stream of batches raise after ``steps`` of them."""
    whole = batches

    def cut(*arguments: Any) -> Iterator[Batch]:
        for number, batch in enumerate(whole(*arguments)):
            if number == steps:
                raise error
            yield batch

    monkeypatch.setattr(trainer, "batches", cut)


def test_training_lowers_the_loss_and_meets_the_budget(tmp_path: Path, data: TrainingSet) -> None:
    model = tiny_tofe()
    spec = model.backbone.spec

    def off_target(kept: list[float]) -> float:
        return abs(float(tofe_macs(spec, kept)) / 1e9 / TARGET_GMACS - 1)

    result = train(model, data, CONFIG, COST, tmp_path / "net.safetensors", CPU)
    log = records(tmp_path / "net.safetensors")
    assert (result.steps, result.unreadable) == (Schedule.of(CONFIG, 32).steps, 0) == (80, 0)
    assert [record["step"] for record in log] == list(range(10, 81, 10))
    assert {"loss", "classification", "approximation", "budget", "kept", "images_per_second"} <= log[-1].keys()
    assert log[-1]["classification"] < 0.3 * log[0]["classification"]
    assert log[-1]["loss"] < 0.5 * log[0]["loss"]
    assert off_target([16.0] * 3) > 0.2, "the target must not be met from the start"
    assert off_target(np.mean([record["kept"] for record in log[-2:]], axis=0).tolist()) < 0.1


def test_the_backbone_is_fixed_at_first(tmp_path: Path, data: TrainingSet, short_run: dict[str, torch.Tensor]) -> None:
    moved = [key for key, value in tiny_tofe().state_dict().items() if not torch.equal(value, short_run[key])]
    assert len([key for key in moved if key.startswith("backbone.")]) > 40, "it learns once it is free"
    model, before = tiny_tofe(), tiny_tofe().state_dict()
    train(model, data, replace(SHORT, fixed_epochs=2.0), COST, tmp_path / "net.safetensors", CPU)
    after = model.state_dict()
    backbone = [key for key in before if key.startswith("backbone.")]
    assert all(torch.equal(before[key], after[key]) for key in backbone)
    assert not any(torch.equal(before[key], after[key]) for key in before.keys() - set(backbone))


@pytest.mark.parametrize("other", [False, True])
def test_selectors_learn_on_the_first_blocks_of_their_own_net(
    tmp_path: Path, data: TrainingSet, monkeypatch: pytest.MonkeyPatch, other: bool
) -> None:
    model, teacher = tiny_tofe(), tiny_tofe(seed=1) if other else None
    stems, runs, masked, stem = [], [], ToFe.masked_from, ToFe.stem

    def noted(self: ToFe, tokens: torch.Tensor, *arguments: Any) -> Any:
        stems.append(tokens.detach().clone())
        return masked(self, tokens, *arguments)

    def counted(self: ToFe, images: torch.Tensor) -> torch.Tensor:
        runs.append(self is model)
        return stem(self, images)

    with monkeypatch.context() as patch:
        patch.setattr(ToFe, "masked_from", noted)
        patch.setattr(ToFe, "stem", counted)
        train(model, data, replace(SHORT, fixed_epochs=2), COST, tmp_path / "net.safetensors", CPU, teacher)
    assert sum(runs) == (8 if other else 0), "a net that is the teacher up to there is not run twice"
    preprocessing = model.backbone.preprocessing
    crops = batches(data.train, preprocessing.image_size, SHORT.batch_size, range(8), SHORT.seed, SHORT.augmentation)
    for batch, tokens in zip(crops, stems, strict=True):
        torch.testing.assert_close(tokens, tiny_tofe().stem(normalized(batch.pixels, preprocessing)))


@pytest.mark.parametrize(
    ("steps", "end"),
    [(1, KeyboardInterrupt()), (2, KeyboardInterrupt()), (5, KeyboardInterrupt()), (3, SystemExit(143))],
    ids=lambda value: str(value) if isinstance(value, int) else type(value).__name__,
)
def test_an_interrupted_run_resumes_to_exactly_the_same_weights(
    tmp_path: Path,
    data: TrainingSet,
    short_run: dict[str, torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
    steps: int,
    end: BaseException,
) -> None:
    out = tmp_path / "net.safetensors"
    with monkeypatch.context() as patch:
        stop_after(steps, patch, end)
        with pytest.raises(type(end)):
            train(tiny_tofe(), data, SHORT, COST, out, CPU)
    assert torch.load(out.with_suffix(".state"), weights_only=True)["step"] == steps
    resumed = tiny_tofe()
    train(resumed, data, SHORT, COST, out, CPU)
    assert_same_weights(weights_of(resumed), short_run)


def test_an_interrupt_inside_an_update_does_not_save_half_of_it(
    tmp_path: Path, data: TrainingSet, short_run: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "net.safetensors"
    update, calls = torch.optim.AdamW.step, [0]

    def interrupted(self: torch.optim.AdamW, closure: None = None) -> Any:
        result = update(self, closure)
        calls[0] += 1
        if calls[0] == 3:
            raise KeyboardInterrupt
        return result

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "SAVE_EVERY_SECONDS", -1.0)
        patch.setattr(torch.optim.AdamW, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_tofe(), data, SHORT, COST, out, CPU)
    assert torch.load(out.with_suffix(".state"), weights_only=True)["step"] == 2
    resumed = tiny_tofe()
    train(resumed, data, SHORT, COST, out, CPU)
    assert_same_weights(weights_of(resumed), short_run)


def test_a_gathered_run_keeps_its_counts(tmp_path: Path, data: TrainingSet, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(SHORT, gathered_epochs=1)
    whole, resumed = tiny_tofe(), tiny_tofe()
    expected = train(whole, data, config, COST, tmp_path / "whole.safetensors", CPU)
    out = tmp_path / "net.safetensors"
    with monkeypatch.context() as patch:
        stop_after(6, patch, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            train(tiny_tofe(), data, config, COST, out, CPU)
    with monkeypatch.context() as patch:
        # Measured anew, on another net than at the switch, counts would be others.
        patch.setattr(trainer, "measure_counts", None)
        found = train(resumed, data, config, COST, out, CPU)
    assert found.counts == expected.counts is not None
    assert_same_weights(weights_of(resumed), weights_of(whole))


def test_a_run_may_be_compiled(
    tmp_path: Path, data: TrainingSet, short_run: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the compiler makes of the blocks is its own affair; that they are compiled, and for how long, is ours."""
    compiled = []

    def compiler(function: Any, dynamic: bool) -> Any:
        compiled.append(function.__name__)
        return function

    monkeypatch.setattr(torch, "compile", compiler)
    model = tiny_tofe()
    train(model, data, SHORT, COST, tmp_path / "net.safetensors", replace(CPU, compiles=True))
    assert compiled == ["run_blocks"] * 2 and "run_blocks" not in vars(model)
    assert_same_weights(weights_of(model), short_run)

"""Prepared views: what is stored is what the teacher gives, whoever is interrupted; anything else is refused."""

import errno
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, tiny_tofe

from tofe_edge.budget.cost import GmacsCost
from tofe_edge.errors import InputError
from tofe_edge.model.backbones import create_backbone
from tofe_edge.training import views as module
from tofe_edge.training.batches import Batch, Source, TrainingSet, batches, teacher_targets
from tofe_edge.training.recipe import Augmentation, TrainingConfig
from tofe_edge.training.trainer import train
from tofe_edge.training.views import ViewRecipe, Views, prepare_views, view_recipe

IDS = [str(number) for number in range(10)]
COUNT = 40


@pytest.fixture
def data(image_folder: Path) -> TrainingSet:
    return TrainingSet.find([Source(image_folder)], IDS, 0, 0)


@pytest.fixture
def wanted(data: TrainingSet) -> ViewRecipe:
    return view_recipe(tiny_tofe(), data.train, COUNT, seed=3, augmentation=Augmentation(0.35))


Prepare = Callable[..., Views]
"""``prepare(folder, **changes of the recipe)``"""


@pytest.fixture
def prepare(tmp_path: Path, data: TrainingSet, wanted: ViewRecipe) -> Prepare:
    def prepared(folder: str = "views", of: Any = None, **changes: Any) -> Views:
        return prepare_views(tmp_path / folder, tiny_tofe(), of or data.train, replace(wanted, **changes))

    return prepared


def same(one: Views, other: Views) -> None:
    pairs = zip(
        (one.stem, *one.stages, one.logits, one.importance, one.labels),
        (other.stem, *other.stages, other.logits, other.importance, other.labels),
        strict=True,
    )
    for first, second in pairs:
        np.testing.assert_array_equal(first, second)


def test_views_are_what_the_teacher_gives(data: TrainingSet, wanted: ViewRecipe, prepare: Prepare) -> None:
    teacher = tiny_tofe()
    views = prepare()
    crops = list(batches(data.train, teacher.backbone.preprocessing, 32, range(2), wanted.seed, wanted.augmentation))
    view = teacher_targets(teacher, torch.cat([batch.images for batch in crops])[:COUNT])
    assert len(views) == COUNT
    assert views.labels.tolist() == torch.cat([batch.labels for batch in crops])[:COUNT].tolist()
    for stored, given in zip((views.stem, *views.stages, views.logits), (view.stem, *view.stages, view.logits)):
        # Half precision: eleven bits.
        np.testing.assert_allclose(stored.astype(np.float32), given.numpy(), rtol=2**-10, atol=1e-3)
    np.testing.assert_allclose(views.importance, view.importance.numpy(), rtol=1e-5)


def test_interrupted_preparation_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prepare: Prepare) -> None:
    whole = prepare("whole")

    def cut(*arguments: Any) -> Iterator[Batch]:
        yield next(iter(batches(*arguments)))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "batches", cut)
        patch.setattr(module, "_NOTE_EVERY_BATCHES", 1)
        with pytest.raises(KeyboardInterrupt):
            prepare("cut")
    assert json.loads((tmp_path / "cut/views.json").read_text())["views"] == 32
    same(whole, prepare("cut"))


def test_views_are_opened_again_without_running_the_teacher(monkeypatch: pytest.MonkeyPatch, prepare: Prepare) -> None:
    made = prepare()
    monkeypatch.setattr(module, "teacher_targets", None)
    same(made, prepare())


def test_each_pass_draws_every_view_once(prepare: Prepare) -> None:
    views = prepare()
    drawn = [views.draw(step, 8, seed=1) for step in range(10)]
    sums = [view.logits.sum().item() for view, _ in drawn]
    assert sum(sums[:5]) == pytest.approx(float(views.logits.astype(np.float32).sum()), rel=1e-4)
    assert sums[:5] != sums[5:]
    again, labels = views.draw(7, 8, seed=1)
    assert torch.equal(again.stem, drawn[7][0].stem)
    assert torch.equal(labels, drawn[7][1])


@pytest.mark.parametrize("field", ["count", "seed", "crop_scale", "cutmix", "teacher", "samples"])
def test_views_of_another_recipe_are_refused(wanted: ViewRecipe, field: str, prepare: Prepare) -> None:
    prepare()
    other: Any = {"teacher": "0", "samples": "0", "cutmix": 0.5}.get(field) or getattr(wanted, field) / 2
    with pytest.raises(InputError, match=f"another {field}; use another views_dir"):
        prepare(**{field: other})


def test_the_recipe_tells_weights_and_images_apart(data: TrainingSet) -> None:
    one = view_recipe(tiny_tofe(), data.train, COUNT, 0, Augmentation(0.35))
    assert view_recipe(tiny_tofe(), data.train, COUNT, 0, Augmentation(0.35)) == one
    assert view_recipe(tiny_tofe(), data.train[1:], COUNT, 0, Augmentation(0.35)).samples != one.samples
    changed = tiny_tofe()
    with torch.no_grad():
        next(changed.backbone.parameters()).view(-1)[0] += 1
    assert view_recipe(changed, data.train, COUNT, 0, Augmentation(0.35)).teacher != one.teacher


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("views.json", b"not JSON", "is not a note of prepared views"),
        ("views.json", b"[]", "is not a note of prepared views"),
        ("views.json", b'{"recipe": {}, "views": Infinity}', "is not a note of prepared views"),
        ("stem.npy", b"\x93NUMPY", "is damaged"),
        ("labels.npy", b"", "is damaged"),
        ("stem.npy", None, r"stem\.npy: is damaged"),  # a short file is not made longer
    ],
)
def test_damaged_views_refused(tmp_path: Path, name: str, content: bytes | None, said: str, prepare: Prepare) -> None:
    prepare()
    path = tmp_path / "views" / name
    path.write_bytes(path.read_bytes()[:-1000] if content is None else content)
    with pytest.raises(InputError, match=said):
        prepare()


def test_a_full_disk_is_reported_before_any_work(monkeypatch: pytest.MonkeyPatch, prepare: Prepare) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setattr(module, "teacher_targets", None)
    with pytest.raises(InputError, match="No space left on device"):
        prepare()


@pytest.mark.parametrize("count", [64, COUNT])
def test_unreadable_images_are_made_up_for(image_folder: Path, prepare: Prepare, count: int) -> None:
    next(image_folder.rglob("*.png")).write_bytes(b"no picture")
    samples = TrainingSet.find([Source(image_folder)], IDS, 0, 0).train
    views = prepare(of=samples, count=count)
    assert 0 < views.unreadable < 64 - COUNT
    # Two whole batches have nothing to spare.
    assert len(views) == min(count, 64 - views.unreadable)


def test_training_on_views_leaves_the_first_blocks_alone(tmp_path: Path, data: TrainingSet, prepare: Prepare) -> None:
    model = tiny_tofe()
    views = prepare()
    images = torch.randn(2, 3, TINY["image_size"], TINY["image_size"])
    before = model.stem(images)
    config = TrainingConfig(target_gmacs=0.0017, epochs=4, fixed_epochs=0, batch_size=4, held_out=0, views=COUNT)
    cost = GmacsCost(create_backbone("deit_tiny_patch16_224", TINY).spec, 0.0017)
    first = model.backbone.spec.stages[0]
    parts = [parameter.clone() for parameter in model.backbone.parameters()]
    train(model, data, config, cost, tmp_path / "net.safetensors", torch.device("cpu"), views=views)
    assert first > 0
    torch.testing.assert_close(model.stem(images), before, rtol=0, atol=0)
    assert any(not torch.equal(old, new) for old, new in zip(parts, model.backbone.parameters()))


def test_more_views_than_the_disk_can_hold_are_refused(tmp_path: Path, prepare: Prepare) -> None:
    with pytest.raises(InputError, match=r"the views take .* GB and .* GB are free; ask for fewer"):
        prepare(count=10**12)
    assert not list((tmp_path / "views").glob("*.npy"))


def test_a_second_run_in_the_same_folder_waits_its_turn(tmp_path: Path, prepare: Prepare) -> None:
    (tmp_path / "views").mkdir()
    with module._alone(tmp_path / "views"), pytest.raises(InputError, match="another run is preparing views there"):
        prepare()
    assert len(prepare()) == COUNT


def test_finished_views_may_be_where_nothing_can_be_written(monkeypatch: pytest.MonkeyPatch, prepare: Prepare) -> None:
    def read_only(folder: Path) -> Iterator[None]:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    prepare()
    monkeypatch.setattr(module, "_alone", read_only)
    views = prepare()
    assert not views.stem.flags.writeable

"""Nets for the classes of one's own folders: the split, the head, and the whole way to bundles that bear their names."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import TINY, Program, document_of, flat, refusal, write_images
from PIL import Image
from tiny_run import stand_in, write_dense

import tofe_edge as te
from tofe_edge.errors import InputError
from tofe_edge.io.dataset import find_samples
from tofe_edge.io.labels import default_classes
from tofe_edge.model.backbones import create_backbone
from tofe_edge.model.checkpoint import Checkpoint, describe, read_header
from tofe_edge.model.dense import DenseNet
from tofe_edge.model.tofe import ToFe
from tofe_edge.training import fine_tuning
from tofe_edge.training.head import Embedded, Head, embed, fit_head, with_head
from tofe_edge.training.pictures import FEWEST_PER_CLASS, find_pictures, own_classes
from tofe_edge.training.recipe import Recipe
from tofe_edge.training.run import TrainingRequest
from tofe_edge.workflows.own_classes import train_own_classes

NAMES = ("cat", "dog", "zebra fish")
SETTINGS = {"device": "cpu", "batch_size": 8, "epochs": 1, "fine_tune": 1}


def tinted(folder: Path, per_class: int) -> Path:
    """Noisy pictures: each class has more of another colour."""
    write_images(folder, per_class, NAMES)
    for number, name in enumerate(NAMES):
        for path in (folder / name).iterdir():
            noise = Image.open(path)
            tint = Image.new("RGB", noise.size, tuple(90 * (channel == number) for channel in range(3)))
            Image.blend(noise, tint, 0.2).save(path)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Dense weights of the tiny net, under the published one's name, and pictures of three classes that it does not have."""
    folder = tmp_path_factory.mktemp("own")
    write_dense(folder)
    tinted(folder / "pictures", 40)
    with pytest.MonkeyPatch.context() as patch:
        stand_in(patch)
        yield folder


@pytest.fixture(scope="module")
def trained(folder: Path) -> Checkpoint:
    return train(folder, "own.safetensors", target_gmacs=0.002)


def train(folder: Path, out: str, **options: object) -> Checkpoint:
    options = {"weights": folder / "dense.safetensors", "settings": SETTINGS, **options}
    return te.train(folder / "pictures", folder / out, **options)  # type: ignore[arg-type]


def test_the_split_is_by_content_and_even_over_classes(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", 20, NAMES)
    pictures = find_pictures([images], NAMES)
    parts = (pictures.train, pictures.aside, pictures.held_out)
    assert [len(part) for part in parts] == [42, 6, 12]
    for part in parts:
        assert {len([one for one in part if one.label == label]) for label in range(3)} == {len(part) // 3}
    # A copy under another name goes where the original is, and nothing else moves.
    (original, *_) = pictures.held_out
    copy = original.path.with_name("copy.png")
    shutil.copy(original.path, copy)
    again = find_pictures([images], NAMES)
    assert set(again.held_out) == {*pictures.held_out, replace(original, path=copy)}
    assert (again.train, again.aside) == (pictures.train, pictures.aside)
    assert find_pictures([images], NAMES, holds_out=False).held_out == ()


def test_which_folders_are_own_classes(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", 1, ("b", "a"))
    assert own_classes([images], ["c"]) == ("a", "b")
    assert own_classes([images], ["a", "c"]) is None, "one that the net has: the others are mistakes"
    table = tmp_path / "images.csv"
    table.write_text("path,label\n")
    assert own_classes([table], ["c"]) is None


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("deit_tiny_patch16_224", {}),
        ("deit_tiny_distilled_patch16_224", {}),
        ("lvvit_s", {}),
        ("vit_base_patch16_siglip_224", {"classes": 0}),
        ("vit_small_patch14_reg4_dinov2", {"classes": 0, "image_size": 56}),
    ],
)
def test_a_new_head_reads_what_the_old_one_read(name: str, changed: dict[str, int]) -> None:
    torch.manual_seed(0)
    dense = create_backbone(name, {**TINY, **changed}).eval()
    head = Head(torch.randn(3, 48), torch.randn(3), 0.1)
    net, images = with_head(dense, head), torch.randn(2, 3, dense.spec.image_size, dense.spec.image_size)
    assert (net.spec.classes, net.spec.overrides["classes"], dense.spec.classes) == (3, 3, changed.get("classes", 10))
    with torch.no_grad():
        expected = ToFe(dense).forward_dense(images, "embedding") @ head.weight.T + head.bias
        torch.testing.assert_close(ToFe(net).forward_dense(images), expected)


def test_a_head_is_fitted_with_the_decay_that_others_like_best() -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(count: int, noise: float) -> Embedded:
        labels = torch.arange(count) % 3
        vectors = 5 + torch.nn.functional.one_hot(labels, 40) + noise * torch.randn(count, 40, generator=generator)
        return Embedded((), vectors.float(), labels, ())

    clear, noisy, others = draw(90, 0.1), draw(90, 1.0), draw(300, 1.0)
    assert fit_head(clear, clear, 3).loss(clear.vectors, clear.labels) < 0.01
    head = fit_head(noisy, others, 3)
    assert head.decay > fit_head(noisy, noisy, 3).decay, "a head chosen by what it was fitted to learns by heart"
    assert head.loss(others.vectors, others.labels) < 1.05


def test_pictures_without_content_are_counted(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", 3, ("a", "b"))
    (images / "a" / "0.png").write_bytes(b"no image")
    Image.new("RGB", (70, 70), "red").save(images / "b" / "1.png")
    samples = find_samples(images, ("a", "b"))
    found = embed(create_backbone("deit_tiny_patch16_224", TINY).eval(), samples, torch.device("cpu"))
    causes = {one.cause: one.count for one in found.left_out}
    assert causes == {"not an image this program reads": 1, "picture of one colour": 1}
    assert (len(found.samples), found.vectors.shape) == (4, (4, 48))
    with pytest.raises(InputError, match="has one colour"):
        embed(create_backbone("deit_tiny_patch16_224", TINY).eval(), samples[4:5], torch.device("cpu"))


def test_fine_tuning_stops_at_a_gradient_that_is_not_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fine_tuning, "classification_loss", lambda logits, _: (0 * logits.sum()).sqrt())
    samples = find_samples(write_images(tmp_path / "images", 4, ("a", "b")), ("a", "b"))
    net = create_backbone("deit_tiny_patch16_224", TINY)
    with pytest.raises(InputError, match="the loss is 0 with a gradient of nan at step 1; lower"):
        fine_tuning.fine_tune(net, samples, 1, Recipe(batch_size=8), torch.device("cpu"))


def test_the_checkpoints_bear_the_names_and_say_how_good_they_are(folder: Path, trained: Checkpoint) -> None:
    header, dense = read_header(trained.path), read_header(folder / "own_dense.safetensors")
    for one in (header, dense):
        assert one.classes.ids == one.classes.names == NAMES and one.overrides["classes"] == 3
        assert one.accuracy is not None and one.accuracy["images"] == 24
        assert one.accuracy["dataset"] == "held-out part of pictures"
        low, high = one.accuracy["top1_interval"]
        assert low <= one.accuracy["top1"] <= high
    assert header.accuracy is not None and dense.accuracy is not None and dense.token_counts is None
    assert dense.accuracy["top1"] == header.accuracy["dense_top1"] > 60, "tints are easily told apart"
    assert header.token_counts is not None and header.gmacs <= 0.002 and header.reduction == "merging"
    record = header.training
    assert record is not None and record["dense"] == "own_dense.safetensors"
    own = record["own_classes"]
    assert (own["trained_on"], own["set_aside"], own["held_out"]) == (81, 15, 24)
    assert own["fine_tuned"]["kept"] is (own["fine_tuned"]["loss"] < own["fine_tuned"]["loss_before"])
    assert record["trained"]["kept"] is (record["trained"]["loss"] < record["trained"]["loss_before"])
    assert record["hyper_parameters"]["token_counts"] == str(header.token_counts)


def test_equal_calls_give_equal_files(folder: Path, trained: Checkpoint) -> None:
    (folder / "again").mkdir()
    again = train(folder, "again/own.safetensors", target_gmacs=0.002)
    assert again.path.read_bytes() == trained.path.read_bytes()


def test_without_a_budget_the_net_stays_dense(folder: Path, program: Program) -> None:
    out = folder / "dense_only.safetensors"
    call = ("train", "--data", folder / "pictures", "--weights", folder / "dense.safetensors", "--out", out)
    code, said, _ = program(*call, "--set", "fine_tune=0", "--set", "device=cpu")
    assert code == 0
    assert "3: cat, dog, zebra fish" in flat(said) and "all (dense)" in flat(said) and "95 % intervals" in flat(said)
    header = read_header(out)
    assert header.token_counts is None and (header.training or {})["own_classes"]["fine_tuned"] is None
    assert not (folder / "dense_only_dense.safetensors").exists()


def test_other_pictures_to_measure_on(folder: Path, tmp_path: Path) -> None:
    validation = write_images(tmp_path / "val", 3, NAMES)
    settings = {**SETTINGS, "fine_tune": None}
    header = train(folder, "validated.safetensors", validation=validation, settings=settings)
    assert header.accuracy is not None and (header.accuracy["images"], header.accuracy["dataset"]) == (9, "val")
    own = (header.training or {})["own_classes"]
    assert own["trained_on"] == 102
    assert (own["fine_tuned"] is None) is (own["loss_of_head"] < 0.05), "nothing is left to improve"


def test_names_reach_models_and_bundles(trained: Checkpoint, program: Program, folder: Path, tmp_path: Path) -> None:
    call = ("convert", "--checkpoint", trained.path, "--precision", "fp32", "--out", tmp_path / "out")
    model = Path(document_of(program, *call)["artifact"])
    (predicted,) = document_of(program, "run", model, folder / "pictures" / "dog" / "0.png")
    assert {one["name"] for one in predicted["top5"]} == set(NAMES)
    compare = ("parity", model, "--checkpoint", trained.path, "--data", folder / "pictures", "--limit", 20)
    parity = document_of(program, *compare)
    assert parity["passed"]
    package = ("package", model, "--platform", "android", "--source", "--out", tmp_path / "bundles")
    bundle = Path(document_of(program, *package)["bundle"])
    manifest = json.loads(next(bundle.rglob("*.json")).read_text())
    assert any("zebra fish" in path.read_text(errors="ignore") for path in bundle.rglob("*.json")), manifest.keys()


def test_folders_of_imagenet_for_a_head_that_may_be_its(tmp_path: Path) -> None:
    request = TrainingRequest((str(tmp_path),), tmp_path / "o.safetensors", weights=tmp_path / "w.safetensors")
    dense = create_backbone("deit_tiny_patch16_224", {**TINY, "classes": 1000})
    header = describe("dense", dense.spec, dense.preprocessing, default_classes(1000), None)
    with pytest.raises(InputError, match="add --labels imagenet"):
        train_own_classes(request, DenseNet(dense, header), ("n01440764", "n02102040"))


def remove_all_but(count: int, folder: Path) -> None:
    for path in sorted(folder.iterdir())[count:]:
        path.unlink()


def spoil(folder: Path, how: str) -> None:
    """Damage a copy of the pictures."""
    if how == "one class":
        for name in NAMES[1:]:
            shutil.rmtree(folder / name)
    elif how == "five pictures":
        remove_all_but(5, folder / "dog")
    elif how == "few":
        for name in NAMES:
            remove_all_but(FEWEST_PER_CLASS, folder / name)
    elif how == "no class folder":
        shutil.copy(folder / "cat" / "0.png", folder / "0.png")
    elif how == "one colour":
        for number, path in enumerate(sorted((folder / "dog").iterdir())):
            Image.new("RGB", (64, 64), (number, 0, 0)).save(path)
    elif how == "a class that the net has":
        (folder / "dog").rename(folder / "7")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("one class", "has one class, 'cat'; put pictures of others in folders beside it"),
        ("five pictures", "'dog' has 5 different pictures; a class needs at least 8, better 100"),
        ("few", "18 pictures to learn from; a reduction needs at least 64, better 1000"),
        ("no class folder", "0.png: is in no class folder; expected FOLDER/<class>/<image>"),
        ("one colour", "dog: none of its pictures can be used"),
        ("a class that the net has", "'cat' is not a class id of this model"),
        ("--target-gmacs 100", "target"),
        ("--set fine_tune=-1", "fine_tune must be a number of epochs"),
    ],
)
def test_what_cannot_be_learned_from(folder: Path, tmp_path: Path, program: Program, how: str, message: str) -> None:
    pictures = tmp_path / "pictures"
    shutil.copytree(folder / "pictures", pictures)
    spoil(pictures, how)
    more = list[object](how.split() if how.startswith("--") else ())
    if "--target-gmacs" not in more:
        more += ["--target-gmacs", 0.002]
    call = ("train", "--data", pictures, "--weights", folder / "dense.safetensors", "--out", tmp_path / "o.safetensors")
    assert message in refusal(program, *call, "--set", "device=cpu", *more)
    assert not (tmp_path / "o.safetensors").exists()

"""Accuracy of a stream of images: the same as in memory, whatever the source, and without holding the images."""

import json
import tarfile
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import refused, write_images
from tiny_run import stand_in, write_dense

from tofe_edge.cli import main
from tofe_edge.evaluation.evaluate import Evaluation, evaluate_samples
from tofe_edge.evaluation.reference import Mode, Reference, load_reference
from tofe_edge.io.dataset import Sample, find_samples
from tofe_edge.model.checkpoint import Checkpoint

IDS = [str(number) for number in range(10)]


@pytest.fixture
def reference(tiny_checkpoint: Checkpoint) -> Reference:
    return load_reference(tiny_checkpoint, "batch", "cpu")


@pytest.fixture
def many_images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "many", 5, IDS)


def streamed(reference: Reference, source: Path) -> Evaluation:
    return evaluate_samples(reference, source, find_samples(source, IDS), reference.model.backbone.preprocessing)


@pytest.mark.parametrize("mode", ["batch", "instance", "dense"])
@pytest.mark.parametrize("corrupt", [(), (0, 17, 18, 49), tuple(range(16, 40))])
def test_batches_with_gaps_give_what_one_by_one_gives(
    tiny_checkpoint: Checkpoint, many_images: Path, mode: Mode, corrupt: tuple[int, ...]
) -> None:
    reference = load_reference(tiny_checkpoint, mode, "cpu")
    broken = [path for position, path in enumerate(sorted(many_images.rglob("*.png"))) if position in corrupt]
    for path in broken:
        path.write_bytes(b"")
    spec = reference.model.backbone.preprocessing
    found = streamed(reference, many_images)
    readable = [sample for sample in find_samples(many_images, IDS) if sample.path not in broken]
    one_by_one = evaluate_samples(reference, many_images, readable, spec, batch=1)
    assert found == replace(one_by_one, unreadable=tuple(broken), left_out=found.left_out, lost=found.lost)
    assert found.images == 50 - len(broken)
    assert found.unreadable == tuple(broken)
    causes = [(one.cause, one.count, one.first) for one in found.left_out]
    assert causes == ([("empty", len(broken), broken[0])] if broken else [])


def test_nothing_readable_is_refused_with_the_first_reason(reference: Reference, image_folder: Path) -> None:
    for path in image_folder.rglob("*.png"):
        path.write_bytes(b"")
    message = refused(image_folder, lambda: streamed(reference, image_folder))
    assert f"none of its 6 images can be used (first: {image_folder / '0' / '0.png'}: is empty" in message


def test_evaluation_holds_two_batches_at_most(reference: Reference, many_images: Path) -> None:
    spec = reference.model.backbone.preprocessing
    one_input = 4 * 3 * 64 * 64
    samples = find_samples(many_images, IDS)
    evaluate_samples(reference, many_images, samples[:16], spec)
    tracemalloc.start()
    try:
        evaluate_samples(reference, many_images, samples * 4, spec, batch=4)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Two batches, their concatenation, and an image being decoded; 200 inputs would be far more.
    assert peak < 20 * one_input


@pytest.fixture
def sources(image_folder: Path) -> dict[str, Path]:
    broken = image_folder / "0" / "1.png"
    broken.write_bytes(b"")
    parts = image_folder.parent
    lines = [f"{path.relative_to(parts)},{path.parent.name}" for path in sorted(image_folder.rglob("*.png"))]
    (parts / "x.csv").write_text("path,label\n" + "\n".join(lines))
    (parts / "shards").mkdir()
    for name in ("x.tar", "shards/x-0.tar"):
        with tarfile.open(parts / name, "w") as archive:
            archive.add(image_folder, "images")
    return {"images": image_folder, **{name: parts / name for name in ("x.csv", "x.tar", "shards")}}


@pytest.mark.parametrize("name", ["x.csv", "x.tar"])
def test_the_table_counts_what_could_not_be_read(
    sources: dict[str, Path], weights: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert main(["evaluate", str(weights), "--data", str(sources[name]), "--device", "cpu"]) == 0
    assert "images         5 (1 unreadable)" in capsys.readouterr().out


def test_samples_are_counted_not_kept(reference: Reference, image_folder: Path) -> None:
    (sample, *_) = find_samples(image_folder, IDS)
    labels = [Sample(sample.path, label) for label in range(10)]
    found = evaluate_samples(reference, image_folder, labels, reference.model.backbone.preprocessing)
    assert (found.images, found.top1, found.top5) == (10, 10.0, 50.0)


@pytest.fixture
def training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """``train`` of a tiny net but for its images."""
    stand_in(monkeypatch)
    options = (
        "--target-gmacs 0.002 --epochs 1 --fixed-epochs 0.5 --batch-size 4 --held-out 2 --device cpu --json --weights"
    )
    return ["train", *options.split(), str(write_dense(tmp_path)), "--out", f"{tmp_path}/net.safetensors"]


@pytest.mark.parametrize("name", ["x.tar", "shards"])
def test_train_takes_shards(
    sources: dict[str, Path], training: list[str], capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert main([*training, "--data", str(sources[name])]) == 0
    assert json.loads(capsys.readouterr().out)["training"]["data"] == [f"{name} x1"]

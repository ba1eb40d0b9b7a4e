"""Images by their tokens: traced from files, and the ones at both ends of a stream."""

from pathlib import Path

import numpy as np
import pytest
from conftest import refused
from hypothesis import given
from hypothesis import strategies as st

from tofe_edge.evaluation.evaluate import Predicted
from tofe_edge.evaluation.image_tokens import Extremes, trace
from tofe_edge.evaluation.prediction import Prediction, reused_counts
from tofe_edge.evaluation.reference import Mode, Reference, load_reference
from tofe_edge.io.dataset import UNLABELLED, Sample, find_samples
from tofe_edge.io.inputs import load_image
from tofe_edge.io.preprocessing import Preprocessing, resize_and_crop
from tofe_edge.model.checkpoint import Checkpoint

SPEC = Preprocessing(32, 0.9, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
NAMES = ("a", "b")


def predicted(number: int, total: int) -> Predicted:
    """Image ``number`` with ``total`` tokens in two stages."""
    kept = (np.arange(total // 2), np.arange(total - total // 2))
    pixels = np.zeros((1, 3, 32, 32), np.float32)
    return Predicted(Sample(Path(f"{number}.png"), 0), pixels, Prediction(np.array([0.0, 1.0], np.float32), kept))


@given(st.lists(st.integers(2, 40), min_size=1, max_size=30), st.integers(1, 4))
def test_the_extremes_of_a_stream_are_those_of_its_sorted_list(totals: list[int], number: int) -> None:
    extremes = Extremes(number, NAMES, 64, SPEC)
    for position, total in enumerate(totals):
        extremes.see(predicted(position, total))
    order = sorted(range(len(totals)), key=lambda position: totals[position])
    backwards = order[::-1]
    half = len(totals) // 2
    assert [image.location.stem for image in extremes.fewest()] == [f"{at}" for at in order[: min(number, half)]]
    assert [image.location.stem for image in extremes.most()] == [
        f"{at}" for at in backwards[: min(number, len(totals) - half)]
    ]
    assert not {image.location for image in extremes.fewest()} & {image.location for image in extremes.most()}
    assert all(image.pixels is not None and image.best and image.best.name == "b" for image in extremes.most())


@pytest.fixture(params=["batch", "instance"])
def reference(tiny_checkpoint: Checkpoint, request: pytest.FixtureRequest) -> Reference:
    mode: Mode = request.param
    return load_reference(tiny_checkpoint, mode, "cpu")


def test_a_trace_is_what_the_reference_says_of_each_image(reference: Reference, image_folder: Path) -> None:
    spec, ids = reference.preprocessing, [str(number) for number in range(10)]
    broken = image_folder / "0" / "1.png"
    broken.write_bytes(b"")
    samples = find_samples(image_folder, ids)
    traced = trace(reference, image_folder, samples, spec, ids, samples[:3])
    assert traced.unreadable == (broken,)
    assert [image.location for image in traced.images] == [one.path for one in samples if one.path != broken]
    for image in traced.images:
        single = reference(load_image(image.location, spec))
        assert [set(positions) for positions in image.kept] == [set(stage.tolist()) for stage in single.kept]
        assert image.reused == reused_counts(single.kept, 16)
        assert (
            image.best
            and image.best.index == int(single.logits.argmax())
            and image.label == int(image.location.parent.name)
        )
    usage = traced.mean_usage()
    assert usage.images == 5 and usage.kept == pytest.approx(np.mean([image.counts for image in traced.images], axis=0))
    assert usage.reused == pytest.approx(np.mean([image.reused for image in traced.images], axis=0))
    drawn = [image.location for image in traced.images if image.pixels is not None]
    assert drawn == [sample.path for sample in samples[:3] if sample.path != broken]


def test_the_pixels_are_those_that_the_net_sees(reference: Reference, image_folder: Path) -> None:
    sample = Sample(image_folder / "1" / "2.png", UNLABELLED)
    spec = reference.preprocessing
    (image,) = trace(reference, image_folder, [sample], spec, [str(n) for n in range(10)], [sample]).images
    assert image.label is None and image.pixels is not None
    assert np.array_equal(image.pixels, np.asarray(resize_and_crop(sample.read(), spec)))


def test_nothing_readable_is_refused(reference: Reference, image_folder: Path) -> None:
    broken = image_folder / "0" / "1.png"
    broken.write_bytes(b"")
    samples = [Sample(broken, UNLABELLED)]
    message = refused(
        image_folder, lambda: trace(reference, image_folder, samples, reference.preprocessing, ["0"] * 10)
    )
    assert "none of its 1 images can be used" in message

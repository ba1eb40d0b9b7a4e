"""The runtime on a program whose answers are known, logits pixels and selections constants, and on a tiny elastic net."""

import itertools
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from conftest import manifest_for
from torch import Tensor, nn

from tofe_edge.errors import DeviceError, InputError
from tofe_edge.evaluation.parity import compare
from tofe_edge.evaluation.reference import load_reference
from tofe_edge.io.artifact import Artifact, open_artifact, write_manifest
from tofe_edge.io.preprocessing import Preprocessing
from tofe_edge.io.quiet import quiet, swallow_native_stderr
from tofe_edge.io.targets import FP32_GATES
from tofe_edge.model.backbones import TokenCounts
from tofe_edge.model.checkpoint import Checkpoint
from tofe_edge.runtimes.executorch import ExecuTorchModel, check_program, load, load_methods, set_threads

SIZE = 8
FIRST, SECOND = [3, 0, 2, 1], [2, 1]
KEPT = [[3, 0, 2], [2, 0]]
"""The second selection points into the order of the first."""


class KnownAnswers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first: Tensor
        self.second: Tensor
        self.register_buffer("first", torch.tensor(FIRST))
        self.register_buffer("second", torch.tensor(SECOND))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return image[:, 1, 2, :] * 2, self.first + 0, self.second + 0


def known(checkpoint: Checkpoint, path: Path, content: bytes, **changes: Any) -> Artifact:
    """``content`` under a manifest that vouches for it."""
    path.write_bytes(content)
    numbers = [str(number) for number in range(SIZE)]
    counts: dict[str, Any] = {"token_counts": [3, 2], "stage_blocks": [1, 1, 1], "patch_tokens": 4}
    counts |= {"class_names": numbers, "class_ids": numbers}
    spec = Preprocessing(SIZE, 0.9, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    made = replace(manifest_for(checkpoint, path.name, content), preprocessing=spec, **counts)
    return write_manifest(path, replace(made, **changes))


class OneNumber(KnownAnswers):
    """A selection that is a number and not a list."""

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits, first, _ = super().forward(image)
        return logits, first, self.second.sum()


def program_of(net: nn.Module) -> bytes:
    with quiet(), swallow_native_stderr():
        from executorch.exir import to_edge_transform_and_lower

        exported = torch.export.export(net, (torch.zeros(1, 3, SIZE, SIZE),))
        return bytes(to_edge_transform_and_lower(exported).to_executorch().buffer)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Checkpoint) -> Artifact:
    return known(tiny_checkpoint, tmp_path_factory.mktemp("known") / "known.pte", program_of(KnownAnswers()))


@pytest.fixture(scope="module")
def model(artifact: Artifact) -> ExecuTorchModel:
    return load(artifact, threads=1)


def pixels(seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(1, 3, SIZE, SIZE)).astype(np.float32)


def test_a_prediction_holds_the_programs_logits_and_image_positions(model: ExecuTorchModel) -> None:
    image = pixels()
    prediction = model(image)
    np.testing.assert_array_equal(prediction.logits, image[0, 1, 2] * 2)
    assert prediction.logits.dtype == np.float32
    assert [positions.tolist() for positions in prediction.kept] == KEPT


def test_a_later_run_does_not_change_an_earlier_prediction(model: ExecuTorchModel) -> None:
    first = model(pixels(0))
    logits, kept = first.logits.copy(), [positions.copy() for positions in first.kept]
    second = model(pixels(1))
    assert not np.array_equal(second.logits, logits)
    np.testing.assert_array_equal(first.logits, logits)
    for positions, before in zip(first.kept, kept, strict=True):
        np.testing.assert_array_equal(positions, before)


@pytest.mark.parametrize(
    "strided",
    [
        lambda image: np.asfortranarray(image),
        lambda image: np.ascontiguousarray(image.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
        lambda image: np.ascontiguousarray(image[..., ::-1])[..., ::-1],
        lambda image: np.repeat(image, 2, axis=3)[..., ::2],
    ],
    ids=["fortran", "channels last", "mirrored view", "every other column"],
)
def test_strided_inputs_give_the_same_result_as_dense_ones(
    model: ExecuTorchModel, strided: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]
) -> None:
    image = pixels()
    view = strided(image)
    assert not view.flags.c_contiguous
    np.testing.assert_array_equal(model(view).logits, model(image).logits)


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [("float64", (1, 3, 8, 8)), ("uint8", (1, 3, 8, 8))]
    + [("float32", shape) for shape in ((3, 8, 8), (2, 3, 8, 8), (1, 3, 8, 9), (1, 8, 8, 3))],
)
def test_other_shapes_and_types_are_refused(model: ExecuTorchModel, dtype: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=re.escape(f"takes float32 (1, 3, 8, 8), not {dtype} {shape}")):
        model(np.zeros(shape, dtype))


def test_loading_is_timed_and_the_thread_count_noted(model: ExecuTorchModel) -> None:
    assert model.load_ms > 0
    assert model.threads == 1


Copied = Callable[..., Artifact]


@pytest.fixture
def copied(tiny_checkpoint: Checkpoint, tmp_path: Path) -> Copied:
    """``copied(content, **changes)``: another program with the manifest of the known one."""
    return lambda content, **changes: known(tiny_checkpoint, tmp_path / "copy.pte", content, **changes)


@pytest.mark.parametrize(
    "content", [b"", b"abc", b"\0" * 4096, b"PK\x03\x04" + b"\0" * 4096, b"\0\0\0\0ET11" + b"\0" * 99]
)
def test_a_file_without_executorchs_magic_is_refused_even_with_a_right_manifest(copied: Copied, content: bytes) -> None:
    odd = copied(content)
    assert open_artifact(odd.path).manifest == odd.manifest
    for use in (check_program, lambda one: load(one, 1)):
        with pytest.raises(InputError, match=r"copy\.pte: is not an ExecuTorch program of a known version"):
            use(odd)


CONTRADICTIONS: list[tuple[dict[str, Any], str]] = [
    ({"batch": 2}, r"takes \[1, 3, 8, 8\], where its manifest says float32 \[2, 3, 8, 8\]"),
    ({"preprocessing": Preprocessing(16, 0.9, "bicubic", (0.5,) * 3, (0.5,) * 3)}, r"says float32 \[1, 3, 16, 16\]"),
    ({"class_names": ["a"], "class_ids": ["a"]}, r"gives \[1, 8\], where its manifest says float32 \[1, 1\]"),
    ({"class_names": ["a"] * 9, "class_ids": ["a"] * 9}, r"gives \[1, 8\], where its manifest says float32 \[1, 9\]"),
    ({"output": "embedding", "output_shape": [7], "class_names": [], "class_ids": []}, r"says float32 \[1, 7\]"),
    ({"token_counts": [3, 1]}, r"selections of \[4, 2\] tokens, which are not those of its manifest, \[3, 1\] of 4"),
    ({"token_counts": [3], "stage_blocks": [1, 1]}, r"not those of its manifest, \[3\] of 4"),
    ({"token_counts": [3, 3, 2], "stage_blocks": [1] * 4}, r"not those of its manifest, \[3, 3, 2\] of 4"),
    ({"token_counts": None}, "not those of its manifest"),
    ({"patch_tokens": 5}, r"not those of its manifest, \[3, 2\] of 5"),
]


@pytest.mark.parametrize(("changes", "said"), CONTRADICTIONS)
def test_a_manifest_that_contradicts_its_program_is_refused(
    artifact: Artifact, copied: Copied, changes: dict[str, Any], said: str
) -> None:
    odd = copied(artifact.path.read_bytes(), **changes)
    with pytest.raises(InputError, match=rf"copy\.pte: method forward .*{said}.*; convert the model again"):
        load(open_artifact(odd.path), 1)


def test_a_program_that_selects_with_a_number_is_refused(copied: Copied) -> None:
    with pytest.raises(
        InputError, match=r"gives selections of \[4, None\] tokens, which are not those of its manifest"
    ):
        load(copied(program_of(OneNumber())), 1)


def test_a_program_cut_short_behind_its_magic_is_a_device_error(artifact: Artifact, copied: Copied) -> None:
    content = artifact.path.read_bytes()
    with pytest.raises(DeviceError, match=r"copy\.pte: ExecuTorch cannot load it"):
        load(copied(content[: len(content) // 2]), 1)


def test_a_model_for_another_target_is_refused(artifact: Artifact, copied: Copied) -> None:
    other = copied(artifact.path.read_bytes(), target="coreml", backend="coreml")
    with pytest.raises(InputError, match="is a model for coreml, which this runtime does not run"):
        load(other, 1)


@pytest.mark.parametrize("threads", [0, -3, 10**31])
def test_a_thread_count_that_no_machine_has_is_refused(artifact: Artifact, threads: int) -> None:
    for use in (lambda: set_threads(threads), lambda: load(artifact, threads)):
        with pytest.raises(InputError, match=f"threads must be 1 to 1024, not {threads}"):
            use()


def test_a_method_that_the_manifest_alone_names_is_a_device_error(artifact: Artifact, copied: Copied) -> None:
    made_up = replace(artifact.manifest.method("forward"), name="forward_2_1", token_counts=[2, 1])
    other = copied(artifact.path.read_bytes(), further_methods=[made_up])
    with pytest.raises(DeviceError, match=r"copy\.pte: lacks the method forward_2_1 of its manifest; convert it again"):
        load(other, 1, "forward_2_1")


def net_inputs(count: int) -> list[npt.NDArray[np.float32]]:
    """Inputs of the tiny net."""
    drawn = np.random.default_rng(7).normal(size=(count, 1, 3, 64, 64))
    return list(drawn.astype(np.float32))


@pytest.fixture(scope="module")
def methods(elastic_artifact: Artifact) -> dict[str, ExecuTorchModel]:
    return load_methods(elastic_artifact, 1, list(elastic_artifact.manifest.methods))


def test_further_methods_are_ordered_from_the_largest_and_named_by_their_counts(elastic_artifact: Artifact) -> None:
    default, *further = elastic_artifact.manifest.methods.values()
    assert (default.name, default.token_counts) == ("forward", [9, 5, 3])
    assert len(further) == 2 and further[0].gmacs > default.gmacs > further[1].gmacs
    for method in further:
        assert method.name == "_".join(("forward", *map(str, method.token_counts or ())))


def test_every_method_equals_the_reference(methods: dict[str, ExecuTorchModel], tiny_checkpoint: Checkpoint) -> None:
    images = net_inputs(6)
    for name, model in methods.items():
        assert model.method.name == name and model.method.token_counts is not None
        counts = TokenCounts(tuple(model.method.token_counts))
        wanted = list(load_reference(tiny_checkpoint, "batch", "cpu", counts=counts).predict_all(images))
        found = [model(image) for image in images]
        assert [len(positions) for positions in found[0].kept] == list(counts.kept)
        parity = compare(wanted, found, None, FP32_GATES)
        assert parity.passed, (name, parity.failures)


def test_the_methods_of_one_program_differ(methods: dict[str, ExecuTorchModel]) -> None:
    (image,) = net_inputs(1)
    logits = [model(image).logits for model in methods.values()]
    assert not any(np.allclose(one, other, rtol=1e-3) for one, other in itertools.pairwise(logits))


def test_load_takes_one_method_by_its_name(elastic_artifact: Artifact, methods: dict[str, ExecuTorchModel]) -> None:
    (image,) = net_inputs(1)
    name = elastic_artifact.manifest.further_methods[0].name
    np.testing.assert_array_equal(load(elastic_artifact, 1, name)(image).logits, methods[name](image).logits)
    np.testing.assert_array_equal(load(elastic_artifact, 1)(image).logits, methods["forward"](image).logits)


def test_an_unknown_method_is_refused_before_anything_is_loaded(elastic_artifact: Artifact) -> None:
    with pytest.raises(InputError, match="has no method 'forward_1_1_1'; it has forward, forward_") as caught:
        load_methods(elastic_artifact, 1, ["forward", "forward_1_1_1"])
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("count", [1, 2, 3])
def test_images_of_a_batch_are_predicted_as_each_by_itself(methods: dict[str, ExecuTorchModel], count: int) -> None:
    images = net_inputs(count)
    for model in methods.values():
        together = model.predict(images)
        assert len(together) == count
        for found, image in zip(together, images):
            alone = model(image)
            np.testing.assert_allclose(found.logits, alone.logits, rtol=1e-5, atol=1e-5)
            for positions, wanted in zip(found.kept, alone.kept, strict=True):
                np.testing.assert_array_equal(positions, wanted)
        # Each image's result is its own.
        assert all(not np.allclose(a.logits, b.logits, rtol=1e-3) for a, b in itertools.pairwise(together))


def test_batches_have_one_image_to_the_most(model: ExecuTorchModel, methods: dict[str, ExecuTorchModel]) -> None:
    for taker, batch, counts in ((model, 1, (0, 2)), (methods["forward"], 3, (0, 4))):
        for count in counts:
            with pytest.raises(InputError, match=f"takes 1 to {batch} images at once, not {count}"):
                taker.predict(net_inputs(count))


def test_one_image_of_another_shape_in_a_batch_is_refused(methods: dict[str, ExecuTorchModel]) -> None:
    with pytest.raises(InputError, match=r"takes float32 \(1, 3, 64, 64\), not float32 \(1, 3, 64, 63\)"):
        methods["forward"].predict([*net_inputs(1), net_inputs(1)[0][..., 1:]])

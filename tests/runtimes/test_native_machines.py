"""The same programs on x86-64 and on an emulated ARM.

What of an int8 model is the same to the bit on both, and what cannot be, is told in docs/native.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from native_builds import runner
from native_programs import TINY_PRECISIONS, Precision, content, in_python, tiny_program
from tiny_exports import COUNTS, images
from torch import Tensor, nn

from tofe_edge.converters.pipeline import convert
from tofe_edge.converters.request import Calibration, ConvertRequest
from tofe_edge.evaluation.parity import FP32_GATES, INT8_GATES, kept_overlap, snr_db
from tofe_edge.evaluation.prediction import compose_selections
from tofe_edge.io.inputs import load_photographs
from tofe_edge.io.quiet import quiet
from tofe_edge.io.targets import find_target
from tofe_edge.model.zoo import shipped_checkpoints
from tofe_edge.runtimes.native_output import swallow_native_stderr
from tofe_edge.runtimes.native_runner import NativeResult, run

pytestmark = pytest.mark.toolchain

FULL_SIZE_PRECISIONS: tuple[Precision, ...] = ("int8 dynamic",)


@dataclass(frozen=True)
class Arm:
    binary: Path
    emulator: tuple[str, ...]

    def __call__(self, model: Path, pixels: bytes) -> NativeResult:
        return run(self.binary, model, pixels, emulator=self.emulator)


@pytest.fixture(scope="module")
def arm() -> Arm:
    built = runner("aarch64")
    return Arm(built.binary, built.emulator)


@pytest.fixture(scope="module")
def host() -> Path:
    return runner("host").binary


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[Precision, Path]:
    folder = tmp_path_factory.mktemp("tiny")
    return {precision: tiny_program(folder, precision) for precision in TINY_PRECISIONS}


class Int8Layers(nn.Module):
    """A convolution and a Linear, which static int8 computes with integers alone; what the net has besides is fp32."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.patches, self.linear = nn.Conv2d(3, 48, 16, 16), nn.Linear(48, 100)

    def forward(self, image: Tensor) -> Tensor:
        patches: Tensor = self.patches(image)
        out: Tensor = self.linear(patches.reshape(1, 48, 16).permute(0, 2, 1))
        return out


def int8_layers() -> bytes:
    with quiet(), swallow_native_stderr():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
            XNNPACKQuantizer,
            get_symmetric_quantization_config,
        )
        from executorch.exir import to_edge_transform_and_lower
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        example = (images(1, seed=1)[0],)
        quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
        prepared = prepare_pt2e(torch.export.export(Int8Layers().eval(), example).module(), quantizer)
        for image in images(4, seed=1):
            prepared(image)
        exported = torch.export.export(convert_pt2e(prepared), example)
        program = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch()
    return bytes(program.buffer)


def test_static_int8_layers_give_the_same_bytes_on_arm(host: Path, arm: Arm, tmp_path: Path) -> None:
    path = tmp_path / "layers.pte"
    path.write_bytes(int8_layers())
    for image in images(4, seed=2):
        pixels = image.numpy().tobytes()
        here = run(host, path, pixels)
        assert len(np.unique(here.outputs[0])) > 20
        assert content(arm(path, pixels)) == content(here)


@dataclass(frozen=True)
class Agreement:
    """Two machines on the same images."""

    identical_logits: int
    identical_selections: int
    snr_db: float
    kept_overlap: float


def compare(host: Path, arm: Arm, model: Path, pixels: Sequence[npt.NDArray[np.float32]], kept: Sequence[int]) -> Agreement:  # fmt: skip
    here = [run(host, model, image.tobytes()) for image in pixels]
    there = [arm(model, image.tobytes()) for image in pixels]
    overlap = [
        kept_overlap(a, b)
        for one, other in zip(here, there)
        for a, b in zip(compose_selections(one.outputs[1:], kept), compose_selections(other.outputs[1:], kept))
    ]
    return Agreement(
        sum(content(one)[0] == content(other)[0] for one, other in zip(here, there)),
        sum(content(one)[1:] == content(other)[1:] for one, other in zip(here, there)),
        snr_db(np.stack([one.outputs[0] for one in here]), np.stack([one.outputs[0] for one in there])),
        float(np.mean(overlap)),
    )


def check(agreement: Agreement, precision: str, count: int) -> None:
    """fp32: rounding apart, the same. int8: what differs differs like int8 from fp32, see docs/native.md."""
    if precision == "fp32":
        assert agreement.identical_selections == count
        assert agreement.snr_db >= FP32_GATES.min_snr_db
        return
    assert agreement.snr_db >= INT8_GATES.min_snr_db
    assert agreement.kept_overlap >= INT8_GATES.min_kept_overlap


@pytest.mark.parametrize("precision", TINY_PRECISIONS)
def test_the_tiny_net_agrees_between_x86_and_arm(
    host: Path, arm: Arm, tiny: dict[Precision, Path], precision: Precision
) -> None:
    pixels = [image.numpy() for image in images(6, seed=2)]
    agreement = compare(host, arm, tiny[precision], pixels, COUNTS.kept)
    print(precision, agreement)
    check(agreement, precision, len(pixels))


@pytest.mark.parametrize("precision", FULL_SIZE_PRECISIONS)
def test_the_shipped_net_agrees_between_x86_and_arm(host: Path, arm: Arm, tmp_path: Path, precision: Precision) -> None:
    checkpoint = next(one for one in shipped_checkpoints() if one.name == "tofe_deit_tiny_063")
    photographs = load_photographs(checkpoint.preprocessing).pixels
    calibration = Calibration(tuple(torch.from_numpy(one.copy()) for one in photographs[1::2]), None)
    request = ConvertRequest(
        checkpoint,
        find_target("executorch"),
        precision[:4],
        None,
        "shipped.pte",
        int8_mode="static" if precision == "int8 static" else "dynamic",
        calibration=calibration if precision == "int8 static" else None,
    )
    path = tmp_path / "shipped.pte"
    path.write_bytes(convert(request).program)
    assert checkpoint.token_counts is not None
    pixels = photographs[::16]
    for image in pixels[:2]:
        assert content(run(host, path, image.tobytes())) == in_python(path, torch.from_numpy(image))
    agreement = compare(host, arm, path, pixels, checkpoint.token_counts.kept)
    print(precision, agreement)
    check(agreement, precision, len(pixels))

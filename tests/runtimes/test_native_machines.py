"""The same models on x86-64 and on an emulated 64-bit ARM: a reproducible one computes the same bytes, an ordinary one about
the same (docs/native.md)."""

import platform
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from conftest import tiny_tofe
from native_builds import Built, runner
from native_programs import TINY_PRECISIONS, NativeResult, Precision, content, in_python, run, tiny_program
from tiny_exports import COUNTS, images
from torch import Tensor, nn

from tofe_edge.converters.executorch import lower
from tofe_edge.converters.layers import RmsNorm
from tofe_edge.converters.pipeline import convert
from tofe_edge.converters.quantize import gather_statistics, plan_int8, quantize
from tofe_edge.converters.reproducible import SCORE_LIMIT, ReproducibleAttention, ReproducibleNorm, reproducible
from tofe_edge.converters.request import Calibration, ConvertRequest
from tofe_edge.converters.static_graph import build_static_graph
from tofe_edge.evaluation.parity import kept_overlap, snr_db
from tofe_edge.evaluation.prediction import compose_selections
from tofe_edge.io.inputs import load_photographs
from tofe_edge.io.targets import FP32_GATES, INT8_GATES, find_target
from tofe_edge.model.backbones import TokenCounts
from tofe_edge.model.zoo import shipped_checkpoints
from tofe_edge.runtimes.native_build import EMULATED_CPU

Pixels = npt.NDArray[np.float32]

SHAPE = (1, 3, 64, 64)


def machine(name: str) -> Built:
    """The runner on an emulated CPU: an ARM one by qemu's name, or x86-64 with nothing wider than AVX2."""
    if name == "Haswell":
        qemu = shutil.which("qemu-x86_64-static") or shutil.which("qemu-x86_64")
        if qemu is None or platform.machine() != "x86_64":
            pytest.skip("needs x86-64 and qemu-x86_64-static; `apt-get install qemu-user-static`")
        return Built(runner("host").binary, (qemu, "-cpu", name))
    arm = runner("aarch64")
    if not arm.emulator and name != EMULATED_CPU:
        pytest.skip(f"this is an ARM machine, but not a {name}")
    return replace(arm, emulator=tuple(name if word == EMULATED_CPU else word for word in arm.emulator))


def noise(count: int, seed: int, scale: float = 1.0) -> list[Pixels]:
    generator = np.random.default_rng(seed)
    return [np.float32(scale) * generator.standard_normal(SHAPE, np.float32) for _ in range(count)]


def results(on: Built, model: Path, pixels: Sequence[Pixels]) -> list[NativeResult]:
    return [run(on.binary, model, image.tobytes(), emulator=on.emulator) for image in pixels]


def differing(one: Built, other: Built, model: Path, pixels: Sequence[Pixels]) -> list[int]:
    """Numbers of the inputs for which any output has another byte."""
    pairs = zip(results(one, model, pixels), results(other, model, pixels))
    return [number for number, (a, b) in enumerate(pairs) if content(a) != content(b)]


def tiny(folder: Path, precision: str, *, ordinary: bool = False, name: str = "deit_tiny_patch16_224") -> Path:
    """The tiny net in ``fp32`` or static ``int8``."""
    graph = build_static_graph(tiny_tofe(name), TokenCounts((9, 5, 3)))
    if not ordinary:
        graph = reproducible(graph)
    if precision == "int8":
        calibration = [torch.from_numpy(image) for image in noise(4, seed=1)]
        graph = quantize(graph, plan_int8(graph, "static"), gather_statistics(graph, calibration))
    path = folder / "net.pte"
    path.write_bytes(lower({"forward": graph}, SHAPE).program)
    return path


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(tmp_path_factory.mktemp("int8"), "int8")


# cortex-a53 has no dot products, neoverse-n1 is a server's.
@pytest.mark.parametrize(("name", "count"), [(EMULATED_CPU, 8), ("cortex-a53", 1), ("neoverse-n1", 1), ("Haswell", 1)])
def test_int8_gives_the_same_bytes_everywhere(host: Built, int8: Path, name: str, count: int) -> None:
    pixels = [*noise(count, seed=2), *noise(1, seed=3, scale=0.01), *noise(1, seed=4, scale=100.0)]
    assert len({content(result)[0] for result in results(host, int8, pixels)}) == len(pixels)
    assert differing(host, machine(name), int8, pixels) == []


def test_fp32_gives_the_same_bytes_on_arm(host: Built, tmp_path: Path) -> None:
    """LV-ViT has convolutions in fp32, and a maximum over tokens."""
    assert differing(host, machine(EMULATED_CPU), tiny(tmp_path, "fp32", name="lvvit_s"), noise(4, seed=7)) == []


def test_an_ordinary_model_does_not(host: Built, tmp_path: Path) -> None:
    """Else the tests above would hold whatever the graph is made of."""
    model = tiny(tmp_path, "fp32", ordinary=True)
    assert differing(host, machine(EMULATED_CPU), model, noise(3, seed=8)) == [0, 1, 2]


class Extremes(nn.Module):
    """Both rewritten operators, on whatever comes in: tokens of any size, scores far beyond the limit."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = ReproducibleNorm(RmsNorm(64, 1e-6))
        self.attention = ReproducibleAttention(nn.Identity(), nn.Identity(), heads=1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        tokens = image.view(3, 64, 64)
        return self.norm(tokens), self.attention.mix(tokens, tokens.permute(0, 2, 1))


def test_large_and_small_tokens_and_scores_at_the_limit_give_the_same_bytes(host: Built, tmp_path: Path) -> None:
    path = tmp_path / "extremes.pte"
    path.write_bytes(lower({"forward": Extremes().eval()}, SHAPE).program)
    ramp = np.linspace(-2 * SCORE_LIMIT, 2 * SCORE_LIMIT, num=np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    sizes = np.logspace(-12, 6, num=192, dtype=np.float32).reshape(1, 3, 64, 1)
    pixels = [ramp, *(image * sizes for image in noise(3, seed=9))]
    assert differing(host, machine(EMULATED_CPU), path, pixels) == []


def check_agreement(host: Built, model: Path, precision: str, pixels: Sequence[Pixels], kept: Sequence[int]) -> None:
    """fp32: the same but for rounding. int8: what differs differs like int8 from fp32, see docs/native.md."""
    here, there = results(host, model, pixels), results(machine(EMULATED_CPU), model, pixels)
    snr = snr_db(np.stack([one.outputs[0] for one in here]), np.stack([one.outputs[0] for one in there]))
    overlaps = [
        kept_overlap(a, b)
        for one, other in zip(here, there)
        for a, b in zip(compose_selections(one.outputs[1:], kept), compose_selections(other.outputs[1:], kept))
    ]
    print(precision, f"{snr} dB, {np.mean(overlaps)} of the tokens")
    if precision == "fp32":
        assert snr >= FP32_GATES.min_snr_db
        assert [content(one)[1:] for one in here] == [content(other)[1:] for other in there]
    else:
        assert snr >= INT8_GATES.min_snr_db
        assert np.mean(overlaps) >= INT8_GATES.min_kept_overlap


@pytest.mark.toolchain
@pytest.mark.parametrize("precision", TINY_PRECISIONS)
def test_the_ordinary_tiny_net_agrees(host: Built, tmp_path: Path, precision: Precision) -> None:
    pixels = [image.numpy() for image in images(6, seed=2)]
    check_agreement(host, tiny_program(tmp_path, precision), precision, pixels, COUNTS.kept)


@pytest.mark.toolchain
@pytest.mark.parametrize("mode", ["dynamic", "static"])
def test_the_shipped_net(host: Built, tmp_path: Path, mode: str) -> None:
    """Dynamic int8 agrees, reproducible static int8 is the same to the byte."""
    checkpoint = next(one for one in shipped_checkpoints() if one.name == "tofe_deit_tiny_063")
    photographs = load_photographs(checkpoint.preprocessing).pixels
    request = ConvertRequest(checkpoint, find_target("executorch"), "int8", None, "shipped.pte")
    if mode == "static":
        calibration = Calibration(tuple(torch.from_numpy(one.copy()) for one in photographs[1::2]), None)
        request = replace(request, int8_mode="static", calibration=calibration, reproducible=True)
    path = tmp_path / "shipped.pte"
    path.write_bytes(convert(request).program)
    if mode == "static":
        assert differing(host, machine(EMULATED_CPU), path, photographs[::2]) == []
        return
    assert checkpoint.token_counts is not None
    pixels = photographs[::16]
    for image, result in zip(pixels[:2], results(host, path, pixels[:2])):
        assert content(result) == in_python(path, torch.from_numpy(image))
    check_agreement(host, path, "int8", pixels, checkpoint.token_counts.kept)

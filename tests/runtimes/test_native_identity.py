"""A reproducible model computes the same bytes on x86-64 and on 64-bit ARM, an ordinary one does not (docs/native.md)."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from conftest import make_tiny_tofe
from native_builds import Built, runner
from torch import Tensor, nn

from tofe_edge.converters.executorch import lower
from tofe_edge.converters.layers import RmsNorm
from tofe_edge.converters.pipeline import convert
from tofe_edge.converters.quantize import gather_statistics, plan_int8, quantize
from tofe_edge.converters.reproducible import SCORE_LIMIT, ReproducibleAttention, ReproducibleNorm, reproducible
from tofe_edge.converters.request import Calibration, ConvertRequest
from tofe_edge.converters.static_graph import build_static_graph
from tofe_edge.io.inputs import load_photographs
from tofe_edge.io.targets import find_target
from tofe_edge.model.backbones import TokenCounts
from tofe_edge.model.zoo import shipped_checkpoints
from tofe_edge.runtimes.native_runner import run
from tofe_edge.runtimes.native_toolchain import EMULATED_CPU

Pixels = npt.NDArray[np.float32]

SHAPE = (1, 3, 64, 64)
OTHER_ARM_CPUS = ("cortex-a53", "neoverse-n1")
"""Without dot products, and a server's."""


@pytest.fixture(scope="module")
def host() -> Built:
    return runner("host")


@pytest.fixture(scope="module")
def arm() -> Built:
    """Cortex-A76, or the machine itself where it is an ARM one."""
    return runner("aarch64")


@pytest.fixture(scope="module")
def haswell(host: Built) -> Built:
    """This machine's program on a CPU whose widest vectors are AVX2."""
    if platform.machine() != "x86_64":
        pytest.skip("an emulated Haswell runs the programs of x86-64 alone")
    qemu = shutil.which("qemu-x86_64-static") or shutil.which("qemu-x86_64")
    if qemu is None:
        pytest.skip("qemu-x86_64-static is not installed; `apt-get install qemu-user-static`")
    return Built(host.binary, (qemu, "-cpu", "Haswell"))


def on(cpu: str, arm: Built) -> Built:
    """The ARM program on another CPU."""
    if not arm.emulator:
        pytest.skip(f"this is an ARM machine: it is no {cpu}")
    return Built(arm.binary, tuple(cpu if word == EMULATED_CPU else word for word in arm.emulator))


def noise(count: int, seed: int, scale: float = 1.0) -> list[Pixels]:
    generator = np.random.default_rng(seed)
    return [np.float32(scale) * generator.standard_normal(SHAPE, np.float32) for _ in range(count)]


def outputs(machine: Built, model: Path, pixels: Pixels) -> list[bytes]:
    """Logits, then one selection a stage."""
    result = run(machine.binary, model, pixels.tobytes(), emulator=machine.emulator)
    return [output.tobytes() for output in result.outputs]


def differing(one: Built, other: Built, model: Path, pixels: Sequence[Pixels]) -> list[int]:
    """Numbers of the inputs of which any output has another byte."""
    return [at for at, image in enumerate(pixels) if outputs(one, model, image) != outputs(other, model, image)]


def tiny(folder: Path, precision: str, *, ordinary: bool = False, name: str = "deit_tiny_patch16_224") -> Path:
    """The tiny net in ``fp32`` or static ``int8``."""
    graph = build_static_graph(make_tiny_tofe(name), TokenCounts((9, 5, 3)))
    if not ordinary:
        graph = reproducible(graph)
    if precision == "int8":
        seen = [torch.from_numpy(image) for image in noise(4, seed=1)]
        graph = quantize(graph, plan_int8(graph, "static"), gather_statistics(graph, seen))
    path = folder / f"{name}-{precision}-{ordinary}.pte"
    path.write_bytes(lower({"forward": graph}, SHAPE).program)
    return path


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory, host: Built, arm: Built) -> Path:
    return tiny(tmp_path_factory.mktemp("int8"), "int8")


def test_int8_gives_the_same_bytes_on_x86_and_arm(host: Built, arm: Built, int8: Path) -> None:
    pixels = [*noise(8, seed=2), *noise(2, seed=3, scale=0.01), *noise(2, seed=4, scale=100.0)]
    assert len({outputs(host, int8, image)[0] for image in pixels}) == len(pixels)
    assert differing(host, arm, int8, pixels) == []


@pytest.mark.parametrize("cpu", OTHER_ARM_CPUS)
def test_so_it_does_on_other_arm_cores(host: Built, arm: Built, int8: Path, cpu: str) -> None:
    assert differing(host, on(cpu, arm), int8, noise(3, seed=5)) == []


def test_so_it_does_without_avx_512(host: Built, haswell: Built, int8: Path) -> None:
    assert differing(host, haswell, int8, noise(2, seed=6)) == []


def test_fp32_gives_the_same_bytes_on_x86_and_arm(host: Built, arm: Built, tmp_path: Path) -> None:
    """Of LV-ViT: convolutions in fp32, and a maximum over tokens."""
    assert differing(host, arm, tiny(tmp_path, "fp32", name="lvvit_s"), noise(4, seed=7)) == []


def test_an_ordinary_model_does_not(host: Built, arm: Built, tmp_path: Path) -> None:
    """Else the tests above would hold whatever the graph is made of."""
    assert differing(host, arm, tiny(tmp_path, "fp32", ordinary=True), noise(3, seed=8)) == [0, 1, 2]


class Extremes(nn.Module):
    """Both rewritten operators, on whatever comes in: tokens of any loudness, scores far beyond the limit."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = ReproducibleNorm(RmsNorm(64, 1e-6))
        self.attention = ReproducibleAttention(nn.Identity(), nn.Identity(), heads=1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        tokens = image.view(3, 64, 64)
        return self.norm(tokens), self.attention.mix(tokens, tokens.permute(0, 2, 1))


def test_loud_and_silent_tokens_and_scores_at_the_limit_do_too(host: Built, arm: Built, tmp_path: Path) -> None:
    path = tmp_path / "extremes.pte"
    path.write_bytes(lower({"forward": Extremes().eval()}, SHAPE).program)
    ramp = np.linspace(-2 * SCORE_LIMIT, 2 * SCORE_LIMIT, num=np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    loudness = np.logspace(-12, 6, num=192, dtype=np.float32).reshape(1, 3, 64, 1)
    assert differing(host, arm, path, [ramp, *(image * loudness for image in noise(3, seed=9))]) == []


@pytest.mark.toolchain
def test_the_shipped_net_gives_the_same_bytes_on_x86_and_arm(host: Built, arm: Built, tmp_path: Path) -> None:
    checkpoint = next(one for one in shipped_checkpoints() if one.name == "tofe_deit_tiny_063")
    photographs = load_photographs(checkpoint.preprocessing).pixels
    calibration = Calibration(tuple(torch.from_numpy(one.copy()) for one in photographs[1::2]), None)
    wanted = ConvertRequest(
        checkpoint,
        find_target("executorch"),
        "int8",
        None,
        "shipped.pte",
        int8_mode="static",
        calibration=calibration,
        reproducible=True,
    )
    path = tmp_path / "shipped.pte"
    path.write_bytes(convert(wanted).program)
    assert differing(host, arm, path, photographs[::2]) == []

"""The native runner, built here: the same bytes as the Python runtime, exit codes, and the same net on 64-bit ARM.

What of an int8 model is the same to the bit on x86-64 and ARM, and what cannot be, is told in docs/native.md.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from converters.executorch import lower
from converters.pipeline import convert
from converters.quantize import Int8Mode, gather_statistics, plan_int8, quantize
from converters.request import Calibration, ConvertRequest
from converters.static_graph import build_static_graph
from runtimes.native_build import build
from runtimes.native_output import swallow_native_stderr
from runtimes.native_runner import BAD_FILE, BAD_INPUT, WRONG_CALL, NativeResult, run
from runtimes.native_toolchain import (
    AARCH64_EXECUTORCH,
    aarch64_emulator,
    aarch64_toolchain,
    host_toolchain,
)
from runtimes.timing import TimingRequest
from tofe_edge.backbones import TokenCounts
from tofe_edge.errors import DeviceError, InputError
from tofe_edge.inputs import load_photographs
from tofe_edge.parity import FP32_GATES, INT8_GATES, kept_overlap, snr_db
from tofe_edge.quiet import quiet
from tofe_edge.selections import compose_selections
from tofe_edge.tofe import ToFe
from tofe_edge.zoo import shipped_checkpoints

Precision = Literal["fp32", "int8-dynamic", "int8-static"]
TINY_PRECISIONS: tuple[Precision, ...] = ("fp32", "int8-static")
"""Lowering is what these tests spend their time on; dynamic int8 is left to the full-size test."""
COUNTS = TokenCounts((9, 5, 3))
SIZE = 64
FULL_SIZE_PRECISIONS: tuple[Precision, ...] = ("int8-dynamic",)
INPUT_BYTES = 3 * SIZE * SIZE * 4


def images(count: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randn(count, 1, 3, SIZE, SIZE, generator=generator))


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        host_toolchain()
    except InputError as error:
        pytest.skip(str(error))
    return build("host", tmp_path_factory.mktemp("host"))


@dataclass(frozen=True)
class Arm:
    binary: Path
    emulator: tuple[str, ...]

    def __call__(self, model: Path, pixels: bytes) -> NativeResult:
        return run(self.binary, model, pixels, emulator=self.emulator)


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Arm:
    try:
        emulator = aarch64_emulator()
        aarch64_toolchain()
    except InputError as error:
        pytest.skip(str(error))
    return Arm(build("aarch64", tmp_path_factory.mktemp("aarch64")), emulator)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, tiny_tofe: Callable[..., ToFe]) -> dict[Precision, Path]:
    """The tiny net in two precisions."""
    folder = tmp_path_factory.mktemp("tiny")
    for precision in TINY_PRECISIONS:
        graph = build_static_graph(tiny_tofe(), COUNTS)
        if precision != "fp32":
            mode: Int8Mode = "static" if precision == "int8-static" else "dynamic"
            graph = quantize(graph, plan_int8(graph, mode), gather_statistics(graph, images(4, seed=1)))
        program = lower({"forward": graph}, (1, 3, SIZE, SIZE)).program
        (folder / f"{precision}.pte").write_bytes(program)
    return {precision: folder / f"{precision}.pte" for precision in TINY_PRECISIONS}


def in_python(model: Path, image: Tensor) -> list[bytes]:
    with swallow_native_stderr():
        from executorch.runtime import Runtime

        method = Runtime.get().load_program(model).load_method("forward")
        assert method is not None
        return [output.numpy().tobytes() for output in method.execute([image])]


def content(result: NativeResult) -> list[bytes]:
    return [output.tobytes() for output in result.outputs]


@pytest.mark.parametrize("precision", TINY_PRECISIONS)
def test_outputs_are_those_of_the_python_runtime_to_the_bit(
    host: Path, tiny: dict[Precision, Path], precision: Precision
) -> None:
    for image in images(4, seed=2):
        result = run(host, tiny[precision], image.numpy().tobytes())
        assert content(result) == in_python(tiny[precision], image)
        assert [(output.dtype.name, output.shape) for output in result.outputs] == [
            ("float32", (1, 10)),
            ("int64", (16,)),
            ("int64", (16,)),
            ("int64", (3,)),
        ]


def test_without_an_input_every_element_is_one_half(host: Path, tiny: dict[Precision, Path], tmp_path: Path) -> None:
    output = tmp_path / "out.bin"
    done = called(host, str(tiny["fp32"]), "--output", str(output))
    assert done.returncode == 0
    assert output.read_bytes() == b"".join(in_python(tiny["fp32"], torch.full((1, 3, SIZE, SIZE), 0.5)))


def test_the_report_is_one_line_of_json_with_statistics_of_all_samples(host: Path, tiny: dict[Precision, Path]) -> None:
    done = called(host, str(tiny["fp32"]), "--runs", "7", "--warmup", "2", "--threads", "2")
    assert done.returncode == 0
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1
    report = json.loads(done.stdout)
    ranked = sorted(report["samples_ms"])
    assert len(ranked) == 7
    assert [report[key] for key in ("min_ms", "p50_ms", "p90_ms", "p99_ms")] == [ranked[0], ranked[3], *2 * [ranked[6]]]
    assert report["threads"] == 2
    assert report["method"] == "forward"
    for key in ("load_ms", "cpu_ms", "planned_bytes"):
        assert report[key] > 0
    # Its own memory, not what the process that started it had: this one holds PyTorch.
    assert 2**20 < report["peak_rss_bytes"] < 2**27
    assert report["outputs"][0] == {"shape": [1, 10], "dtype": "float32", "bytes": 40}


def test_samples_and_memory_reach_python(host: Path, tiny: dict[Precision, Path]) -> None:
    result = run(host, tiny["fp32"], bytes(INPUT_BYTES), TimingRequest(runs=5, warm_up=1))
    assert len(result.latency.samples_ms) == 5
    assert result.latency.to_json()["min"] == min(result.latency.samples_ms) > 0
    assert (result.method, result.threads) == ("forward", 1)
    assert result.planned_bytes is not None
    assert result.peak_rss_bytes is not None
    assert min(result.load_ms, result.planned_bytes, result.peak_rss_bytes, result.latency.cpu_ms) > 0


def called(binary: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(binary), *arguments], capture_output=True, text=True, timeout=60)


def refused(binary: Path, code: int, *arguments: str) -> str:
    done = called(binary, *arguments)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("tofe_runner: ")
    return done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no model given"),
        (["a.pte", "b.pte"], "one model only, not also 'b.pte'"),
        (["a.pte", "--colour", "red"], "unknown option '--colour'"),
        (["a.pte", "--runs"], "--runs needs a value"),
        (["a.pte", "--output", ""], "--output needs a value"),
        (["a.pte", "--runs", "0"], "--runs takes a whole number from 1 to 1000000, not '0'"),
        (["a.pte", "--runs", "+3"], "not '+3'"),
        (["a.pte", "--runs", "99999999999999999999"], "not '99999999999999999999'"),
        (["a.pte", "--warmup", "-1"], "--warmup takes a whole number from 0"),
        (["a.pte", "--threads", "two"], "--threads takes a whole number from 1 to 1024, not 'two'"),
    ],
)
def test_a_wrong_call_names_the_argument_and_shows_the_usage(host: Path, arguments: Sequence[str], said: str) -> None:
    message = refused(host, WRONG_CALL, *arguments)
    assert said in message
    assert "usage: tofe_runner MODEL.pte" in message


def test_help_is_no_error(host: Path) -> None:
    done = called(host, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("usage: tofe_runner MODEL.pte [--method NAME]")


def test_an_unknown_method_is_a_wrong_call_that_lists_those_there_are(host: Path, tiny: dict[Precision, Path]) -> None:
    message = refused(host, WRONG_CALL, str(tiny["fp32"]), "--method", "backward")
    assert "has no method 'backward'; --method takes one of: forward" in message
    with pytest.raises(InputError, match=r"fp32\.pte: has no method 'backward'"):
        run(host, tiny["fp32"], bytes(INPUT_BYTES), TimingRequest(method="backward"))


@pytest.mark.parametrize(
    "head", [b"", b"abc", b"\0" * 4096, b"PK\x03\x04" + b"\0" * 4096, b"\0\0\0\0ET11" + b"\0" * 99], ids=repr
)
def test_what_is_no_program_is_a_bad_file(host: Path, tmp_path: Path, head: bytes) -> None:
    path = tmp_path / "odd.pte"
    path.write_bytes(head)
    assert "odd.pte: is no ExecuTorch program of a known version" in refused(host, BAD_FILE, str(path))


def test_a_missing_file_and_a_folder_are_bad_files(host: Path, tmp_path: Path) -> None:
    assert "none.pte: cannot be opened (No such file" in refused(host, BAD_FILE, str(tmp_path / "none.pte"))
    assert "cannot be read (Is a directory)" in refused(host, BAD_FILE, str(tmp_path))


@pytest.mark.parametrize("share", [0.0, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_a_program_cut_short_is_a_bad_file(
    host: Path, tiny: dict[Precision, Path], tmp_path: Path, share: float
) -> None:
    whole = tiny["fp32"].read_bytes()
    path = tmp_path / "cut.pte"
    path.write_bytes(whole[: 8 + int(share * (len(whole) - 8))])
    assert "cut.pte: ExecuTorch cannot load" in refused(host, BAD_FILE, str(path))
    with pytest.raises(InputError, match=r"cut\.pte: ExecuTorch cannot load"):
        run(host, path, bytes(INPUT_BYTES))


@pytest.mark.parametrize(
    ("size", "said"), [(0, "has 0 bytes"), (INPUT_BYTES - 1, f"has {INPUT_BYTES - 1} bytes"), (INPUT_BYTES + 1, "has more bytes")]
)  # fmt: skip
def test_an_input_of_another_size_is_a_bad_input(
    host: Path, tiny: dict[Precision, Path], tmp_path: Path, size: int, said: str
) -> None:
    path = tmp_path / "in.bin"
    path.write_bytes(bytes(size))
    message = refused(host, BAD_INPUT, str(tiny["fp32"]), "--input", str(path))
    assert f"{said} where the model takes {INPUT_BYTES}; give its input as raw float32" in message
    with pytest.raises(InputError, match=f"where the model takes {INPUT_BYTES}"):
        run(host, tiny["fp32"], bytes(size))


def test_a_missing_input_and_an_output_nowhere(host: Path, tiny: dict[Precision, Path], tmp_path: Path) -> None:
    assert "no.bin: cannot be opened" in refused(
        host, BAD_INPUT, str(tiny["fp32"]), "--input", str(tmp_path / "no.bin")
    )
    nowhere = str(tmp_path / "nowhere" / "out.bin")
    assert "out.bin: cannot be written" in refused(host, WRONG_CALL, str(tiny["fp32"]), "--output", nowhere)


def test_what_cannot_be_started_or_is_no_runner_is_a_device_error(tiny: dict[Precision, Path], tmp_path: Path) -> None:
    for script, said in (
        ("exit 77", "cannot run here, exit code 77"),
        ("echo hello", "its result cannot be read"),
        ("kill -SEGV $$", "ended the native runner with SIGSEGV"),
    ):
        path = tmp_path / "runner"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        with pytest.raises(DeviceError, match=said):
            run(path, tiny["fp32"], b"")
    with pytest.raises(DeviceError, match="cannot be started"):
        run(tmp_path / "none", tiny["fp32"], b"")


def test_a_runner_that_hangs_is_ended(tiny: dict[Precision, Path], tmp_path: Path) -> None:
    path = tmp_path / "runner"
    path.write_text("#!/bin/sh\nexec sleep 60\n")
    path.chmod(0o755)
    with pytest.raises(DeviceError, match=r"took more than 0\.2 s"):
        run(path, tiny["fp32"], b"", timeout_s=0.2)


def test_a_build_folder_moves_as_a_whole(host: Path, tiny: dict[Precision, Path], tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    assert {path.name for path in host.parent.iterdir()} == {"tofe_runner", "lib"}
    subprocess.run(["cp", "-r", str(host.parent), str(moved)], check=True)
    assert run(moved / host.name, tiny["fp32"], bytes(INPUT_BYTES)).outputs[0].shape == (1, 10)


def test_what_is_missing_is_named_with_the_command_that_gets_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.delenv(AARCH64_EXECUTORCH, raising=False)
    with pytest.raises(InputError, match=r"make is not installed; `apt-get install cmake make g\+\+`"):
        host_toolchain()
    for name in ("make", "cmake", "g++", "aarch64-linux-gnu-g++"):
        (tools / name).write_text("#!/bin/sh\n")
        (tools / name).chmod(0o755)
    assert host_toolchain().compiler == tools / "g++"
    with pytest.raises(InputError, match=f"{AARCH64_EXECUTORCH} is not set: .*`pip download .*manylinux_2_28_aarch64"):
        aarch64_toolchain()
    with pytest.raises(InputError, match="holds no unpacked ExecuTorch wheel; `pip download"):
        aarch64_toolchain(tmp_path)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    with pytest.raises(InputError, match="qemu-aarch64-static is not installed; `apt-get install qemu-user-static"):
        aarch64_emulator()


def test_a_wheel_of_another_machine_or_version_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "executorch"
    (package / "share" / "cmake").mkdir(parents=True)
    (package / "lib").mkdir()
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("make", "cmake", "aarch64-linux-gnu-g++"):
        (tools / name).write_text("#!/bin/sh\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setenv(AARCH64_EXECUTORCH, str(tmp_path))
    with pytest.raises(InputError, match=r"libexecutorch\.so: cannot be read \(No such file"):
        aarch64_toolchain()
    library = package / "lib" / "libexecutorch.so"
    (package / "version.py").write_text('__version__ = "0.1.0+cpu"\n')
    library.write_bytes(b"\x7fELF" + bytes(14) + b"\x3e\x00")
    with pytest.raises(InputError, match=r"libexecutorch\.so: is no library for aarch64"):
        aarch64_toolchain()
    library.write_bytes(b"\x7fELF" + bytes(14) + b"\xb7\x00")
    with pytest.raises(InputError, match=r"is ExecuTorch 0\.1\.0, but models are made with"):
        aarch64_toolchain()


def test_a_compiler_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cmake = tmp_path / "cmake"
    cmake.write_text("#!/bin/sh\necho working\necho 'model.cpp:1: error: no' >&2\necho more\nexit 1\n")
    for name in ("make", "g++"):
        (tmp_path / name).write_text("#!/bin/sh\n")
    for path in tmp_path.iterdir():
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    out = tmp_path / "out"
    with pytest.raises(DeviceError, match=r"cannot be built \(cmake: model\.cpp:1: error: no\)$"):
        build("host", out)
    assert not out.exists()


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


@pytest.mark.slow
@pytest.mark.parametrize("precision", FULL_SIZE_PRECISIONS)
def test_the_shipped_net_agrees_between_x86_and_arm(host: Path, arm: Arm, tmp_path: Path, precision: Precision) -> None:
    checkpoint = next(one for one in shipped_checkpoints() if one.name == "tofe_deit_tiny_063")
    photographs = load_photographs(checkpoint.preprocessing).pixels
    calibration = Calibration(tuple(torch.from_numpy(one.copy()) for one in photographs[1::2]), None)
    request = ConvertRequest(
        checkpoint,
        "executorch",
        precision[:4],
        None,
        "shipped.pte",
        int8_mode="static" if precision == "int8-static" else "dynamic",
        calibration=calibration if precision == "int8-static" else None,
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

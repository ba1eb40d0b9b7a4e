"""Bad input: one line that says what is wrong, the promised exit code, and nothing left in the output folder."""

import errno
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import pytest
import torch
from conftest import Program, manifest_for, nearly_full_disk, refusal
from safetensors.torch import load_file, save_file

from tofe_edge import profiles
from tofe_edge.cli.convert import _describe_engines
from tofe_edge.converters import pipeline
from tofe_edge.converters.request import ConvertRequest
from tofe_edge.io.artifact import manifest_path_of
from tofe_edge.io.targets import target_names
from tofe_edge.model import zoo
from tofe_edge.model.checkpoint import Checkpoint
from tofe_edge.workflows.conversion_plan import ConvertOptions, resolve_options, variants_of

PROGRAM_BYTES = b"\0\0\0\0ET12" + bytes(300_000)
"""Has ExecuTorch's magic and is no program."""


class Bench:
    """A folder with good and bad files, an output folder that must stay as it is, and the program."""

    def __init__(self, folder: Path, checkpoint: Checkpoint, program: Program) -> None:
        self.folder, self.checkpoint, self.program = folder, checkpoint, program
        self.out = folder / "out"

    def file(self, name: str, content: bytes | str) -> Path:
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def convert(self, *arguments: object, code: int = 2) -> str:
        line = self.fails("convert", *arguments, "--out", self.out, code=code)
        assert not self.out.exists() or list(self.out.iterdir()) == []
        return line

    def fails(self, *arguments: object, code: int = 2) -> str:
        return refusal(self.program, *arguments, code=code)


@pytest.fixture
def bench(tmp_path: Path, tiny_checkpoint: Checkpoint, program: Program) -> Bench:
    return Bench(tmp_path, tiny_checkpoint, program)


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch, weights: Path) -> None:
    """A zoo of the tiny checkpoint alone."""
    monkeypatch.setattr(zoo, "_FOLDER", weights.parent)


@pytest.fixture
def instant_conversion(monkeypatch: pytest.MonkeyPatch) -> None:
    """Conversion without the minutes of lowering: always the same bytes."""

    def fake(request: ConvertRequest) -> pipeline.Conversion:
        manifest = manifest_for(request.checkpoint, request.file_name, PROGRAM_BYTES)
        return pipeline.Conversion(PROGRAM_BYTES, manifest)

    monkeypatch.setattr(pipeline, "convert", fake)


def test_a_broken_profile_names_file_line_and_key(bench: Bench) -> None:
    shipped = Path(profiles.__file__).with_name("generic_x86.yaml").read_text()
    assert "  threads: 4\n" in shipped
    number = shipped.splitlines().index("  threads: 4") + 1
    path = bench.file("board.yaml", shipped.replace("  threads: 4\n", "  threads: many\n"))
    line = bench.convert("--profile", path)
    assert str(path) in line and "defaults.threads" in line and str(number) in line


def pickled(bench: Bench, name: str) -> Path:
    torch.save({"weight": torch.zeros(2)}, bench.folder / name)
    return bench.folder / name


def plain(bench: Bench) -> Path:
    save_file({"weight": torch.zeros(2)}, bench.folder / "plain.safetensors")
    return bench.folder / "plain.safetensors"


BAD_CHECKPOINTS: dict[str, tuple[Callable[[Bench], Path], str]] = {
    "missing": (lambda b: b.folder / "none.safetensors", r"none\.safetensors: no such checkpoint"),
    "folder": (lambda b: b.folder, "is not a file|neither a shipped one"),
    "text": (lambda b: b.file("a.safetensors", "hello world, not weights"), r"a\.safetensors: is damaged or cut short"),
    "pickle": (lambda b: pickled(b, "a.pth"), r"a\.pth: (it is a PyTorch pickle|holds no vision transformer)"),
    "pickle under a false name": (
        lambda b: pickled(b, "a.safetensors"),
        "it is a PyTorch pickle|holds no vision transformer",
    ),
    "old pickle": (
        lambda b: b.file("a.pth", b"\x80\x02}q\x00."),
        "it is a PyTorch pickle|damaged or not a PyTorch file|no state dict",
    ),
    "plain weights": (plain, "name their net with --backbone|holds no vision transformer"),
    "unknown name": (lambda b: Path("tinny"), "checkpoint 'tinny': neither a shipped one"),
}
"""Files that are cut short anywhere are refused in tests/model/test_checkpoint.py."""


@pytest.mark.parametrize("kind", BAD_CHECKPOINTS)
@pytest.mark.parametrize("command", ["convert", "evaluate", "checkpoints"])
@pytest.mark.usefixtures("shipped")
def test_a_bad_checkpoint_is_refused(bench: Bench, command: str, kind: str, image_folder: Path) -> None:
    make, message = BAD_CHECKPOINTS[kind]
    path = make(bench)
    if command == "convert":
        line = bench.convert("--checkpoint", path, "--precision", "fp32")
    else:
        line = bench.fails(command, path, *(["--data", image_folder] if command == "evaluate" else []))
    assert re.search(message, line), line


def test_dense_weights_of_another_backbone_are_refused(bench: Bench) -> None:
    weights = load_file(bench.checkpoint.path)
    dense = {key.removeprefix("backbone.vit."): value for key, value in weights.items() if key.startswith("backbone.")}
    save_file(dense, bench.folder / "dense.safetensors")
    line = bench.convert(
        "--checkpoint", bench.folder / "dense.safetensors", "--backbone", "deit_tiny_patch16_224", "--precision", "fp32"
    )
    assert "weights do not fit deit_tiny_patch16_224" in line and "they have 4 blocks, it has 12" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "--precision fp16",
            "precision 'fp16' for executorch: XNNPACK computes GELU in fp32 alone; use one of fp32, int8",
        ),
        ("--profile jetson_orim", "'jetson_orim'; did you mean 'jetson_orin'?"),
        ("--backbone deit_tiny_patch16_22", "'deit_tiny_patch16_22' is unknown; did you mean deit_tiny_patch16_224"),
        ("--int8-mode weights", "--int8-mode weights for executorch: use one of dynamic, static"),
        ("--option io=image", "--option io is not an option of target executorch; it is for --target coreml"),
        ("--target coreml --option fps=3", "--option fps is not an option of target coreml; it has io, depl"),
        ("--target coreml --option io=video", "--option io=video: io is one of image, tensor"),
        (
            "--target coreml --precision fp32 --option float32_selectors=true",
            "--option float32_selectors: at --precision fp32 everything is; leave it out",
        ),
        ("--target coreml --int8-mode dynamic", "--int8-mode dynamic for coreml: use one of weights, static"),
        ("--target coreml --batch 2", "a Core ML package takes one image per run"),
        (
            "--target coreml --option deployment_target=iOS7",
            "--option deployment_target=iOS7: is not one of iOS16, iOS17, iOS18, iOS26",
        ),
        (
            "--target coreml --elastic 0.001",
            "several budgets in one package need iOS18, not iOS17; add --option deployment_target=iOS18",
        ),
        (
            "--target coreml --option deployment_target=iOS16",
            "int8 weights need iOS17, not iOS16; add --option deployment_target=iOS17",
        ),
        ("--precision fp32 --calibration .", "--calibration serves int8 and palettes; leave it out for fp32"),
        ("--calibration no/such/folder", "no/such/folder: does not exist; give a folder of images"),
        ("--engine gpu", "--engine gpu: is one of a device profile's engines; name one with --profile"),
        ("--profile raspberry_pi_5 --engine gpu", "raspberry_pi_5 knows none"),
        ("--profile jetson_orin --engine gpu --target onnx", "--engine chooses the target itself; leave --target out"),
        ("--all", "--all: is of a device; give --profile, not --target"),
        ("--profile raspberry_pi_5 --all", "--all: raspberry_pi_5 knows one engine alone; leave it out"),
    ],
)
def test_what_convert_cannot_do_is_refused(bench: Bench, arguments: str, message: str) -> None:
    assert message in bench.convert("--checkpoint", bench.checkpoint.path, *arguments.split())


def test_convert_without_checkpoint_or_budget_says_what_to_give(bench: Bench) -> None:
    assert "say what it must fit: --profile NAME or --max-gmacs G" in bench.convert()


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize("command", ["select", "convert"])
def test_an_infeasible_budget_is_exit_code_1_with_the_feasible_range(bench: Bench, command: str) -> None:
    line = bench.convert("--max-gmacs", 1e-6, code=1) if command == "convert" else bench.fails(
        "select", "--max-gmacs", 1e-6, code=1
    )  # fmt: skip
    assert "budget 1e-06 GMACs (--max-gmacs): nothing fits" in line and "Raise --max-gmacs to" in line


def test_an_output_folder_that_is_a_file_is_refused_and_left_alone(bench: Bench) -> None:
    bench.file("out", "precious")
    line = bench.fails("convert", "--checkpoint", bench.checkpoint.path, "--precision", "fp32", "--out", bench.out)
    assert "cannot be written to" in line and "choose another folder with --out" in line
    assert bench.out.read_text() == "precious"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_output_folder_without_permission_is_refused(bench: Bench) -> None:
    bench.out.mkdir(mode=0o500)
    assert "cannot be written to" in bench.convert("--checkpoint", bench.checkpoint.path, "--precision", "fp32")


@pytest.mark.usefixtures("instant_conversion")
def test_a_read_only_file_system_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "mkdir", refuse)
    line = bench.convert("--checkpoint", bench.checkpoint.path, "--precision", "fp32")
    assert "cannot be written to (Read-only file system)" in line


@pytest.mark.usefixtures("instant_conversion")
def test_a_full_disk_leaves_nothing_behind(bench: Bench) -> None:
    with nearly_full_disk(100_000):
        line = bench.convert("--checkpoint", bench.checkpoint.path, "--precision", "fp32")
    assert "cannot be written" in line and "free some space" in line


def test_a_defect_is_one_line_and_not_a_failed_gate(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("some key")

    monkeypatch.setattr("tofe_edge.workflows.select.choose", broken)
    code, out, err = program("select", "--max-gmacs", "1")
    assert (code, out) == (3, "") and err.count("\n") == 1
    assert "internal error (KeyError: 'some key'); run again with --debug" in err
    with pytest.raises(KeyError):
        program("select", "--max-gmacs", "1", "--debug")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "there is not enough memory;"),
        (MemoryError("Unable to allocate 8.00 GiB for an array"), "not enough memory (8.00 GiB more were asked for);"),
        (
            RuntimeError(
                "DefaultCPUAllocator: can't allocate memory: you tried to allocate 400000 bytes. Error code 12"
            ),
            "not enough memory (400000 bytes more were asked for);",
        ),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "(2.00 GiB more were asked for);"),
    ],
)
def test_too_little_memory_is_one_line(
    program: Program, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    monkeypatch.setattr("tofe_edge.workflows.select.choose", Mock(side_effect=error))
    code, out, err = program("select", "--max-gmacs", "1")
    assert (code, out) == (3, "") and err.count("\n") == 1 and said in err and "internal error" not in err


@pytest.mark.parametrize("call", [("run", "x" * 300 + ".pte", "a.png"), ("checkpoints", "x" * 300 + ".safetensors")])
def test_a_name_too_long_for_the_file_system_is_one_line(call: tuple[str, ...], program: Program) -> None:
    assert refusal(program, *call)


def planned(checkpoint: Checkpoint, **options: Any) -> str:
    """The name of the artifact that these options ask for."""
    return resolve_options(ConvertOptions(checkpoint=checkpoint, **options)).path.name


def test_artifacts_that_differ_share_neither_name_nor_manifest(tiny_checkpoint: Checkpoint) -> None:
    kinds: list[dict[str, Any]] = [
        {"precision": "fp32"},
        {"precision": "int8"},
        {"precision": "int8", "int8_mode": "static"},
    ]
    apple = [{}, {"io": "tensor"}, {"deployment_target": "iOS16"}, {"float32_selectors": "true"}]
    calls = [
        {"target": target, **kind, **rest}
        for target in target_names()
        for kind in kinds
        for rest in ({}, {"image_size": 96})
    ]
    calls += [{"target": "coreml", "precision": "fp16", "options": options} for options in apple]
    for profile in (None, "iphone_15", "jetson_orin"):
        names = [Path(planned(tiny_checkpoint, profile=profile, **call)) for call in calls]
        assert len({manifest_path_of(name) for name in names}) == len(calls), sorted(names)
        assert {name.suffix for name, call in zip(names, calls) if call["target"] == "coreml"} == {".mlpackage"}


@pytest.mark.parametrize("profile", ["iphone_15", "jetson_orin"])
def test_what_the_profile_asks_for_has_the_plain_name(tiny_checkpoint: Checkpoint, profile: str) -> None:
    assert Path(planned(tiny_checkpoint, profile=profile)).stem == f"tiny-{profile}-int8"


def test_an_engine_of_the_device_decides_target_and_precision(tiny_checkpoint: Checkpoint) -> None:
    plans = [
        resolve_options(one) for one in variants_of(ConvertOptions(checkpoint=tiny_checkpoint, profile="jetson_orin"))
    ]
    assert [(plan.request.target.name, plan.request.precision) for plan in plans] == [
        ("executorch", "int8"),
        ("onnx", "fp16"),
    ]
    assert [plan.path.name for plan in plans] == ["tiny-jetson_orin-int8.pte", "tiny-jetson_orin-fp16-onnx.onnx"]
    said = [_describe_engines(cast(Any, SimpleNamespace(plan=plan))) for plan in plans]
    assert said == [[("GPU", "idle; for TensorRT add --engine gpu (onnx, fp16), or --all for both")], []]


def test_nothing_in_a_checkpoints_name_can_leave_the_output_folder(tiny_checkpoint: Checkpoint) -> None:
    name = planned(replace(tiny_checkpoint, name="../../etc/$(reboot) \n; x" + "y" * 300))
    assert len(name) <= 160
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")

"""Where the reference runs: what is said where there is no GPU, where one fails, and that CUDA computes the same."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Program, refusal

from tofe_edge.errors import DeviceError, InputError
from tofe_edge.evaluation.reference import Mode, gpu_failures, load_reference, pick_device, why_no_cuda
from tofe_edge.model.checkpoint import Checkpoint
from tofe_edge.model.tofe import ToFe

OLD_DRIVER = "CUDA initialization: The NVIDIA driver on your system is too old (found version 11040)."


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_no_cuda_is_one_line(no_cuda: None, program: Program, weights: Path, image_folder: Path) -> None:
    arguments = ["evaluate", weights, "--data", image_folder, "--device"]
    line = refusal(program, *arguments, "cuda")
    assert line.startswith("device cuda: ") and line.endswith("; use --device cpu")


def test_auto_means_the_cpu(no_cuda: None, program: Program, weights: Path, image_folder: Path) -> None:
    arguments = ["evaluate", weights, "--data", image_folder]
    assert json.loads(program(*arguments, "--json")[1])["device"] == "cpu"
    assert ", batch, on cpu" in program(*arguments)[1]


def test_the_reason_tells_a_build_from_a_driver(no_cuda: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert why_no_cuda() == f"PyTorch {torch.__version__} is built without CUDA"
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert why_no_cuda() == "PyTorch finds no CUDA device here"


def test_what_cuda_warns_of_becomes_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_old() -> bool:
        warnings.warn(OLD_DRIVER + "\nPlease update it.", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", too_old)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError) as caught:
            pick_device("cuda")
        assert pick_device("auto") == torch.device("cpu")
    assert str(caught.value) == f"device cuda: PyTorch finds no CUDA device here ({OLD_DRIVER}); use --device cpu"


def test_auto_takes_cuda_and_cpu_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert why_no_cuda() is None
    assert [pick_device(name).type for name in ("auto", "cuda", "cpu")] == ["cuda", "cuda", "cpu"]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee"),
            "out of memory with 6 images;",
        ),
        (torch.AcceleratorError("CUDA error: no kernel image\nCompile with"), "CUDA error: no kernel image with 6"),
    ],
)
def test_a_gpu_that_fails_is_one_line_and_exit_code_3(
    program: Program,
    weights: Path,
    image_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    words: str,
) -> None:
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(ToFe, "forward_batch", fail)
    code, out, err = program("evaluate", weights, "--data", image_folder, "--device", "cpu")
    assert (code, out) == (3, "")
    assert err.count("\n") == 1 and err.startswith("tofe-edge: error: device cpu: ") and words in err


def test_a_defect_is_not_taken_for_the_gpus() -> None:
    with pytest.raises(RuntimeError, match="shapes"), gpu_failures(torch.device("cuda"), "with an image"):
        raise RuntimeError("shapes differ")
    with pytest.raises(DeviceError, match="cuda"), gpu_failures(torch.device("cuda"), "with an image"):
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_the_reference_goes_without_tf32(tiny_checkpoint: Checkpoint) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    load_reference(tiny_checkpoint, "batch", "cpu")
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32


@pytest.mark.skipif(
    not torch.cuda.is_available(),
    reason="needs a CUDA device and a PyTorch for it: pip install --force-reinstall torch (not its +cpu build)",
)
@pytest.mark.parametrize("mode", ["batch", "instance", "dense"])
def test_cuda_predicts_what_the_cpu_predicts(tiny_checkpoint: Checkpoint, mode: Mode) -> None:
    pixels = np.random.default_rng(0).standard_normal((32, 3, 64, 64), np.float32)
    here, there = (load_reference(tiny_checkpoint, mode, device).predict(pixels) for device in ("cpu", "cuda"))
    clear = [(a, b) for a, b in zip(here, there, strict=True) if min(a.margins, default=1.0) > 1e-4]
    assert len(clear) >= 24
    for a, b in clear:
        np.testing.assert_allclose(b.logits, a.logits, atol=1e-4)
        assert [set(kept.tolist()) for kept in b.kept] == [set(kept.tolist()) for kept in a.kept]

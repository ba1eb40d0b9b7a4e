"""Programs of the tiny net for the native runner, and what the Python runtime makes of them."""

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tiny_exports
from tiny_exports import SIZE
from torch import Tensor

from tofe_edge.evaluation.golden import golden_path_of
from tofe_edge.io.artifact import Artifact
from tofe_edge.io.quiet import swallow_native_stderr
from tofe_edge.runtimes.native_runner import arguments, call, failure, read_result
from tofe_edge.runtimes.timing import Timing, TimingRequest

Precision = Literal["fp32", "int8 dynamic", "int8 static"]
TINY_PRECISIONS: tuple[Precision, ...] = ("fp32", "int8 static")
"""Dynamic int8 is left to the full-size test."""

INPUT_BYTES = 3 * SIZE * SIZE * 4
ONE_RUN = TimingRequest(runs=1, warm_up=0)


def tiny_program(folder: Path, precision: Precision) -> Path:
    """The tiny net in one precision, without a manifest."""
    path = folder / f"{precision}.pte"
    path.write_bytes(tiny_exports.export(precision).lowered.program)
    return path


def copy_of(artifact: Artifact, folder: Path) -> Path:
    """The model as ``net.pte`` with its manifest and its golden vectors."""
    shutil.copy(artifact.path, folder / "net.pte")
    shutil.copy(artifact.manifest_path, folder / "net.json")
    shutil.copytree(golden_path_of(artifact.path), folder / "net.golden")
    return folder / "net.pte"


def in_python(model: Path, image: Tensor) -> list[bytes]:
    """The outputs of the Python runtime, as bytes."""
    with swallow_native_stderr():
        from executorch.runtime import Runtime

        method = Runtime.get().load_program(model).load_method("forward")
        assert method is not None
        return [output.numpy().tobytes() for output in method.execute([image])]


@dataclass(frozen=True)
class NativeResult:
    """What one call of the runner says, and the outputs of its last run in the program's order."""

    timing: Timing
    method: str
    outputs: tuple[np.ndarray, ...]


def run(
    binary: Path,
    model: Path,
    pixels: bytes,
    request: TimingRequest = ONE_RUN,
    emulator: Sequence[str] = (),
    *,
    timeout_s: float = 600.0,
) -> NativeResult:
    """Run a model on raw float32 ``pixels``. Raises what benches raise for the runner's exit codes."""
    with tempfile.TemporaryDirectory() as name:
        given, made = Path(name) / "input.bin", Path(name) / "output.bin"
        given.write_bytes(pixels)
        words = [*arguments(str(model), request), "--input", str(given), "--output", str(made)]
        done = call(binary, model, words, emulator, timeout_s)
        if done.returncode:
            raise failure(str(binary), str(model), done.returncode, done.stderr)
        timing, document, stored = read_result(done.stdout, request), json.loads(done.stdout), made.read_bytes()
    outputs = []
    for output in document["outputs"]:
        outputs.append(np.frombuffer(stored[: output["bytes"]], output["dtype"]).reshape(output["shape"]))
        stored = stored[output["bytes"] :]
    assert not stored, "the file is as long as its outputs"
    return NativeResult(timing, document["method"], tuple(outputs))


def content(result: NativeResult) -> list[bytes]:
    """The outputs of the native runner, as bytes."""
    return [output.tobytes() for output in result.outputs]

"""Programs of the tiny net for the native runner, and what the Python runtime makes of them."""

import shutil
from pathlib import Path
from typing import Literal

import tiny_exports
from tiny_exports import SIZE
from torch import Tensor

from tofe_edge.evaluation.golden import golden_path_of
from tofe_edge.io.artifact import Artifact
from tofe_edge.runtimes.native_output import swallow_native_stderr
from tofe_edge.runtimes.native_runner import NativeResult

Precision = Literal["fp32", "int8 dynamic", "int8 static"]
TINY_PRECISIONS: tuple[Precision, ...] = ("fp32", "int8 static")
"""Dynamic int8 is left to the full-size test."""

INPUT_BYTES = 3 * SIZE * SIZE * 4


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


def content(result: NativeResult) -> list[bytes]:
    """The outputs of the native runner, as bytes."""
    return [output.tobytes() for output in result.outputs]

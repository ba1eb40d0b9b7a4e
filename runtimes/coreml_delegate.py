"""Running an ExecuTorch program whose delegate is Core ML where there is no Core ML.

The delegate is an ordinary package inside of the program: it is taken out and run by the executor of ML Programs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tofe_edge.errors import DeviceError, InputError
from tofe_edge.io.artifact import Artifact
from tofe_edge.io.files import write_content
from tofe_edge.io.quiet import quiet
from tofe_edge.runtimes.coreml_blob import read_blob
from tofe_edge.runtimes.coreml_engine import Loaded
from tofe_edge.runtimes.coreml_names import IMAGE, LOGITS, token_order

_DELEGATE = "CoreMLBackend"
_PACKAGE = "model.mlpackage"


def load_delegate(artifact: Artifact) -> Loaded:
    """An engine for the program's only delegate, with the names that a package's inputs and outputs have.

    Raises:
        DeviceError: the program does more than call one Core ML delegate.
        InputError: it or the package in it is damaged.
    """
    from tofe_edge.runtimes.mil import load_program, open_package

    blob, places = _take_out(artifact)
    with tempfile.TemporaryDirectory(prefix="tofe-edge-") as scratch, _inside(artifact, Path(scratch)):
        files = {name: part for name, part in read_blob(blob).items() if name.startswith(f"{_PACKAGE}/")}
        if not files:
            raise InputError("the Core ML delegate's data have no package in them; convert the model again")
        write_content(Path(scratch), files)
        program = load_program(open_package(Path(scratch, _PACKAGE)))
    function = program.function
    if len(function.inputs) != 1 or max(places) >= len(function.outputs):
        raise _damaged(artifact, "its call and the package in it differ")
    given, own = function.inputs[0], [function.outputs[place] for place in places]
    known = [LOGITS, *(token_order(stage) for stage in range(1, len(own)))]

    def run(pixels: npt.NDArray[np.float32]) -> Mapping[str, Any]:
        with _inside(artifact, Path(scratch)):
            outputs = program.run({given.name: pixels})
        return {name: outputs[feature.name] for name, feature in zip(known, own)}

    renamed = (replace(feature, name=name) for name, feature in zip(known, own))
    return Loaded(run, replace(function, inputs=(replace(given, name=IMAGE),), outputs=tuple(renamed)), None)


@contextmanager
def _inside(artifact: Artifact, scratch: Path) -> Iterator[None]:
    """Errors name the program, and not the folder that the package in it was unpacked into."""
    try:
        yield
    except InputError as error:
        message = str(error).replace(str(scratch / _PACKAGE), _PACKAGE)
        raise InputError(f"{artifact.path}: {message}") from error


def _take_out(artifact: Artifact) -> tuple[bytes, list[int]]:
    """The delegate's data, and for each output of the program its place among those of the package."""
    try:
        content = artifact.path.read_bytes()
    except OSError as error:
        raise InputError(f"{artifact.path}: cannot be read ({error.strerror or error})") from error
    with quiet():
        from executorch.exir._serialize._program import deserialize_pte_binary

        try:
            program = deserialize_pte_binary(content).program
            (plan,) = program.execution_plan
            (chain,) = plan.chains
            if [delegate.id for delegate in plan.delegates] != [_DELEGATE] or len(chain.instructions) != 1:
                raise DeviceError(
                    f"{artifact.path}: does more than call one Core ML delegate; it runs on macOS and iOS alone"
                )
            # The call names its inputs first and then its outputs, as they leave the package.
            results = chain.instructions[0].instr_args.args[len(plan.inputs) :]
            places = [results.index(value) for value in plan.outputs]
            data = bytes(program.backend_delegate_data[plan.delegates[0].processed.index].data)
        except DeviceError:
            raise
        except Exception as error:
            # The reader follows whatever offsets it finds: any error of Python's can come of that.
            raise _damaged(artifact, "it is cut or no ExecuTorch program") from error
    if not places:
        raise _damaged(artifact, "it has no outputs")
    return data, places


def _damaged(artifact: Artifact, what: str) -> InputError:
    return InputError(f"{artifact.path}: is damaged ({what}); copy or convert the model again")

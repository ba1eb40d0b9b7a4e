"""Running an ExecuTorch program whose delegate is Core ML where there is no Core ML.

The delegate is an ordinary package inside of the program: it is taken out and run by the executor of ML Programs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from runtimes.coreml import Engine
from tofe_edge.artifact import Artifact
from tofe_edge.coreml_names import LOGITS, token_order
from tofe_edge.errors import DeviceError
from tofe_edge.quiet import quiet

_DELEGATE = "CoreMLBackend"


def delegate_engine(artifact: Artifact) -> Engine:
    """An engine for the program's only delegate.

    Raises:
        DeviceError: the program does more than call one Core ML delegate.
        InputError: the package in it is damaged.
    """
    from runtimes.mil import load_program, open_package

    with tempfile.TemporaryDirectory(prefix="tofe-edge-") as scratch:
        package, places = _take_out(artifact, Path(scratch))
        program = load_program(open_package(package))
    (given,) = (feature.name for feature in program.function.inputs)
    own_names = [program.function.outputs[place].name for place in places]
    known = [LOGITS, *(token_order(stage) for stage in range(1, len(own_names)))]

    def run(pixels: npt.NDArray[np.float32]) -> Mapping[str, Any]:
        outputs = program.run({given: pixels})
        return {name: outputs[own] for name, own in zip(known, own_names)}

    return run


def _take_out(artifact: Artifact, folder: Path) -> tuple[Path, list[int]]:
    """The package, and for each output of the program its place among those of the package."""
    with quiet():
        from executorch.backends.apple.coreml import executorchcoreml
        from executorch.exir._serialize._program import deserialize_pte_binary

        file = deserialize_pte_binary(artifact.path.read_bytes())
        (plan,) = file.program.execution_plan
        (chain,) = plan.chains
        if [delegate.id for delegate in plan.delegates] != [_DELEGATE] or len(chain.instructions) != 1:
            raise DeviceError(
                f"{artifact.path}: does more than call one Core ML delegate; it runs on macOS and iOS alone"
            )
        data = bytes(file.program.backend_delegate_data[plan.delegates[0].processed.index].data)
        executorchcoreml.unflatten_directory_contents(data, str(folder.resolve()))
    # The call names its inputs first and then its outputs, as they leave the package.
    results = chain.instructions[0].instr_args.args[len(plan.inputs) :]
    (package,) = folder.glob("*/model.mlpackage")
    return package, [results.index(value) for value in plan.outputs]

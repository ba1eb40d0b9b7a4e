"""ExecuTorch's own recipe on the plain graph: export, (static int8 of all that XNNPACK quantizes,) lower, run."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from benchmarks.contenders.contender import Built, Pixels, Recipe, Run, Subject
from tofe_edge.io.quiet import quiet, swallow_native_stderr
from tofe_edge.runtimes.executorch import set_threads


def run_program(program: bytes, threads: int) -> Run:
    """Load an ExecuTorch program whose first output is the logits."""
    with swallow_native_stderr():
        from executorch.runtime import Runtime

        # The pool's size counts for programs loaded after it is set.
        set_threads(threads)
        loaded = Runtime.get().load_program(program)
        method = loaded.load_method("forward")
    assert method is not None

    # The program is bound with the method, which points into its memory.
    def run(pixels: Pixels, loaded: Any = loaded, method: Any = method) -> Any:
        return method.execute([torch.from_numpy(pixels)])[0].numpy()

    return run


def _make(subject: Subject, int8: bool) -> Built:
    with quiet(), swallow_native_stderr():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
            XNNPACKQuantizer,
            get_symmetric_quantization_config,
        )
        from executorch.devtools.backend_debug import get_delegation_info
        from executorch.exir import to_edge_transform_and_lower
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        example = (subject.example(),)
        program = torch.export.export(subject.plain(), example)
        if int8:
            quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
            prepared = prepare_pt2e(program.module(), quantizer)
            for pixels in subject.calibration:
                prepared(torch.from_numpy(pixels))
            program = torch.export.export(convert_pt2e(prepared), example)
        edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
        delegates = int(get_delegation_info(edge.exported_program().graph_module).num_delegated_subgraphs)
        content = bytes(edge.to_executorch().buffer)
    return Built(run_program(content, subject.threads), len(content), delegates)


RECIPES = (
    Recipe("stock ExecuTorch", "fp32", partial(_make, int8=False)),
    Recipe("stock ExecuTorch", "int8 static", partial(_make, int8=True)),
)

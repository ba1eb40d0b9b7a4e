"""Lowering a static graph to an ExecuTorch program whose one delegate is Core ML."""

from __future__ import annotations

import hashlib
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from tofe_edge.converters.coreml_package import NAMESPACE, package_files
from tofe_edge.converters.executorch import finished
from tofe_edge.converters.lowered import Lowered
from tofe_edge.io.files import write_content
from tofe_edge.io.quiet import quiet


def lower(
    methods: Mapping[str, nn.Module],
    input_shape: tuple[int, ...],
    deployment_target: str,
    precision: Literal["fp32", "fp16"],
) -> Lowered:
    """Export graphs of :func:`tofe_edge.converters.coreml_graph.native_graph` and hand them to Core ML whole.

    Args:
        input_shape: ``(1, 3, H, W)``, of all of them.
    """
    with quiet():
        import coremltools as ct
        from executorch.backends.apple.coreml.compiler import CoreMLBackend
        from executorch.backends.apple.coreml.partition import CoreMLPartitioner
        from executorch.exir import to_edge_transform_and_lower

        options = CoreMLBackend.generate_compile_specs(
            compute_precision=ct.precision.FLOAT16 if precision == "fp16" else ct.precision.FLOAT32,
            minimum_deployment_target=getattr(ct.target, deployment_target),
            compute_unit=ct.ComputeUnit.ALL,
            model_type=CoreMLBackend.MODEL_TYPE.MODEL,
        )
        example = (torch.zeros(*input_shape),)
        with torch.no_grad(), _stable_packages(CoreMLBackend):
            programs = {name: torch.export.export(graph, example) for name, graph in methods.items()}
            edge = to_edge_transform_and_lower(
                programs, partitioner={name: [CoreMLPartitioner(compile_specs=options)] for name in programs}
            )
        return finished(edge, list(programs))


@contextmanager
def _stable_packages(backend: Any) -> Iterator[None]:
    """Have the delegate's package written by :func:`package_files`: ExecuTorch 1.5 draws its identifiers at random, so
    that no two conversions give the same bytes."""
    original = backend.preprocess_model

    def preprocess(mlmodel: Any, model_type: Any) -> Any:
        from executorch.backends.apple.coreml import executorchcoreml
        from executorch.exir.backend.backend_details import PreprocessResult

        assert model_type == backend.MODEL_TYPE.MODEL, "what this project asks for"
        spec = mlmodel.get_spec()
        files = package_files(spec, (Path(mlmodel.weights_dir) / "weight.bin").read_bytes())
        digest = hashlib.sha256(b"".join(files[name] for name in sorted(files))).hexdigest()
        identifier = f"executorch_{uuid.uuid5(NAMESPACE, digest)}"
        with tempfile.TemporaryDirectory(prefix="tofe-edge-") as scratch:
            folder = Path(scratch) / "lowered_module"
            write_content(folder / "model.mlpackage", files)
            backend.save_model_metadata(
                model_metadata=backend.model_metadata_from_spec(model_spec=spec, identifier=identifier),
                model_dir_path=folder,
            )
            content = executorchcoreml.flatten_directory_contents(str(folder.resolve()))
        return PreprocessResult(processed_bytes=content, debug_handle_map=None)

    backend.preprocess_model = staticmethod(preprocess)
    try:
        yield
    finally:
        backend.preprocess_model = staticmethod(original)

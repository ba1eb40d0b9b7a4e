"""Running Core ML ML Programs (``.mlpackage``) on any operating system, with PyTorch as compute.

The program is read from its protobuf and weight files directly; nothing of Core ML is needed.
See ``docs/coreml-executor.md``.
"""

from tofe_edge.runtimes.mil.loading import Operation, Result
from tofe_edge.runtimes.mil.operators import OPERATORS
from tofe_edge.runtimes.mil.package import Feature, Function, Metadata, MlPackage, open_package
from tofe_edge.runtimes.mil.program import Output, Program, load_program

__all__ = [
    "OPERATORS",
    "Feature",
    "Function",
    "Metadata",
    "MlPackage",
    "Operation",
    "Output",
    "Program",
    "Result",
    "load_program",
    "open_package",
]

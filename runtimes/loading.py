"""Loading an artifact into the runtime that its target needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tofe_edge.evaluation.prediction import Prediction
from tofe_edge.io.artifact import DEFAULT_METHOD, Artifact, Method


class Model(Protocol):
    """A loaded method of an artifact, whichever the runtime."""

    @property
    def method(self) -> Method:
        """The budget that it runs."""
        ...

    @property
    def load_ms(self) -> float:
        """What loading took."""
        ...

    def __call__(self, pixels: npt.NDArray[np.float32]) -> Prediction:
        """Classify a normalised input ``(1, 3, H, W)``."""
        ...

    def predict(self, images: Sequence[npt.NDArray[np.float32]]) -> list[Prediction]:
        """Classify several."""
        ...


def load_model(artifact: Artifact, threads: int, method: str = DEFAULT_METHOD) -> Model:
    """Load one method of a checked artifact; ``threads`` counts for ExecuTorch, Core ML has its own.

    Raises:
        InputError: the artifact is damaged, or has no such method.
        DeviceError: the runtime cannot load it.
    """
    from tofe_edge.runtimes import coreml, executorch

    by_executorch = artifact.manifest.target == "executorch"
    if artifact.manifest.backend == "coreml" and not (by_executorch and coreml.has_core_ml()):
        return coreml.load(artifact, method)

    return executorch.load(artifact, threads, method)

"""Loading an artifact into the runtime of its target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tofe_edge.evaluation.prediction import Prediction
from tofe_edge.io.artifact import DEFAULT_METHOD, Artifact, Method
from tofe_edge.io.targets import target_of
from tofe_edge.runtimes.trial import try_first


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


def open_model(artifact: Artifact, threads: int, method: str = DEFAULT_METHOD, provider: str | None = None) -> Model:
    """Load one method of a checked artifact, after a trial if it is not known.

    A runtime that has threads of its own does not read ``threads``.

    Args:
        provider: what computes, for a runtime that has several; ``None``: its default.

    Raises:
        InputError: the artifact is damaged, or has no such method; the runtime has no such provider.
        DeviceError: the runtime cannot load it, or it failed its trial.
    """
    target = target_of(artifact.manifest)
    if provider is not None:
        target.check_runtime_option("provider", artifact.path)
    artifact.manifest.method(method)
    try_first(artifact)
    model: Model = target.open(artifact, threads, method, provider)
    return model

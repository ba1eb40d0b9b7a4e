"""An artifact with several budgets, run against a deadline: each run takes the method that the policy chose."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tofe_edge.evaluation.prediction import Prediction
from tofe_edge.io.artifact import Artifact
from tofe_edge.runtimes.deadline import DeadlinePolicy
from tofe_edge.runtimes.executorch import ExecuTorchModel, load_methods


@dataclass(frozen=True)
class ElasticModel:
    """A program's methods and the policy that picks one of them for every run."""

    methods: dict[str, ExecuTorchModel]
    policy: DeadlinePolicy

    def __call__(self, pixels: npt.NDArray[np.float32]) -> Prediction:
        """Classify with the current method and tell the policy how long it took."""
        model = self.methods[self.policy.method]
        begun = time.perf_counter()
        prediction = model(pixels)
        self.policy.observe((time.perf_counter() - begun) * 1e3)
        return prediction


def load_elastic(artifact: Artifact, threads: int, deadline_ms: float) -> ElasticModel:
    """Load every method of an artifact under a deadline in milliseconds; with one method there is nothing to choose.

    Raises:
        As :func:`tofe_edge.runtimes.executorch.load`, and :class:`InputError` for a deadline that is not positive.
    """
    methods = artifact.manifest.methods
    policy = DeadlinePolicy({name: method.gmacs for name, method in methods.items()}, deadline_ms)
    return ElasticModel(load_methods(artifact, threads, list(methods)), policy)

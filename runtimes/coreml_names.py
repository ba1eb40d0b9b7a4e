"""Names of a Core ML package's functions, inputs and outputs: what Xcode makes Swift properties of."""

from __future__ import annotations

from tofe_edge.io.artifact import DEFAULT_METHOD

IMAGE = "image"
LABEL = "classLabel"
PROBABILITIES = "classLabel_probs"
"""Of all classes, by label."""
LOGITS = "logits"


def token_order(stage: int) -> str:
    """The output with the selection of a stage, counted from 1."""
    return f"tokenOrder{stage}"


def function_name(method: str) -> str:
    """The function of a method: Core ML calls the one that runs by default ``main``."""
    return "main" if method == DEFAULT_METHOD else method

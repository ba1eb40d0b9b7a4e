"""What runs a function of a Core ML package, whichever it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from tofe_edge.runtimes.mil import Function


class Engine(Protocol):
    """What runs a function of a package."""

    def __call__(self, pixels: npt.NDArray[np.float32]) -> Mapping[str, Any]:
        """Outputs by name for the input ``(1, 3, H, W)`` that the package takes."""
        ...


@dataclass(frozen=True)
class Loaded:
    """An engine, and what the package says of the function that it runs.

    Attributes:
        engine: runs it.
        function: its inputs and outputs.
        labels: of its classes, in their order; ``None`` where it has none.
    """

    engine: Engine
    function: Function
    labels: tuple[object, ...] | None

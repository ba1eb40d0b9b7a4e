"""Where the time of a model goes on this machine, for commands that have more to tell than that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tofe_edge.errors import DeviceError
from tofe_edge.io.artifact import DEFAULT_METHOD
from tofe_edge.io.progress import warn

if TYPE_CHECKING:
    from tofe_edge.io.artifact import Artifact
    from tofe_edge.runtimes.etdump import Breakdown


def traced(artifact: Artifact, threads: int, method: str = DEFAULT_METHOD, cpus: str = "") -> Breakdown | None:
    """Time per stage and operator on these cores; ``None``, with a warning, where the trace has an unknown shape."""
    from tofe_edge.runtimes.affinity import bound_to
    from tofe_edge.runtimes.etdump import break_down

    try:
        with bound_to(cpus):
            return break_down(artifact, threads, method)
    except DeviceError as error:
        # What was measured before must not be thrown away.
        warn(f"no breakdown: {error}")
        return None

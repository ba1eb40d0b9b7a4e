"""Time spent inside an ONNX file: per operator, stage and execution provider, from ONNX Runtime's trace."""

from __future__ import annotations

import json
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tofe_edge.io.artifact import Artifact
from tofe_edge.runtimes.bench import bound_to
from tofe_edge.runtimes.breakdown import Breakdown, stage_names, summed, times_by_stage
from tofe_edge.runtimes.onnx import load, noise_for, provider_name

_RUNS = 20
_KERNEL = "_kernel_time"


@dataclass(frozen=True)
class NodeTime:
    """One operator as it ran, after the runtime's fusions."""

    name: str
    operator: str
    provider: str
    ms: float


def trace(artifact: Artifact, threads: int, provider: str | None, cpus: str) -> tuple[Breakdown, dict[str, int]]:
    """Where the time of a run goes, and how many operators each execution provider ran.

    Raises:
        InputError, DeviceError: as :func:`tofe_edge.runtimes.onnx.load`.
    """
    pixels = noise_for(artifact)
    with tempfile.TemporaryDirectory(prefix="tofe-edge-") as folder, bound_to(cpus):
        model = load(artifact, threads, provider=provider, trace_prefix=str(Path(folder) / "trace"))
        for _ in range(_RUNS):
            model.execute(pixels)
        nodes = node_times(json.loads(Path(model.end_profiling()).read_text(encoding="utf-8")))
    stages = times_by_stage(((node.name, node.ms) for node in nodes), stage_names(artifact.manifest))
    operators = sorted(summed((node.operator, node.ms) for node in nodes), key=lambda share: -share.ms)
    return Breakdown(tuple(stages), tuple(operators), "median"), dict(Counter(node.provider for node in nodes))


def node_times(events: Sequence[Any]) -> list[NodeTime]:
    """Median times of a trace's operators, in the order in which they ran."""
    samples: dict[str, list[float]] = defaultdict(list)
    about: dict[str, Any] = {}
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith(_KERNEL):
            samples[name].append(event["dur"] / 1e3)
            about.setdefault(name, event["args"])
    return [
        NodeTime(
            name.removesuffix(_KERNEL),
            args["op_name"],
            provider_name(args["provider"]),
            median(samples[name]),
        )
        for name, args in about.items()
    ]

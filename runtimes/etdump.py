"""Time spent inside an ExecuTorch artifact: per operator and per ToFe stage, from ETDump."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tofe_edge.errors import DeviceError, first_line
from tofe_edge.io.artifact import DEFAULT_METHOD, Artifact, Manifest
from tofe_edge.io.progress import warn
from tofe_edge.io.quiet import quiet, swallow_native_stderr
from tofe_edge.runtimes.bench import bound_to
from tofe_edge.runtimes.breakdown import Breakdown, TimeShare, stage_names, summed
from tofe_edge.runtimes.executorch import check_program, set_threads

_RUNS = 20
_VIEW = "et_view"
"""A reshaping that moves nothing."""

_DELEGATE = "DELEGATE_CALL"
_FALLBACK = "native_call_"
_NUMBERING = re.compile(r"\s*#\d+$")


@dataclass(frozen=True)
class Event:
    """Undisturbed time of one step of the program, the least of all runs; ``inside`` a delegate or a step of the program itself."""

    name: str
    inside: bool
    instruction: int
    ms: float


def break_down(artifact: Artifact, threads: int, method: str = DEFAULT_METHOD, runs: int = _RUNS) -> Breakdown:
    """Run one method of a checked artifact with tracing and sum its events by stage and by kind of operator.

    Raises:
        InputError: the file is not an ExecuTorch program, or it has no such method.
        DeviceError: ExecuTorch fails, or the trace does not have the shape the manifest promises.
    """
    artifact.manifest.method(method)
    check_program(artifact)
    set_threads(threads)
    events = _trace(artifact, method, runs)
    return Breakdown(tuple(stage_times(events, artifact.manifest)), tuple(operator_times(events)))


def trace(artifact: Artifact, threads: int, method: str = DEFAULT_METHOD, cpus: str = "") -> Breakdown | None:
    """Time per stage and operator on these cores; ``None``, with a warning, if the trace has an unknown shape."""
    try:
        with bound_to(cpus):
            return break_down(artifact, threads, method)
    except DeviceError as error:
        # What was measured before must not be thrown away.
        warn(f"no breakdown: {error}")
        return None


def stage_times(events: Sequence[Event], manifest: Manifest) -> list[TimeShare]:
    """Delegates are stages; what runs between two delegates is a selection, before the first one a preparation.

    Raises:
        DeviceError: there are not as many delegates as stages.
    """
    names = stage_names(manifest) if manifest.selection != "rank" else ["the whole net"]
    shares: list[TimeShare] = []
    stages = steps = 0
    between = 0.0
    for event in events:
        if event.inside or _VIEW in event.name:
            continue
        if event.name != _DELEGATE:
            between += event.ms
            steps += 1
            continue
        if steps:
            shares.append(TimeShare(f"selection {stages}" if stages else "preparation", between, steps))
            between, steps = 0.0, 0
        inner = sum(1 for other in events if other.inside and other.instruction == event.instruction)
        if stages >= len(names):
            raise DeviceError(f"{manifest.artifact}: its trace has more than the {len(names)} delegates expected")
        shares.append(TimeShare(names[stages], event.ms, inner))
        stages += 1
    if steps and manifest.output == "features":
        shares.append(TimeShare("patches in raster order", between, steps))
    if stages != len(names):
        raise DeviceError(f"{manifest.artifact}: its trace has fewer than the {len(names)} delegates expected")
    return shares


def operator_times(events: Sequence[Event]) -> list[TimeShare]:
    """Sums by kind of operator, largest first. A delegate call counts as its inner operators, not itself."""
    kinds = (
        (_NUMBERING.sub("", event.name).removeprefix(_FALLBACK), event.ms)
        for event in events
        if event.name != _DELEGATE
    )
    return sorted(summed(kinds), key=lambda share: -share.ms)


def _trace(artifact: Artifact, method: str, runs: int) -> list[Event]:
    size = artifact.manifest.preprocessing.image_size
    pixels = torch.zeros(artifact.manifest.batch, 3, size, size)
    with tempfile.TemporaryDirectory(prefix="tofe-edge-") as folder:
        dump = Path(folder) / "trace.etdp"
        try:
            with swallow_native_stderr():
                from executorch.extension.pybindings.portable_lib import _load_for_executorch

                # Any non-zero debug buffer that is too small aborts the process; zero asks for times only.
                module = _load_for_executorch(str(artifact.path), enable_etdump=True, debug_buffer_size=0)
                for _ in range(runs):
                    module.run_method(method, (pixels,))
                module.write_etdump_result_to_file(str(dump), str(Path(folder) / "unused.bin"))
        except RuntimeError as error:
            raise DeviceError(f"{artifact.path}: ExecuTorch failed to trace it ({first_line(error)})") from error
        return _read_events(dump)


def _read_events(dump: Path) -> list[Event]:
    with quiet():
        from executorch.devtools import Inspector

        blocks: list[Any] = [
            block for block in Inspector(etdump_path=str(dump)).event_blocks if block.name == "Execute"
        ]
    return [
        Event(event.name, bool(event.is_delegated_op), event._instruction_id, min(event.perf_data.raw))
        for block in blocks
        for event in block.events
        if event.perf_data is not None
        and (event.is_delegated_op or event.name == _DELEGATE or event.name.startswith(_FALLBACK))
    ]

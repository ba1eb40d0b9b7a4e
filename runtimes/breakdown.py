"""One run of a model taken apart: shares of its time by stage and by kind of operator, whatever runtime traced it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tofe_edge.io.artifact import Manifest

_STAGE = re.compile(r"stage([0-9]+)/")


@dataclass(frozen=True)
class TimeShare:
    """A named part of a run and its time in milliseconds; ``count`` operators make it up."""

    name: str
    ms: float
    count: int


@dataclass(frozen=True)
class Breakdown:
    """One run taken apart, with tracing on.

    Operators may add up to a little less than the stages: calling a delegate takes time, too.
    """

    stages: tuple[TimeShare, ...]
    operators: tuple[TimeShare, ...]
    """Largest first."""
    statistic: str = "fastest"
    """What is given of the runs of each step; other work is not in the fastest."""


def stage_names(manifest: Manifest) -> list[str]:
    """What each delegate computes, in the paper's words: ``["stem, blocks 1-3, selector 1", …]``, 1-based."""
    names = []
    first = 1
    last_stage = len(manifest.stage_blocks) - 1
    for stage, blocks in enumerate(manifest.stage_blocks):
        parts = ["stem"] if stage == 0 else []
        parts.append(f"blocks {first}-{first + blocks - 1}" if blocks > 1 else f"block {first}")
        if 1 <= stage < last_stage:
            parts.append(f"approximator {stage}")
        parts.append(f"selector {stage + 1}" if stage < last_stage else "head" if manifest.classifies else "last norm")
        names.append(", ".join(parts))
        first += blocks
    return names


def times_by_stage(layers: Iterable[tuple[str, float]], names: Sequence[str]) -> list[TimeShare]:
    """Sums by stage of layers in the order in which they ran, each a name that tells its stage, ``stage1/…``, and milliseconds.

    One whose name does not tell is of the stage before it. Empty if a runtime fused operators of several stages.
    """
    stage, rows = 1, []
    for layer, ms in layers:
        # What puts the patches of features in order counts as one more stage in names.
        found = {min(int(number), len(names)) for number in _STAGE.findall(layer)}
        if len(found) > 1:
            return []
        stage = found.pop() if found else stage
        rows.append((names[stage - 1], ms))
    return summed(rows)


def summed(rows: Iterable[tuple[str, float]]) -> list[TimeShare]:
    """Times by name, added up, in the order in which names first come."""
    sums: dict[str, list[float]] = defaultdict(list)
    for name, ms in rows:
        sums[name].append(ms)
    return [TimeShare(name, sum(times), len(times)) for name, times in sums.items()]

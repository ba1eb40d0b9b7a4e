"""The nets of the throughput benchmark: checkpoints, and backbones with random weights and given token counts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.subjects import Nets, from_backbone, from_checkpoint
from tofe_edge.model.backbones import TokenCounts


@dataclass(frozen=True)
class NamedNet:
    """A backbone with random weights: throughput does not depend on them."""

    backbone: str
    counts: TokenCounts


NAMED = {
    # Counts that fall by the same factor a stage, whose whole net has 1.997 GMACs. The paper says that of its DeiT-S at
    # 2.0 of 4.6 GMACs, 2.30 times the dense net's throughput on an RTX 4090, without naming its counts.
    "deit_small_2.0": NamedNet("deit_small", TokenCounts((81, 33, 13))),
}


@dataclass(frozen=True)
class Entry:
    """Dense and ToFe, under the name by which they were asked for."""

    name: str
    nets: Nets


def open_net(text: str) -> Entry:
    """A name of :data:`NAMED`, ``BACKBONE:A,B,C``, a shipped checkpoint's name or a checkpoint file.

    Raises:
        InputError: there is none such, or it has no token counts.
    """
    named = NAMED.get(text)
    if named is None and ":" in text and not Path(text).exists():
        backbone, _, counts = text.partition(":")
        named = NamedNet(backbone, TokenCounts.parse(counts))
    if named is not None:
        return Entry(text, from_backbone(named.backbone, named.counts, None))
    nets = from_checkpoint(text, None)
    return Entry(nets.weights["ToFe"], nets)

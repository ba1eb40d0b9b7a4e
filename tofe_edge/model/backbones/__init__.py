"""Dense vision transformers that ToFe can be put on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tofe_edge.errors import InputError
from tofe_edge.model.backbones import lvvit
from tofe_edge.model.backbones.adapter import BackboneAdapter
from tofe_edge.model.backbones.spec import OVERRIDES, Backbone, TokenCounts, check_stages

__all__ = ["Backbone", "BackboneAdapter", "TokenCounts", "create_backbone"]


def create_backbone(
    name: str,
    overrides: Mapping[str, int] | None = None,
    pretrained: bool = False,
    stages: Sequence[int] | None = None,
) -> BackboneAdapter:
    """Build a backbone by name: ``lvvit_s``, ``lvvit_m``, or any plain vision transformer of timm.

    Args:
        stages: blocks before which tokens are selected, from 0; ``None``: the paper's.

    Raises:
        InputError: the name is unknown, an override is, the stages do not fit, or the net cannot carry ToFe (the reason is said).
    """
    for key, value in (overrides or {}).items():
        if key not in OVERRIDES or value < 1:
            raise InputError(f"backbone {name!r}: {key}={value} is not a positive {', '.join(OVERRIDES)}")
    host = _create(name, overrides or {}, pretrained)
    if stages is not None:
        host.spec = replace(host.spec, stages=check_stages(stages, host.spec.depth))
    return host


def _create(name: str, overrides: Mapping[str, int], pretrained: bool) -> BackboneAdapter:
    if name in lvvit.model_names():
        return lvvit.create(name, overrides)
    from tofe_edge.model.backbones import timm_vit

    return timm_vit.create(name, overrides, pretrained)

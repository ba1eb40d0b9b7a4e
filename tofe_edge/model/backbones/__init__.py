"""Dense vision transformers that ToFe can be put on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tofe_edge.errors import InputError
from tofe_edge.model.backbones import lvvit, timm_vit
from tofe_edge.model.backbones.adapter import BackboneAdapter
from tofe_edge.model.backbones.spec import OVERRIDES, Backbone, Output, Reduction, TokenCounts, check_stages

__all__ = ["Backbone", "BackboneAdapter", "Output", "Reduction", "TokenCounts", "create_backbone"]


def create_backbone(
    name: str,
    overrides: Mapping[str, int] | None = None,
    pretrained: bool = False,
    stages: Sequence[int] | None = None,
    reduction: Reduction = "paper",
    thaws_last: bool = False,
) -> BackboneAdapter:
    """Build a backbone by name: ``lvvit_s``, ``lvvit_m``, or any plain vision transformer of timm.

    Args:
        overrides: see :data:`tofe_edge.model.backbones.spec.OVERRIDES`; 0 classes: no head.
        stages: blocks before which tokens are selected, from 0; ``None``: the paper's.
        reduction: how tokens are selected, and what frozen ones do.
        thaws_last: whether tokens frozen in the last stage thaw by an approximator of their own.

    Raises:
        InputError: the name is unknown, an override is, the stages do not fit, or the net cannot carry ToFe (the reason is said).
    """
    for key, value in (overrides or {}).items():
        if key not in OVERRIDES or value < (key != "classes"):
            raise InputError(f"backbone {name!r}: {key}={value} is not a positive {', '.join(OVERRIDES)}")
        if value > OVERRIDES[key]:
            raise InputError(f"backbone {name!r}: {key}={value} is more than {OVERRIDES[key]}, the most that is taken")
    backbone = _create(name, overrides or {}, pretrained)
    stages = backbone.spec.stages if stages is None else check_stages(stages, backbone.spec.depth)
    thaws_last = thaws_last or backbone.spec.pool != "token"
    backbone.spec = replace(backbone.spec, stages=stages, reduction=reduction, thaws_last=thaws_last)
    return backbone


def _create(name: str, overrides: Mapping[str, int], pretrained: bool) -> BackboneAdapter:
    if name in lvvit.model_names():
        return lvvit.create(name, overrides)
    return timm_vit.create(name, overrides, pretrained)

"""Dense vision transformers that ToFe can be put on."""

from __future__ import annotations

from collections.abc import Mapping

from tofe_edge.backbones import lvvit
from tofe_edge.backbones.host import Host
from tofe_edge.backbones.spec import OVERRIDES, Backbone, TokenCounts
from tofe_edge.errors import InputError

__all__ = ["Backbone", "Host", "TokenCounts", "create_host"]


def create_host(name: str, overrides: Mapping[str, int] | None = None, pretrained: bool = False) -> Host:
    """Build a backbone by name: ``lvvit_s``, ``lvvit_m``, or any plain vision transformer of timm.

    Raises:
        InputError: the name is unknown, an override is, or the net cannot carry ToFe (the reason is said).
    """
    for key, value in (overrides or {}).items():
        if key not in OVERRIDES or value < 1:
            raise InputError(f"backbone {name!r}: {key}={value} is not a positive {', '.join(OVERRIDES)}")
    if name in lvvit.model_names():
        return lvvit.create(name, overrides or {})
    from tofe_edge.backbones import timm_vit

    return timm_vit.create(name, overrides or {}, pretrained)

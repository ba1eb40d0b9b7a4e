"""All compared methods by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from research.ablations import (
    ClassAttentionToFe,
    DepthWiseToFe,
    EqualToFe,
    GeometricToFe,
    GivenToFe,
    IdentityToFe,
    LocalGlobalToFe,
    RandomToFe,
    TransformerToFe,
)
from research.evit import EViT, UntrainedEViT
from research.freezing import Freezing
from research.idling import IdleViT
from research.method import Method
from research.pruning import DynamicViT, ToFeWithoutReuse
from research.resolution import LowerResolution, UntrainedLowerResolution
from research.tome import ToMe, UntrainedToMe, UntrainedToMeEverywhere
from tofe_edge.errors import InputError
from tofe_edge.model.backbones import Host

PEERS: dict[str, Callable[[Host, float], Method]] = {
    "tofe": Freezing,
    "tofe_without_reuse": ToFeWithoutReuse,
    "dynamicvit": DynamicViT,
    "evit": EViT,
    "evit_untrained": UntrainedEViT,
    "tome": ToMe,
    "tome_untrained": UntrainedToMe,
    "tome_everywhere_untrained": UntrainedToMeEverywhere,
    "idlevit": IdleViT,
    "random": RandomToFe,
    "resolution": LowerResolution,
    "resolution_untrained": UntrainedLowerResolution,
}
ABLATIONS: dict[str, Callable[[Host, float], Method]] = {
    "tofe_identity": IdentityToFe,
    "tofe_depthwise": DepthWiseToFe,
    "tofe_transformer": TransformerToFe,
    "tofe_localglobal": LocalGlobalToFe,
    "tofe_classattention": ClassAttentionToFe,
    "tofe_equal": EqualToFe,
    "tofe_geometric": GeometricToFe,
    "tofe_given": GivenToFe,
}
TOFE = ("tofe", "tofe_equal", "tofe_geometric", "tofe_given")
"""Those with all of ToFe's own parts; they differ in how token counts come about."""
METHODS: dict[str, Callable[[Host, float], Method]] = {**PEERS, **ABLATIONS}


def parse_methods(text: str) -> tuple[str, ...]:
    """``"evit,tome"``, ``peers``, ``ablations`` or ``all`` to names, each once.

    Raises:
        InputError: a name is unknown.
    """
    groups: dict[str, Sequence[str]] = {
        "peers": tuple(PEERS),
        "ablations": tuple(ABLATIONS),
        "all": tuple(METHODS),
        "": (),
    }
    names = [name for part in text.split(",") for name in groups.get(part.strip(), (part.strip(),))]
    unknown = sorted(set(names) - set(METHODS))
    if unknown:
        known = ", ".join(METHODS)
        raise InputError(f"--methods: {unknown[0]!r} is unknown; choose from {known}, or peers, ablations, all")
    return tuple(dict.fromkeys(names))

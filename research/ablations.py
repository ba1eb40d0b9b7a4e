"""The paper's ablations: ToFe with other parts (Tables III to V)."""

from __future__ import annotations

from collections.abc import Sequence

from research.approximators import DepthWise, Identity, TransformerBlock
from research.budget import equal
from research.freezing import Freezing
from research.selectors import ClassAttentionSelector, LocalGlobalSelector, RandomSelector
from tofe_edge.errors import InputError


class IdentityToFe(Freezing):
    """Frozen tokens come back as they were."""

    paper = "ToFe, Table IV"
    approximator = Identity


class DepthWiseToFe(Freezing):
    """A depth-wise convolution in place of the bottleneck."""

    paper = "ToFe, Table IV"
    approximator = DepthWise


class TransformerToFe(Freezing):
    """A transformer block in place of the bottleneck."""

    paper = "ToFe, Table IV"
    approximator = TransformerBlock
    pretrained = ("backbone.", "approximators.")


class LocalGlobalToFe(Freezing):
    """DynamicViT's predictor as the selector."""

    paper = "ToFe, Table III"
    selector = LocalGlobalSelector


class ClassAttentionToFe(Freezing):
    """CLS attention as the selector; counts fall by the same factor per stage."""

    paper = "ToFe, Table III"
    selector = ClassAttentionSelector


class RandomToFe(Freezing):
    """Random tokens, with ToFe's reuse and approximators; counts fall by the same factor per stage."""

    paper = "random selection"
    selector = RandomSelector


class EqualToFe(Freezing):
    """The same count in all stages, held by DynamicViT's loss."""

    paper = "ToFe, Table V"
    learns_counts = False

    @staticmethod
    def shares(ratio: float, stages: int) -> Sequence[float]:
        return equal(ratio, stages)


class GeometricToFe(Freezing):
    """Counts that fall by the same factor per stage, held by DynamicViT's loss."""

    paper = "ToFe, Table V"
    learns_counts = False


class GivenToFe(Freezing):
    """Counts given, and no masked steps: selectors learn by guidance alone, as those of the shipped checkpoints did."""

    paper = "ToFe, Table V"
    learns_counts = False

    @property
    def selects(self) -> bool:
        return False

    @staticmethod
    def shares(ratio: float, stages: int) -> Sequence[float]:
        """In the proportions of (82, 68, 43), which did best of those tried at 0.63 GMACs."""
        if stages != 3:
            raise InputError(f"tofe_given: its proportions are of three selections, not {stages}; leave it out")
        return ratio, ratio * 68 / 82, ratio * 43 / 82

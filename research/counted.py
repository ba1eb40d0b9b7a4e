"""Methods whose budget is met by token counts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor

from research.budget import FormulaCost, Shares, counts_buffer, fixed_counts
from research.method import Method
from tofe_edge.model.macs import Number


class Counted(Method):
    """A method of which each stage keeps so many tokens of an image. Where they are not learned they stay as solved."""

    cost: FormulaCost
    kept: Tensor
    """Token counts, as a buffer: they are part of a saved state."""

    def solve_counts(self, target_gmacs: float, shares: Shares) -> None:
        """Choose the counts, once all is there that ``macs_of`` asks."""
        self.cost = FormulaCost(self.spec, target_gmacs, self.macs_of)
        self.register_buffer("kept", counts_buffer(fixed_counts(self.cost, shares)))

    def keep(self, counts: Sequence[int]) -> None:
        """Keep so many from now on."""
        self.kept.copy_(counts_buffer(counts))

    @property
    def counts(self) -> tuple[int, ...]:
        """Patch tokens kept per stage."""
        return tuple(self.kept.tolist())

    @abstractmethod
    def macs_of(self, kept: Sequence[Number]) -> Number:
        """Whole net with these token counts."""

    def macs(self) -> int:
        return int(self.macs_of(self.counts))

    def describe(self) -> str:
        return f"keeps {', '.join(map(str, self.counts))} tokens"

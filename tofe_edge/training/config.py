"""Every hyper-parameter of a training run with its target, in one frozen record that ends up in the checkpoint's header."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tofe_edge.errors import InputError
from tofe_edge.model.backbones.spec import TokenCounts
from tofe_edge.training.recipe import HyperParameters

_TARGETS = ("target_gmacs", "target_ms")


@dataclass(frozen=True)
class TrainingConfig(HyperParameters):
    """Hyper-parameters and what they are to reach."""

    target_gmacs: float | None = None
    """Whole-net budget, in 1e9 multiply-accumulates. Either this or the next."""
    target_ms: float | None = None
    """Whole-net budget, in milliseconds that a device's latency table predicts."""
    latency_table: str | None = None
    """Which table that is: its fingerprint, so that a run does not go on with another one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        targets = {name: getattr(self, name) for name in _TARGETS if getattr(self, name) is not None}
        if len(targets) != 1:
            raise InputError("training: a run has one target, either target_gmacs or target_ms")
        for name, target in targets.items():
            if not 0 < target < float("inf"):
                raise InputError(f"training: {name} must be a finite number greater than 0, not {target}")
        if self.latency_table is not None and self.target_ms is None:
            raise InputError("training: latency_table is for a target in milliseconds, and this one is in GMACs")
        if self.token_counts is not None:
            TokenCounts.parse(self.token_counts)

    def to_json(self) -> dict[str, Any]:
        """All fields that are set, for the checkpoint's header: the target first."""
        values = asdict(self)
        first = {name: values.pop(name) for name in (*_TARGETS, "latency_table")}
        return {name: value for name, value in {**first, **values}.items() if value is not None}

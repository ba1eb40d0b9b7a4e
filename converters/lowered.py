"""What lowering gives back, whichever the target."""

from __future__ import annotations

from dataclasses import dataclass

from tofe_edge.io.files import Content


@dataclass(frozen=True)
class LoweredMethod:
    """What is known of one method of a program."""

    delegates: int
    """Parts that run outside of the runtime's own interpreter: XNNPACK subgraphs, one a stage; one for Core ML."""
    fallback_ops: dict[str, int]
    """Operators outside them, with their numbers."""
    planned_memory_bytes: int | None
    """``None`` where the device plans it when it loads the model."""


@dataclass(frozen=True)
class Lowered:
    """An exported model and what is known of its methods."""

    content: Content
    methods: dict[str, LoweredMethod]

    @property
    def program(self) -> bytes:
        """The content of a model that is one file."""
        assert isinstance(self.content, bytes), "a package is a folder"
        return self.content

"""Whose work is in a bundle, and under which terms: stated in ``NOTICE`` for people and in ``provenance.json`` for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

UNKNOWN = "NOASSERTION"
"""SPDX for: nobody has said."""

_TEXTS = Path(__file__).parent / "templates" / "licences"


@dataclass(frozen=True)
class Licence:
    """One part of a bundle and its terms."""

    part: str
    """What in the bundle, in words."""
    licence: str
    """An SPDX expression, or :data:`UNKNOWN`."""
    note: str
    """Who made it, and what a distributor should know."""

    def to_json(self) -> dict[str, Any]:
        """Its entry in ``provenance.json``."""
        return asdict(self)


@dataclass(frozen=True)
class Weights:
    """What is known of the weights beyond the manifest."""

    licence: str = UNKNOWN
    training: dict[str, Any] | None = None
    """The training record in the checkpoint's header; ``None`` where the checkpoint is not at hand."""
    accuracy: dict[str, Any] | None = None


SHIPPED_LICENCE = "Apache-2.0"
"""Of the checkpoints that come with this program."""

GLUE = Licence("code and build files", "Apache-2.0", "written by tofe-edge")
EXECUTORCH = Licence(
    "ExecuTorch (a dependency, or its libraries where the bundle has them)",
    "BSD-3-Clause",
    "Copyright (c) Meta Platforms, Inc. and affiliates and others; text in LICENSE-executorch",
)
PHOTOGRAPHS = Licence(
    "images of the golden vectors",
    "CC-BY-2.0",
    "crops of two photographs that come with scikit-learn: china.jpg by danielbuechele, "
    "https://www.flickr.com/photos/danielbuechele/6061409035/, and flower.jpg by vultilion, "
    "https://www.flickr.com/photos/vultilion/6056698931/",
)


def weights_licence(checkpoint: str, sha256: str, weights: Weights) -> Licence:
    """The terms of the model's weights, as far as they are known."""
    known = f"checkpoint {checkpoint}, sha256 {sha256}"
    if weights.training is not None:
        start = weights.training.get("start")
        data = weights.training.get("data")
        known += f"; trained from {start}" if start else ""
        known += f" on {', '.join(map(str, data))}" if isinstance(data, list) and data else ""
    if weights.licence == UNKNOWN:
        known += "; its licence was not stated: ask whoever made the checkpoint before you distribute it"
    return Licence("the model's weights", weights.licence, known)


def notice(title: str, licences: Sequence[Licence]) -> str:
    """The text of ``NOTICE``."""
    parts = "\n\n".join(f"{one.part}\n    {one.licence}\n    {one.note}" for one in licences)
    return f"{title}\n\n{parts}\n"


def licence_text(name: str) -> bytes:
    """A licence in full: ``apache-2.0`` or ``executorch``."""
    return (_TEXTS / f"{name}.txt").read_bytes()

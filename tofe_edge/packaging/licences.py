"""Whose work is in a bundle, and under which terms: stated in ``NOTICE`` for people and in ``provenance.json`` for programs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tofe_edge.errors import InputError, shown
from tofe_edge.packaging.wording import plain

UNKNOWN = "NOASSERTION"
"""SPDX for: nobody has said."""

_IDENTIFIER = r"(?:DocumentRef-[A-Za-z0-9.-]+:)?[A-Za-z0-9][A-Za-z0-9.-]*\+?"
_OPERAND = rf"\(*{_IDENTIFIER}(?: WITH {_IDENTIFIER})?\)*"
_EXPRESSION = re.compile(rf"{_OPERAND}(?: (?:AND|OR) {_OPERAND})*", re.ASCII)
_OPERATORS = frozenset({"AND", "OR", "WITH"})
_MAX_EXPRESSION = 200

_MOST_RUNS = 32
"""Of the runs that led to a checkpoint; its header may say anything."""

NOTICE = "NOTICE"
"""The name of that file."""

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
    """What is known of the weights beyond the manifest.

    Raises:
        InputError: ``licence`` is no SPDX expression, see :func:`check_expression`.
    """

    licence: str = UNKNOWN
    training: dict[str, Any] | None = None
    """The training record in the checkpoint's header; ``None`` where the checkpoint is not at hand."""
    accuracy: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        check_expression(self.licence)


def check_expression(text: str) -> None:
    """Refuse what is not written as an SPDX licence expression; whether its identifiers are listed is not looked up.

    Raises:
        InputError: other characters, operators or parentheses than such an expression has, or more than 200 characters.
    """
    good = len(text) <= _MAX_EXPRESSION and _EXPRESSION.fullmatch(text) and _is_balanced(text)
    words = re.split(r"[ ()]+", text.strip("()"))
    if not good or not _OPERATORS.isdisjoint(words[::2]):
        raise InputError(
            f"{shown(text)} is no SPDX licence expression; write --weights-licence as in Apache-2.0 or 'MIT AND CC-BY-4.0', and "
            "LicenseRef-NAME for terms that are not on the SPDX list"
        )


def _is_balanced(text: str) -> bool:
    depth = 0
    for character in text:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth < 0:
            return False
    return depth == 0


SHIPPED_LICENCE = "Apache-2.0"
"""Of the checkpoints that come with this program."""

GLUE = Licence("code and build files", "Apache-2.0", "written by tofe-edge")
EXECUTORCH = Licence(
    "ExecuTorch (a dependency, or its libraries where the bundle has them)",
    "BSD-3-Clause",
    "Copyright (c) Meta Platforms, Inc. and affiliates and others; text in LICENSE-executorch",
)
WEIGHTS = "the model's weights"
"""Their part in a bundle."""
PHOTOGRAPHS = Licence(
    "images of the golden vectors",
    "CC-BY-2.0",
    "crops of two photographs that come with scikit-learn: china.jpg by danielbuechele, "
    "https://www.flickr.com/photos/danielbuechele/6061409035/, and flower.jpg by vultilion, "
    "https://www.flickr.com/photos/vultilion/6056698931/; both under CC BY 2.0, https://creativecommons.org/licenses/by/2.0/, "
    "scaled and cut",
)
PILLOW = Licence(
    "resizing of images, which follows Pillow's Resample.c",
    "MIT-CMU",
    "Copyright 1997-2011 Secret Labs AB, 1995-2011 Fredrik Lundh and contributors, 2010 Jeffrey 'Alex' Clark and contributors; "
    "text in LICENSE-pillow",
)
"""Of every bundle with code that resizes; its text is ``licence_text("pillow")``, as ``LICENSE-pillow``."""


def weights_licence(checkpoint: str, sha256: str, weights: Weights) -> Licence:
    """The terms of the model's weights, as far as they are known."""
    known = origin(checkpoint, sha256)
    if weights.training is not None:
        runs = _runs(weights.training)
        start, sources = runs[0].get("start"), [run.get("data") for run in runs]
        data = list(dict.fromkeys(plain(name) for source in sources if isinstance(source, list) for name in source))
        known += f"; trained from {plain(start)}" if start else ""
        known += f" on {', '.join(data)}" if data else ""
    if weights.licence == UNKNOWN:
        known += "; its licence was not stated: ask whoever made the checkpoint before you distribute it"
    return Licence(WEIGHTS, weights.licence, known)


def _runs(training: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The records of all runs that led to a checkpoint, the first one first."""
    runs = [training]
    while isinstance(earlier := runs[0].get("start_record"), Mapping) and len(runs) < _MOST_RUNS:
        runs.insert(0, earlier)
    return runs


def origin(checkpoint: str, sha256: str) -> str:
    """How the note of :func:`weights_licence` begins."""
    return f"checkpoint {plain(checkpoint)}, sha256 {plain(sha256)}"


def notice(title: str, licences: Sequence[Licence]) -> str:
    """The text of ``NOTICE``."""
    parts = "\n\n".join(f"{one.part}\n    {one.licence}\n    {one.note}" for one in licences)
    return f"{title}\n\n{parts}\n"


def licence_text(name: str) -> bytes:
    """A licence in full: ``apache-2.0``, ``executorch`` or ``pillow``."""
    return (_TEXTS / f"{name}.txt").read_bytes()

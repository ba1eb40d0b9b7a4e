"""Whose work is in a bundle and under which terms: stated in ``NOTICE`` for people and in ``provenance.json`` for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from tofe_edge.errors import InputError, quoted
from tofe_edge.packaging.bundle import BundleFile
from tofe_edge.packaging.texts import TEMPLATES, plain

UNKNOWN = "NOASSERTION"
"""SPDX for a licence that nobody has stated."""

_MAX_EXPRESSION = 200

_MAX_RUNS = 32
"""Bound on the runs that led to a checkpoint; its header may say anything."""

NOTICE = "NOTICE"
"""Name of the file for people."""


@dataclass(frozen=True)
class Licence:
    """One part of a bundle and its terms."""

    part: str
    """What in the bundle, in words."""
    licence: str
    """An SPDX expression, or :data:`UNKNOWN`."""
    note: str
    """Who made it, and what a distributor should know."""


@dataclass(frozen=True)
class Weights:
    """What is known of the weights beyond the manifest.

    Raises:
        InputError: ``licence`` is not an SPDX expression, see :func:`check_expression`.
    """

    licence: str = UNKNOWN
    training: dict[str, Any] | None = None
    """The training record in the checkpoint's header; ``None`` if the checkpoint is not at hand."""
    accuracy: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        check_expression(self.licence)


def check_expression(text: str) -> None:
    """Refuse what is not an SPDX licence expression.

    Raises:
        InputError: it is not one, names a licence that is not on the SPDX list, or has more than 200 characters.
    """
    try:
        # It goes into NOTICE: a line break would forge an entry there.
        if text == UNKNOWN or (
            len(text) <= _MAX_EXPRESSION and text.isprintable() and canonicalize_license_expression(text)
        ):
            return
    except (InvalidLicenseExpression, ValueError, RecursionError):
        pass
    raise InputError(
        f"{quoted(text)} is not an SPDX licence expression; write --weights-licence as in Apache-2.0 or 'MIT AND CC-BY-4.0', and "
        "LicenseRef-NAME for terms that are not on the SPDX list"
    )


SHIPPED_LICENCE = "Apache-2.0"
"""Licence of the checkpoints that come with this program."""

GLUE = Licence(part="code and build files", licence="Apache-2.0", note="written by tofe-edge")
EXECUTORCH = Licence(
    part="ExecuTorch (a dependency, or its libraries if the bundle has them)",
    licence="BSD-3-Clause",
    note="Copyright (c) Meta Platforms, Inc. and affiliates and others; text in LICENSE-executorch",
)
PHOTOGRAPHS = Licence(
    part="images of the golden vectors",
    licence="CC0-1.0",
    note="crops of two photographs in the public domain: coffee.jpg by Rachel Michetti and chelsea.jpg by Stefan van der Walt, "
    "from scikit-image; CC0 1.0, https://creativecommons.org/publicdomain/zero/1.0/; scaled and cut",
)
PILLOW = Licence(
    part="resizing of images, which follows Pillow's Resample.c",
    licence="MIT-CMU",
    note="Copyright 1997-2011 Secret Labs AB, 1995-2011 Fredrik Lundh and contributors, 2010 Jeffrey 'Alex' Clark and contributors; "
    "text in LICENSE-pillow",
)
"""Part of every bundle with code that resizes; its text is ``LICENSE-pillow``."""


def weights_licence(checkpoint: str, sha256: str, weights: Weights) -> Licence:
    """Return the terms of the model's weights, as far as they are known."""
    known = f"checkpoint {plain(checkpoint)}, sha256 {plain(sha256)}"
    if weights.training is not None:
        runs = _runs(weights.training)
        start, sources = runs[0].get("start"), [run.get("data") for run in runs]
        data = list(dict.fromkeys(plain(name) for source in sources if isinstance(source, list) for name in source))
        made = "reduced" if "reduced" in runs[0] else "trained"
        known += f"; {made} from {plain(start)}" if start else ""
        known += f" on {', '.join(data)}" if data else ""
    if weights.licence == UNKNOWN:
        known += "; its licence was not stated: ask whoever made the checkpoint before you distribute it"
    return Licence(part="the model's weights", licence=weights.licence, note=known)


def _runs(training: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the records of all runs that led to a checkpoint, the first one first."""
    runs = [training]
    while isinstance(earlier := runs[0].get("start_record"), Mapping) and len(runs) < _MAX_RUNS:
        runs.insert(0, earlier)
    return runs


def notice(title: str, licences: Sequence[Licence]) -> str:
    """Return the text of ``NOTICE``."""
    parts = "\n\n".join(f"{one.part}\n    {one.licence}\n    {one.note}" for one in licences)
    return f"{title}\n\n{parts}\n"


def legal_files(title: str, licences: Sequence[Licence]) -> dict[str, BundleFile]:
    """Return ``NOTICE`` and the texts of the licences that a bundle needs in full."""
    parts = {"LICENSE-executorch": EXECUTORCH, "LICENSE-pillow": PILLOW}
    texts = {name: name.removeprefix("LICENSE-") for name, part in parts.items() if part in licences}
    texts["LICENSE"] = "apache-2.0"
    files = {name: BundleFile((TEMPLATES / "licences" / f"{text}.txt").read_bytes()) for name, text in texts.items()}
    return {**files, NOTICE: BundleFile(notice(title, licences).encode())}

"""Words about a model for the texts and code of a bundle: whatever a manifest or checkpoint says, they stay words."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from pathlib import Path

from tofe_edge.evaluation.parity import GATES
from tofe_edge.io.artifact import Manifest

_PLAIN = re.compile(r"[A-Za-z0-9_.:+/,()-]+( [A-Za-z0-9_.:+/,()-]+)*", re.ASCII)
_MAX_PLAIN = 120
_ADDRESS_OR_COMMENT = re.compile(r"//|--|:(?! )")
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9_.+-]+", re.ASCII)


def plain(text: object) -> str:
    """Text of unknown origin as words on one line, in which Markdown, HTML, XML, C, Kotlin and Swift see nothing but words.

    A text that is such words already is taken as it is. Of any other the characters that are not ASCII letters, digits or
    ``_ . + -`` become ``?``, and it is put into quotes.
    """
    words = str(text)
    if len(words) <= _MAX_PLAIN and _PLAIN.fullmatch(words) and not _ADDRESS_OR_COMMENT.search(words):
        return words
    return "'" + _NOT_PLAIN.sub("?", words).replace("--", "??")[:_MAX_PLAIN] + "'"


def named(path: Path) -> str:
    """A path for a message: as it is, and quoted where it has line breaks or other characters that are not to be seen."""
    return str(path) if str(path).isprintable() else repr(str(path))


def facts(manifest: Manifest) -> str:
    """What a model is, in a line for a README: net, precision, size, tokens, work and classes."""
    counts = manifest.token_counts
    tokens = "all tokens" if counts is None else f"{counts} of {manifest.patch_tokens} tokens"
    return (
        f"{plain(manifest.backbone)}, {manifest.precision}, {manifest.size_bytes / 1e6:.2f} MB, {tokens} a stage, "
        f"{manifest.gmacs:.3f} GMACs, {len(manifest.class_names)} classes."
    )


def common_values(manifest: Manifest) -> dict[str, object]:
    """Keys of templates that are the same in every language: sizes, classes, preparation and gates of a model."""
    spec, gates = manifest.preprocessing, GATES[manifest.precision]
    return {
        "SHA256": manifest.sha256,
        "SIZE_BYTES": manifest.size_bytes,
        "CLASSES": len(manifest.class_names),
        "BATCH": manifest.batch,
        "IMAGE_SIZE": spec.image_size,
        "MEAN_TEXT": ", ".join(map(str, spec.mean)),
        "STD_TEXT": ", ".join(map(str, spec.std)),
        "PRECISION": manifest.precision,
        "MIN_SNR_DB": gates.min_snr_db,
        "MIN_KEPT_OVERLAP": gates.min_kept_overlap,
        "SKIPS_NEAR_TIES": boolean(gates.skips_near_ties),
        "FACTS": facts(manifest),
    }


def float_words(values: Sequence[float], signed: bool = False) -> tuple[int, ...]:
    """The bits of each value as fp32, as 32-bit whole numbers: code that is made of these computes with the same values."""
    return struct.unpack(f"<{len(values)}{'i' if signed else 'I'}", struct.pack(f"<{len(values)}f", *values))


def boolean(value: bool) -> str:
    """As C, Kotlin and Swift write it."""
    return "true" if value else "false"

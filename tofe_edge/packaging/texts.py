"""Text files of a bundle: templates with ``@KEY@`` placeholders, and untrusted text made safe for every language in them."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from tofe_edge.io.artifact import Manifest
from tofe_edge.io.targets import gates_of
from tofe_edge.packaging.bundle import BundleFile

LABELS = "labels.txt"
TEMPLATES = Path(__file__).parent / "templates"
_KEY = re.compile(r"@([A-Z][A-Z0-9_]*)@")

_PLAIN = re.compile(r"[A-Za-z0-9_.:+/,()-]+( [A-Za-z0-9_.:+/,()-]+)*", re.ASCII)
_MAX_PLAIN = 120
_ADDRESS_OR_COMMENT = re.compile(r"//|--|:(?! )")
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9_.+-]+", re.ASCII)


def render(name: str, values: Mapping[str, object]) -> BundleFile:
    """Return the template ``templates/NAME`` with its keys filled in once; the values are not looked at again.

    Raises:
        KeyError: the template has a key that is not among ``values``, a defect of this program.
    """
    text = (TEMPLATES / name).read_text(encoding="utf-8")
    return BundleFile(_KEY.sub(lambda match: str(values[match[1]]), text).encode())


def template_names(folder: str) -> list[str]:
    """Return the templates below a folder, as :func:`render` takes them, in the order of their names."""
    return sorted(path.relative_to(TEMPLATES).as_posix() for path in (TEMPLATES / folder).rglob("*") if path.is_file())


def plain(text: object) -> str:
    """Return text of unknown origin as words on one line that mean nothing in Markdown, HTML, XML, C, Kotlin and Swift.

    A text that is such words already is returned as it is. In any other the characters that are not ASCII letters, digits
    or ``_ . + -`` become ``?``, and it is put into quotes.
    """
    words = str(text)
    if len(words) <= _MAX_PLAIN and _PLAIN.fullmatch(words) and not _ADDRESS_OR_COMMENT.search(words):
        return words
    return "'" + _NOT_PLAIN.sub("?", words).replace("--", "??")[:_MAX_PLAIN] + "'"


def path_text(path: Path) -> str:
    """Return a path for a message: quoted if it has line breaks or other characters that cannot be printed."""
    return str(path) if str(path).isprintable() else repr(str(path))


def facts(manifest: Manifest) -> str:
    """Return what a model is, in a line for a README: backbone, precision, size, tokens, work and classes."""
    counts = manifest.token_counts
    tokens = "all tokens" if counts is None else f"{counts} of {manifest.patch_tokens} tokens"
    return (
        f"{plain(manifest.backbone)}, {manifest.precision}, {manifest.size_bytes / 1e6:.2f} MB, {tokens} per stage, "
        f"{manifest.gmacs:.3f} GMACs, {_amount(manifest)}."
    )


def _amount(manifest: Manifest) -> str:
    """Return how much the model gives for one image."""
    if manifest.classifies:
        return f"{len(manifest.class_names)} classes"
    if manifest.output == "embedding":
        return f"an embedding of {manifest.shape[0]} numbers{' and the length 1' if manifest.normalized else ''}"
    return f"features of {manifest.shape[0]} patches, {manifest.shape[1]} numbers each"


def kind_values(manifest: Manifest) -> dict[str, object]:
    """Return the words of templates that depend on what a model gives: classes, or vectors."""
    classifies, embeds = manifest.classifies, manifest.output == "embedding"
    vectors, size = (1, manifest.shape[0]) if len(manifest.shape) == 1 else manifest.shape
    does = "Classifies images" if classifies else f"Makes {'embeddings' if embeds else 'features'} of images"
    length = ", of the length 1" if manifest.normalized else ""
    gives = (
        f"The embedding of an image: {size} numbers{length}."
        if embeds
        else f"The features of an image: {vectors} vectors of {size} numbers, one behind the other, for its patches row by row."
    )
    return {
        "OUTPUT": manifest.output,
        "VALUES": vectors * size,
        "VECTOR_SIZE": size,
        "CLASS": "TofeClassifier" if classifies else "TofeEncoder",
        "INSTANCE": "classifier" if classifies else "encoder",
        "CALL": "classify" if classifies else "embed" if embeds else "features",
        "PROGRAM": "classify" if classifies else "encode",
        "DONE": "classified" if classifies else "used",
        "DOES": does,
        "DOES_ONE": "Classifies one image" if classifies else f"Makes the {manifest.output} of one image",
        "GIVES": gives,
        "IS_ARE": "is" if embeds else "are",
        "SEEN": "classes" if classifies else "first numbers",
        "CONTENTS": "labels, " if classifies else "",
        "SHOW": "--top 5" if classifies else f"--values {size}",
        "SHOWN": "classes under `top`" if classifies else "numbers under `values`",
        "FILES": "`model/labels.txt`, `model/preprocessing.json` | class names by line; what is done to an image"
        if classifies
        else "`model/preprocessing.json` | what is done to an image",
        "LABELS_FILE": LABELS,
    }


def parts(platform: str, manifest: Manifest, values: Mapping[str, object]) -> dict[str, object]:
    """Return the texts that a platform's templates have in another form for classes and for vectors, by their keys."""
    folder = f"parts/{platform}/{'classes' if manifest.classifies else 'vectors'}"
    return {Path(name).stem.upper(): render(name, values).data.decode() for name in template_names(folder)}


def common_values(manifest: Manifest) -> dict[str, object]:
    """Return the keys of templates that are the same in every language: sizes, classes, preparation and gates."""
    spec, gates = manifest.preprocessing, gates_of(manifest)
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
        **kind_values(manifest),
    }


def float_words(values: Sequence[float], signed: bool = False) -> tuple[int, ...]:
    """Return the bits of each value as fp32, as 32-bit integers: code made of these computes with the same values."""
    return struct.unpack(f"<{len(values)}{'i' if signed else 'I'}", struct.pack(f"<{len(values)}f", *values))


def boolean(value: bool) -> str:
    """Return the literal in C, Kotlin and Swift."""
    return "true" if value else "false"

"""What the Android templates are filled with: the manifest as constants of Kotlin, package, version and README."""

from __future__ import annotations

import hashlib
import math
import re

from tofe_edge import __version__
from tofe_edge.errors import InputError, shown
from tofe_edge.evaluation.parity import GATES
from tofe_edge.io.artifact import Manifest, Method
from tofe_edge.packaging.bundle import identifier
from tofe_edge.packaging.contents import PackagedModel
from tofe_edge.packaging.kotlin import STDLIB
from tofe_edge.packaging.licences import Licence
from tofe_edge.packaging.platform import executorch_release
from tofe_edge.packaging.wording import boolean, common_values, float_words

GROUP = "tofeedge"
MIN_SDK = 23
"""That of executorch-android 1.5.1."""
_MIN_ANDROID = "6.0"

_PACKAGE = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+", re.ASCII)
_MAX_PACKAGE = 120
_CHECKSUM = 12
"""Digits of the model's checksum that a version and a folder end in."""
_KEYWORD = re.compile(
    r"abstract|as|assert|boolean|break|byte|case|catch|char|class|const|continue|default|do"
    r"|double|else|enum|extends|false|final|finally|float|for|fun|goto|if|implements|import"
    r"|in|instanceof|int|interface|is|long|native|new|null|object|package|private|protected|"
    r"public|return|short|static|strictfp|super|switch|synchronized|this|throw|throws|transient"
    r"|true|try|typealias|typeof|val|var|void|volatile|when|while"
)
"""Words that Java or Kotlin keeps for itself."""


def package_of(model: PackagedModel, chosen: str | None) -> str:
    """The Kotlin package: the one chosen, or one made of the model's name.

    Raises:
        InputError: it is no lower-case Java package of two parts or more.
    """
    package = f"{GROUP}.{identifier(model.name)}" if chosen is None else chosen
    good = (
        _PACKAGE.fullmatch(package)
        and len(package) <= _MAX_PACKAGE
        and not any(map(_KEYWORD.fullmatch, package.split(".")))
    )
    if not good:
        if chosen is None:
            raise InputError(
                f"{model.name}: the package made of the name, {package}, is none; give one with --package-name, such as "
                "com.example.model"
            )
        raise InputError(f"--package-name {shown(package)}: is no package; give one such as com.example.model")
    return package


def version_of(model: PackagedModel) -> str:
    """Version of the library: that of this program and the model's checksum, so that another model is another version."""
    return f"{__version__}-{model.manifest.sha256[:_CHECKSUM]}"


def assets_folder(name: str, sha256: str) -> str:
    """Where a model's files are among an app's assets, which all its libraries share: ``a-b`` and ``a_b`` too."""
    return f"tofe/{identifier(name)}_{sha256[:_CHECKSUM]}"


def values_for(model: PackagedModel, package: str, licences: list[Licence]) -> dict[str, object]:
    """Every key of the Android templates. Raises :class:`InputError` as :func:`~tofe_edge.packaging.platform.executorch_release`."""
    manifest, spec = model.manifest, model.manifest.preprocessing
    gates, names = GATES[manifest.precision], _budget_names(manifest)
    values: dict[str, object] = {
        **common_values(manifest),
        "PACKAGE": package,
        "GROUP": GROUP,
        "NAME": model.name,
        "MODULE": identifier(model.name),
        "VERSION": version_of(model),
        "EXECUTORCH": executorch_release(manifest, "Android"),
        "KOTLIN_STDLIB": STDLIB,
        "MIN_SDK": MIN_SDK,
        "MIN_ANDROID": _MIN_ANDROID,
        "FOLDER": assets_folder(model.name, manifest.sha256),
        "SUMS": _sums(model),
        "PATCH_TOKENS": manifest.patch_tokens,
        "SELECTION_IN_FLOATS": boolean(manifest.selection == "rank"),
        "RESIZES_SHORT_SIDE": boolean(spec.resize == "short_side"),
        "SHORT_SIDE": math.floor(spec.image_size / spec.crop_pct),
        "BICUBIC": boolean(spec.interpolation == "bicubic"),
        "MEAN": _float_bits(spec.mean),
        "STD": _float_bits(spec.std),
        "MIN_PSNR_DB": gates.min_psnr_db if math.isfinite(gates.min_psnr_db) else "Double.NEGATIVE_INFINITY",
        "BUDGETS": ",\n".join(_budget(names[method.name], method) for method in manifest.methods.values()),
        "DEFAULT_BUDGET": next(iter(names.values())),
        "BUDGET_LIST": ", ".join(
            f"`{names[method.name]}` ({method.gmacs:.3f} GMACs)" for method in manifest.methods.values()
        ),
        "POM_LICENCES": "\n".join(
            f"    <license><name>{one}</name></license>" for one in sorted({licence.licence for licence in licences})
        ),
    }
    return values


def _budget_names(manifest: Manifest) -> dict[str, str]:
    """A constant's name for each method. Raises :class:`InputError` where a method's name gives none of its own.

    ``DEFAULT`` is what the code calls the one that the model was converted for.
    """
    names = {method: identifier(method).upper() for method in manifest.methods}
    for method, name in names.items():
        if (
            name == "DEFAULT"
            or not re.fullmatch(r"[A-Z][A-Z0-9_]*", name)
            or not re.fullmatch(r"[A-Za-z0-9_]+", method, re.ASCII)
        ):
            raise InputError(
                f"{manifest.artifact}: method {shown(method)} cannot name a constant; convert the model again"
            )
    if len(set(names.values())) < len(names):
        raise InputError(f"{manifest.artifact}: two methods differ in case alone; convert the model again")
    return names


def _budget(name: str, method: Method) -> str:
    kept = ", ".join(map(str, method.token_counts or []))
    tokens = f"listOf({kept})" if kept else "emptyList()"
    return f'    {name}("{method.name}", {float(method.gmacs)!r}, {tokens})'


def _sums(model: PackagedModel) -> str:
    """SHA-256 of the files beside the model, as pairs of Kotlin."""
    sums = {name: hashlib.sha256(file.data).hexdigest() for name, file in model.files().items()}
    return "\n".join(f'            "{name}" to "{sums[name]}",' for name in sorted(sums) if name != model.file_name)


def _float_bits(values: tuple[float, float, float]) -> str:
    return ", ".join(f"java.lang.Float.intBitsToFloat({word})" for word in float_words(values, signed=True))

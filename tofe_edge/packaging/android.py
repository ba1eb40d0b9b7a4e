"""Android: an AAR in a Maven repository of its own, or the sources of a Gradle library module."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from tofe_edge import __version__
from tofe_edge.errors import InputError, quoted
from tofe_edge.io.artifact import Manifest, Method
from tofe_edge.io.targets import gates_of
from tofe_edge.packaging.archive import Unpacked, read_zip, zip_bytes
from tofe_edge.packaging.bundle import Bundle, BundleFile, identifier
from tofe_edge.packaging.contents import PackagedModel
from tofe_edge.packaging.kotlin import STDLIB, compile_kotlin
from tofe_edge.packaging.licences import EXECUTORCH, GLUE, PHOTOGRAPHS, PILLOW, Licence, legal_files, weights_licence
from tofe_edge.packaging.platform import (
    Options,
    Platform,
    check_method_names,
    executorch_release,
    files_below,
    require_target,
)
from tofe_edge.packaging.provenance import PROVENANCE, Provenance, differences, provenance_file, read_provenance
from tofe_edge.packaging.texts import TEMPLATES, boolean, common_values, float_words, parts, render, template_names

_NAME = "android"
_AAR, _AAR_FILE, _SOURCE = "aar", "aar file", "source"
"""Variants: the folder with a Maven repository, the archive in it, the Gradle module."""

_FORMS = {_AAR: "folder", _AAR_FILE: "zip", _SOURCE: "folder"}
_MAIN = "src/main/"

GROUP = "tofeedge"
MIN_SDK = 23
"""API level of executorch-android 1.5.1."""
_MIN_ANDROID = "6.0"

_PACKAGE = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+", re.ASCII)
_MAX_PACKAGE = 120
_METHOD = re.compile(r"[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*", re.ASCII)
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


def bundle_name(model: PackagedModel, options: Options) -> str:
    """Return ``NAME-android``, or ``NAME-android-source``."""
    return f"{model.name}-{_NAME}-source" if options.source else f"{model.name}-{_NAME}"


def build(model: PackagedModel, options: Options) -> Bundle:
    """Return the bundle of a model.

    Raises:
        InputError: Android cannot run it, the package's name is not valid, or without ``source`` there is no compiler.
    """
    require_target(model, "Android")
    if options.source and options.kotlinc is not None:
        raise InputError("--kotlinc: is not used with --source; leave one of them out")
    parts = _Parts(model, options)
    files = parts.source_files() if options.source else parts.repository_files()
    variant = _SOURCE if options.source else _AAR
    files[PROVENANCE] = provenance_file(_NAME, variant, model, parts.licences, files, parts.build)
    return Bundle(bundle_name(model, options), "folder", files)


class _Parts:
    """The files of both variants."""

    def __init__(self, model: PackagedModel, options: Options) -> None:
        manifest = model.manifest
        weights = weights_licence(manifest.checkpoint, manifest.checkpoint_sha256, model.weights)
        self.licences = [GLUE, PILLOW, weights, PHOTOGRAPHS, EXECUTORCH]
        self.build: dict[str, str] = {}
        self._model, self._options = model, options
        self._package = package_of(model, options.package_name)
        self._values = values_for(model, self._package, self.licences)
        self._values |= parts(_NAME, manifest, self._values)
        use = render("android/README-use.md", self._values).data.decode()
        self._values = {**self._values, "USE": use}

    def source_files(self) -> dict[str, BundleFile]:
        """Return a Gradle library module."""
        code = f"{_MAIN}java/{self._package.replace('.', '/')}/"
        return {
            **self._documents("README-source.md"),
            "build.gradle.kts": self._render("build.gradle.kts"),
            "consumer-rules.pro": self._render("consumer-rules.pro"),
            f"{_MAIN}AndroidManifest.xml": self._render("source-AndroidManifest.xml"),
            **_below(_MAIN, self._assets()),
            **_below(code, self._kotlin()),
        }

    def repository_files(self) -> dict[str, BundleFile]:
        """Return a Maven repository with the AAR and its POM."""
        stem = f"{self._model.name}-{version_of(self._model)}"
        aar = self._aar()
        folder = f"maven/{GROUP}/{self._model.name}/{version_of(self._model)}/"
        return {
            **self._documents("README-aar.md"),
            f"{folder}{stem}.aar": BundleFile(zip_bytes(aar)),
            f"{folder}{stem}.pom": self._render("pom.xml"),
        }

    def _aar(self) -> dict[str, BundleFile]:
        stubs, module = TEMPLATES / "android" / "stubs", identifier(self._model.name)
        compiled = compile_kotlin(self._options.kotlinc, self._kotlin(), stubs, module)
        self.build = {"kotlinc": compiled.compiler}
        files = {
            "AndroidManifest.xml": self._render("AndroidManifest.xml"),
            "classes.jar": BundleFile(zip_bytes(compiled.classes)),
            "R.txt": BundleFile(b""),
            "proguard.txt": self._render("consumer-rules.pro"),
            "META-INF/com/android/build/gradle/aar-metadata.properties": self._render("aar-metadata.properties"),
            **self._legal(),
            **self._assets(),
        }
        files[PROVENANCE] = provenance_file(_NAME, _AAR_FILE, self._model, self.licences, files, self.build)
        return files

    def _assets(self) -> dict[str, BundleFile]:
        return _below(f"assets/{assets_folder(self._model.name, self._model.manifest.sha256)}/", self._model.files())

    def _kotlin(self) -> dict[str, BundleFile]:
        files = {PurePosixPath(name).name: render(name, self._values) for name in template_names("android/kotlin")}
        files[f"{self._values['CLASS']}.kt"] = files.pop("Tofe.kt")
        if not self._model.manifest.classifies:
            del files["Prediction.kt"]
        return files

    def _documents(self, readme: str) -> dict[str, BundleFile]:
        return {
            "README.md": self._render(readme),
            "sample/MainActivity.kt": self._render("MainActivity.kt"),
            "sample/Photograph.kt": self._render("Photograph.kt"),
            **self._legal(),
        }

    def _legal(self) -> dict[str, BundleFile]:
        return legal_files(f"{self._model.name} for Android", self.licences)

    def _render(self, name: str) -> BundleFile:
        return render(f"android/{name}", self._values)


def _below(folder: str, files: Mapping[str, BundleFile]) -> dict[str, BundleFile]:
    return {f"{folder}{name}": file for name, file in files.items()}


def model_files(unpacked: Unpacked, provenance: Provenance) -> dict[str, BundleFile]:
    """Return the model's files, out of the assets of the variant.

    Raises:
        InputError: the AAR is damaged or not there.
    """
    assets = f"assets/{assets_folder(provenance.name, provenance.model_sha256)}/"
    if provenance.variant == _SOURCE:
        return files_below(unpacked.files, _MAIN + assets)
    aar = unpacked.files if provenance.variant == _AAR_FILE else _aar_in(unpacked.files)[1]
    return files_below(aar, assets)


def problems(unpacked: Unpacked, provenance: Provenance) -> list[str]:
    """Return what is wrong with the AAR in a bundle. Raises :class:`InputError` for a damaged one."""
    if _FORMS.get(provenance.variant) != unpacked.form:
        return [f"{PROVENANCE} says {provenance.variant!r}, but this is a {unpacked.form}"]
    if provenance.variant != _AAR:
        return []
    name, aar = _aar_in(unpacked.files)
    inner = read_provenance(aar.get(PROVENANCE, BundleFile(b"")), f"{name}, {PROVENANCE}")
    lines = [f"{name}: {line}" for line in differences(inner.files, aar)]
    if (inner.name, inner.model_sha256) != (provenance.name, provenance.model_sha256):
        lines.append(f"{name}: is of another model than the folder's {PROVENANCE}")
    return lines


def _aar_in(files: Mapping[str, BundleFile]) -> tuple[str, dict[str, BundleFile]]:
    names = [name for name in files if name.endswith(".aar")]
    if len(names) != 1:
        raise InputError(f"it has {len(names)} .aar files, not one; package the model again")
    return names[0], read_zip(files[names[0]].data, names[0])


def package_of(model: PackagedModel, chosen: str | None) -> str:
    """Return the Kotlin package: the one chosen, or one made of the model's name.

    Raises:
        InputError: it is not a lower-case Java package of two parts or more.
    """
    package = f"{GROUP}.{identifier(model.name)}" if chosen is None else chosen
    keywords = [part for part in package.split(".") if _KEYWORD.fullmatch(part)]
    if _PACKAGE.fullmatch(package) and len(package) <= _MAX_PACKAGE and not keywords:
        return package
    if chosen is None:
        raise InputError(
            f"{model.name}: the package made of the name, {package}, is not valid; give one with --package-name, such as "
            "com.example.model"
        )
    raise InputError(f"--package-name {quoted(package)}: is not a package; give one such as com.example.model")


def version_of(model: PackagedModel) -> str:
    """Return the version of the library: that of this program and the model's checksum, so that another model is another version."""
    return f"{__version__}-{model.manifest.sha256[:_CHECKSUM]}"


def assets_folder(name: str, sha256: str) -> str:
    """Return the folder of a model's files among an app's assets, which all its libraries share: ``a-b`` and ``a_b`` too."""
    return f"tofe/{identifier(name)}_{sha256[:_CHECKSUM]}"


def values_for(model: PackagedModel, package: str, licences: list[Licence]) -> dict[str, object]:
    """Return every key of the Android templates. Raises :class:`InputError` as :func:`~tofe_edge.packaging.platform.executorch_release`."""
    manifest, spec = model.manifest, model.manifest.preprocessing
    gates, names = gates_of(manifest), _budget_names(manifest)
    return {
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


def _budget_names(manifest: Manifest) -> dict[str, str]:
    """Return a constant's name for each method. Raises :class:`InputError` if a method's name gives none of its own.

    ``DEFAULT`` is what the code calls the one that the model was converted for.
    """
    check_method_names(
        manifest, lambda name: _METHOD.fullmatch(name) and name.upper() != "DEFAULT", "constant in Kotlin"
    )
    return {method: method.upper() for method in manifest.methods}


def _budget(name: str, method: Method) -> str:
    kept = ", ".join(map(str, method.token_counts or []))
    tokens = f"listOf({kept})" if kept else "emptyList()"
    return f'    {name}("{method.name}", {float(method.gmacs)!r}, {tokens})'


def _sums(model: PackagedModel) -> str:
    """Return the SHA-256 of the files beside the model, as Kotlin pairs."""
    sums = {name: hashlib.sha256(file.data).hexdigest() for name, file in model.files().items()}
    return "\n".join(f'            "{name}" to "{sums[name]}",' for name in sorted(sums) if name != model.file_name)


def _float_bits(values: tuple[float, float, float]) -> str:
    return ", ".join(f"java.lang.Float.intBitsToFloat({word})" for word in float_words(values, signed=True))


PLATFORM = Platform(_NAME, ("source", "package_name", "kotlinc"), bundle_name, build, problems, model_files)

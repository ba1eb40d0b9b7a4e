"""Android: an AAR in a Maven repository of its own, or the sources of a Gradle library module."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import PurePosixPath

from tofe_edge.errors import InputError
from tofe_edge.packaging.android_model import (
    GROUP,
    MIN_SDK,
    assets_folder,
    package_of,
    values_for,
    version_of,
)
from tofe_edge.packaging.archive import zip_bytes
from tofe_edge.packaging.bundle import Bundle, BundleFile, identifier
from tofe_edge.packaging.contents import PackagedModel
from tofe_edge.packaging.kotlin import compile_kotlin
from tofe_edge.packaging.licences import EXECUTORCH, GLUE, PHOTOGRAPHS, PILLOW, licence_text, notice, weights_licence
from tofe_edge.packaging.platform import Options, Platform, files_below, require_executorch
from tofe_edge.packaging.provenance import PROVENANCE, Provenance, differences, provenance_file, read_provenance
from tofe_edge.packaging.template import render, template_folder, template_names
from tofe_edge.packaging.unpack import Unpacked, read_zip

_NAME = "android"
_AAR, _AAR_FILE, _SOURCE = "aar", "aar file", "source"
"""Variants: the folder with a Maven repository, the archive in it, the Gradle module."""

_IN_AAR = (
    "AndroidManifest.xml",
    "classes.jar",
    "R.txt",
    "proguard.txt",
    "META-INF/com/android/build/gradle/aar-metadata.properties",
)
_IN_SOURCE = ("build.gradle.kts", "consumer-rules.pro", "src/main/AndroidManifest.xml")
_MAIN = "src/main/"


def bundle_name(model: PackagedModel, options: Options) -> str:
    """``NAME-android``, or ``NAME-android-source``."""
    return f"{model.name}-{_NAME}-source" if options.source else f"{model.name}-{_NAME}"


def build(model: PackagedModel, options: Options) -> Bundle:
    """The bundle of a model.

    Raises:
        InputError: Android cannot run it, the package's name is none, or without ``source`` there is no compiler.
    """
    require_executorch(model, "Android")
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
        use = render("android/README-use.md", self._values).data.decode()
        self._values = {**self._values, "USE": use}

    def source_files(self) -> dict[str, BundleFile]:
        """A Gradle library module."""
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
        """A Maven repository with the AAR and its POM."""
        stem = f"{self._model.name}-{version_of(self._model)}"
        aar = self._aar()
        folder = f"maven/{GROUP}/{self._model.name}/{version_of(self._model)}/"
        return {
            **self._documents("README-aar.md"),
            f"{folder}{stem}.aar": BundleFile(zip_bytes(aar)),
            f"{folder}{stem}.pom": self._render("pom.xml"),
        }

    def _aar(self) -> dict[str, BundleFile]:
        stubs, module = template_folder("android/stubs"), identifier(self._model.name)
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
        return {PurePosixPath(name).name: render(name, self._values) for name in template_names("android/kotlin")}

    def _documents(self, readme: str) -> dict[str, BundleFile]:
        return {
            "README.md": self._render(readme),
            "sample/MainActivity.kt": self._render("MainActivity.kt"),
            "sample/Photograph.kt": self._render("Photograph.kt"),
            **self._legal(),
        }

    def _legal(self) -> dict[str, BundleFile]:
        return {
            "LICENSE": BundleFile(licence_text("apache-2.0")),
            "LICENSE-pillow": BundleFile(licence_text("pillow")),
            "LICENSE-executorch": BundleFile(licence_text("executorch")),
            "NOTICE": BundleFile(notice(f"{self._model.name} for Android", self.licences).encode()),
        }

    def _render(self, name: str) -> BundleFile:
        return render(f"android/{name}", self._values)


def _below(folder: str, files: Mapping[str, BundleFile]) -> dict[str, BundleFile]:
    return {f"{folder}{name}": file for name, file in files.items()}


def model_files(unpacked: Unpacked, provenance: Provenance) -> dict[str, BundleFile]:
    """The model's files, out of the assets of the variant.

    Raises:
        InputError: the AAR is damaged or not there.
    """
    assets = f"assets/{assets_folder(provenance.name, provenance.model_sha256)}/"
    if provenance.variant == _SOURCE:
        return files_below(unpacked.files, _MAIN + assets)
    aar = unpacked.files if provenance.variant == _AAR_FILE else _inner(unpacked.files, ".aar")[1]
    return files_below(aar, assets)


def problems(unpacked: Unpacked, provenance: Provenance) -> list[str]:
    """What an Android build would stumble over. Raises :class:`InputError` for a damaged AAR."""
    forms = {_AAR: "folder", _AAR_FILE: "zip", _SOURCE: "folder"}
    if forms.get(provenance.variant) != unpacked.form:
        return [f"{PROVENANCE} says {provenance.variant!r}, but this is a {unpacked.form}"]
    if provenance.variant == _SOURCE:
        found = _missing(unpacked.files, _IN_SOURCE)
        script = unpacked.files.get("build.gradle.kts", BundleFile(b"")).data
        return found + [f"build.gradle.kts lacks {word}" for word in _SCRIPT_WORDS if word.encode() not in script]
    if provenance.variant == _AAR_FILE:
        return _aar_problems(unpacked.files)
    name, aar = _inner(unpacked.files, ".aar")
    inner = read_provenance(aar.get(PROVENANCE, BundleFile(b"")), f"{name}, {PROVENANCE}")
    lines = [f"{name}: {line}" for line in (*differences(inner.files, aar), *_aar_problems(aar))]
    if (inner.name, inner.model_sha256) != (provenance.name, provenance.model_sha256):
        lines.append(f"{name}: is of another model than the folder's {PROVENANCE}")
    pom = unpacked.files.get(name.removesuffix(".aar") + ".pom")
    return lines + (["the POM beside the AAR is missing"] if pom is None else _pom_problems(pom))


_SCRIPT_WORDS = ("noCompress", "org.pytorch:executorch-android:", "consumerProguardFiles")


def _inner(files: Mapping[str, BundleFile], suffix: str) -> tuple[str, dict[str, BundleFile]]:
    names = [name for name in files if name.endswith(suffix)]
    if len(names) != 1:
        raise InputError(f"it has {len(names)} {suffix} files, not one; package the model again")
    return names[0], read_zip(files[names[0]].data, names[0])


def _missing(files: Mapping[str, BundleFile], wanted: tuple[str, ...]) -> list[str]:
    return [f"{name} is missing" for name in wanted if name not in files]


def _aar_problems(aar: Mapping[str, BundleFile]) -> list[str]:
    lines = _missing(aar, _IN_AAR)
    if lines:
        return lines
    manifest = _xml(aar["AndroidManifest.xml"], "AndroidManifest.xml")
    android = "{http://schemas.android.com/apk/res/android}"
    sdk = manifest.find("uses-sdk")
    if sdk is None or sdk.get(f"{android}minSdkVersion") != str(MIN_SDK):
        lines.append(f"AndroidManifest.xml does not ask for API {MIN_SDK}, which ExecuTorch needs")
    entry = f"{manifest.get('package', '').replace('.', '/')}/TofeClassifier.class"
    if entry not in read_zip(aar["classes.jar"].data, "classes.jar"):
        lines.append(f"classes.jar lacks {entry}")
    return lines


def _pom_problems(file: BundleFile) -> list[str]:
    space = "{http://maven.apache.org/POM/4.0.0}"
    pom = _xml(file, "the POM")
    needed = {one.findtext(f"{space}artifactId") for one in pom.iter(f"{space}dependency")}
    return [] if "executorch-android" in needed else ["the POM does not depend on executorch-android"]


def _xml(file: BundleFile, name: str) -> ElementTree.Element:
    if b"<!" in file.data:
        raise InputError(f"{name} declares a document type, which this program never writes")
    try:
        return ElementTree.fromstring(file.data)
    except ElementTree.ParseError as error:
        raise InputError(f"{name} cannot be read as XML ({error})") from error


ANDROID = Platform(_NAME, bundle_name, build, problems, model_files)

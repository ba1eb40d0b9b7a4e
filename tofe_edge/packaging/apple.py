"""Apple: a Swift package with the model, for Core ML or, with ExecuTorch's Swift package, for ExecuTorch."""

from __future__ import annotations

import json
import plistlib
from collections.abc import Mapping
from pathlib import PurePosixPath
from xml.parsers.expat import ExpatError

from tofe_edge.errors import InputError
from tofe_edge.io.artifact import Manifest
from tofe_edge.io.targets import find_target, targets_for
from tofe_edge.packaging.apple_model import systems_of, values_for, variant_of
from tofe_edge.packaging.apple_names import module_of
from tofe_edge.packaging.apple_vectors import vectors_for
from tofe_edge.packaging.bundle import Bundle, BundleFile
from tofe_edge.packaging.contents import PackagedModel
from tofe_edge.packaging.licences import EXECUTORCH as EXECUTORCH_LICENCE
from tofe_edge.packaging.licences import GLUE, PHOTOGRAPHS, PILLOW, licence_text, notice, weights_licence
from tofe_edge.packaging.platform import Options, Platform, files_below
from tofe_edge.packaging.provenance import PROVENANCE, Provenance, provenance_file
from tofe_edge.packaging.template import render, template_names
from tofe_edge.packaging.unpack import Unpacked

_NAME = "apple"
_SOURCES, _TESTS = "Sources/Classifier/", "Tests/ClassifierTests/"
_MODEL = f"{_SOURCES}Model/"
_PRIVACY = f"{_SOURCES}PrivacyInfo.xcprivacy"
_MANIFEST, _FACTS = "Package.swift", f"{_SOURCES}Facts.swift"
_REQUIRED = (
    _MANIFEST,
    _FACTS,
    _PRIVACY,
    f"{_SOURCES}TofeBudget.swift",
    f"{_SOURCES}TofeClassifier.swift",
    f"{_TESTS}GoldenTests.swift",
    f"{_TESTS}ResampleTests.swift",
    "README.md",
    "LICENSE",
    "LICENSE-pillow",
    "NOTICE",
)


def bundle_name(model: PackagedModel, options: Options) -> str:
    """``NAME-apple``."""
    return f"{model.name}-{_NAME}"


def build(model: PackagedModel, options: Options) -> Bundle:
    """The Swift package of a model.

    Raises:
        InputError: Apple's systems do not run it, the module's name is none, or an option is another platform's.
    """
    given = {"--source": options.source, "--kotlinc": options.kotlinc is not None, "--arch": options.arch is not None}
    for option in (name for name, is_given in given.items() if is_given):
        raise InputError(f"{option}: is not used for Apple, whose package is always sources for Xcode; leave it out")
    manifest, variant = model.manifest, variant_of(model)
    weights = weights_licence(manifest.checkpoint, manifest.checkpoint_sha256, model.weights)
    licences = [
        GLUE,
        PILLOW,
        weights,
        PHOTOGRAPHS,
        *([EXECUTORCH_LICENCE] if find_target(variant).native_runner else []),
    ]
    values = values_for(model, module_of(model, options.package_name))
    files = {
        **_code(model, variant, {**values, **vectors_for(manifest.preprocessing)}),
        **{f"{_MODEL}{name}": file for name, file in model.files().items()},
        "README.md": _readme(variant, values),
        "LICENSE": BundleFile(licence_text("apache-2.0")),
        "LICENSE-pillow": BundleFile(licence_text("pillow")),
        "NOTICE": BundleFile(notice(f"{model.name} for Apple's systems", licences).encode()),
    }
    if find_target(variant).native_runner:
        files["LICENSE-executorch"] = BundleFile(licence_text("executorch"))
    files[PROVENANCE] = provenance_file(_NAME, variant, model, licences, files)
    return Bundle(bundle_name(model, options), "folder", files)


def _code(model: PackagedModel, variant: str, values: Mapping[str, object]) -> dict[str, BundleFile]:
    """``Package.swift``, the sources and the tests."""
    folders = {"apple/sources": _SOURCES, f"apple/{variant}": _SOURCES, "apple/tests": _TESTS}
    if not find_target(variant).native_runner:
        folders[f"apple/coreml-{model.manifest.io}"] = _SOURCES
    found = {
        f"{place}{PurePosixPath(name).name}": render(name, values)
        for folder, place in folders.items()
        for name in template_names(folder)
    }
    return {_MANIFEST: found.pop(f"{_SOURCES}{_MANIFEST}"), **found}


def _readme(variant: str, values: Mapping[str, object]) -> BundleFile:
    notes = render(f"apple/README-{variant}.md", values).data.decode()
    return render("apple/README.md", {**values, "RUNTIME_NOTES": notes})


def model_files(unpacked: Unpacked, provenance: Provenance) -> dict[str, BundleFile]:
    """The model's files, out of the target's resources."""
    return files_below(unpacked.files, _MODEL)


def problems(unpacked: Unpacked, provenance: Provenance) -> list[str]:
    """What Xcode, SwiftPM or the App Store would stumble over. Raises :class:`InputError` for a manifest that is none."""
    if unpacked.form != "folder" or provenance.variant not in targets_for("apple"):
        return [f"{PROVENANCE} says {provenance.variant!r}, but this is a {unpacked.form}"]
    lines = [f"{name} is missing" for name in _REQUIRED if name not in unpacked.files]
    if lines:
        return lines
    package, facts = (unpacked.files[name].data.decode("utf-8", "replace") for name in (_MANIFEST, _FACTS))
    words = ['.copy("Model")', '.process("PrivacyInfo.xcprivacy")', 'path: "Sources/Classifier"']
    if find_target(provenance.variant).native_runner:
        words += ["https://github.com/pytorch/executorch.git", '"-all_load"']
    lines += [f"Package.swift lacks {word}" for word in words if word not in package]
    ios, macos = systems_of(_manifest_in(unpacked, provenance))
    if f'platforms: [.iOS("{ios}"), .macOS("{macos}")]' not in package:
        lines.append(f"Package.swift does not ask for iOS {ios} and macOS {macos}, which the model needs")
    if f'static let sha256 = "{provenance.model_sha256}"' not in facts:
        lines.append(f"{_FACTS} is of another model than {PROVENANCE}")
    return lines + _privacy_problems(unpacked.files[_PRIVACY])


def _manifest_in(unpacked: Unpacked, provenance: Provenance) -> Manifest:
    name = f"{_MODEL}{provenance.name}.json"
    try:
        return Manifest.from_json(json.loads(unpacked.files[name].data))
    except KeyError as error:
        raise InputError(f"{name} is missing") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} cannot be read as JSON ({error})") from error


def _privacy_problems(file: BundleFile) -> list[str]:
    if b"<!ENTITY" in file.data:
        return [f"{_PRIVACY} declares entities, which this program never writes"]
    try:
        privacy = plistlib.loads(file.data, fmt=plistlib.FMT_XML)
    except (ValueError, ExpatError, plistlib.InvalidFileException) as error:
        return [f"{_PRIVACY} cannot be read as a property list ({error})"]
    if not isinstance(privacy, dict) or privacy.get("NSPrivacyTracking") is not False:
        return [f"{_PRIVACY} does not say that nothing is tracked"]
    return []


APPLE = Platform(_NAME, bundle_name, build, problems, model_files)

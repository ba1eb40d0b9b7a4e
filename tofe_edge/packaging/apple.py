"""Apple: a Swift package with the model, for Core ML or, with ExecuTorch's Swift package, for ExecuTorch."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from tofe_edge.errors import InputError, quoted
from tofe_edge.io.artifact import Manifest
from tofe_edge.io.targets import find_target, gates_of, targets_for
from tofe_edge.packaging.archive import Unpacked
from tofe_edge.packaging.bundle import Bundle, BundleFile, identifier
from tofe_edge.packaging.contents import PackagedModel
from tofe_edge.packaging.licences import EXECUTORCH, GLUE, PHOTOGRAPHS, PILLOW, legal_files, weights_licence
from tofe_edge.packaging.platform import (
    Options,
    Platform,
    check_method_names,
    executorch_release,
    files_below,
    require_target,
)
from tofe_edge.packaging.provenance import PROVENANCE, Provenance, provenance_file
from tofe_edge.packaging.texts import LABELS, boolean, common_values, float_words, parts, render, template_names

_NAME = "apple"
_SOURCES, _TESTS = "Sources/Classifier/", "Tests/ClassifierTests/"
_MODEL = f"{_SOURCES}Model/"
_MANIFEST = "Package.swift"

SYSTEMS = {
    "iOS16": ("16.0", "13.0"),
    "iOS17": ("17.0", "14.0"),
    "iOS18": ("18.0", "15.0"),
    "iOS26": ("26.0", "26.0"),
}
"""The oldest iOS and macOS for each deployment target, the oldest first."""
_EXECUTORCH_SYSTEM = "iOS17"
"""The system of ExecuTorch's Swift package."""
_FUNCTIONS_SYSTEM = "iOS18"
"""The first system that picks a function of a package."""


def bundle_name(model: PackagedModel, options: Options) -> str:
    """Return ``NAME-apple``."""
    return f"{model.name}-{_NAME}"


def build(model: PackagedModel, options: Options) -> Bundle:
    """Return the Swift package of a model.

    Raises:
        InputError: Apple's systems do not run it, or the module's name is not valid.
    """
    require_target(model, "Apple")
    manifest, variant = model.manifest, model.manifest.target
    weights = weights_licence(manifest.checkpoint, manifest.checkpoint_sha256, model.weights)
    licences = [GLUE, PILLOW, weights, PHOTOGRAPHS, *([EXECUTORCH] if needs_executorch(variant) else [])]
    values = values_for(model, module_of(model, options.package_name))
    files = {
        **_code(model, variant, values),
        **{f"{_MODEL}{name}": file for name, file in model.files().items()},
        "README.md": _readme(variant, values),
        **legal_files(f"{model.name} for Apple's systems", licences),
    }
    files[PROVENANCE] = provenance_file(_NAME, variant, model, licences, files)
    return Bundle(bundle_name(model, options), "folder", files)


def _code(model: PackagedModel, variant: str, values: Mapping[str, object]) -> dict[str, BundleFile]:
    """Return ``Package.swift``, the sources and the tests."""
    folders = {"apple/sources": _SOURCES, f"apple/{variant}": _SOURCES, "apple/tests": _TESTS}
    if not needs_executorch(variant):
        folders[f"apple/coreml-{model.manifest.io}"] = _SOURCES
    files = {
        f"{place}{PurePosixPath(name).name}": render(name, values)
        for folder, place in folders.items()
        for name in template_names(folder)
    }
    files[f"{_SOURCES}{values['CLASS']}.swift"] = files.pop(f"{_SOURCES}Tofe.swift")
    if not model.manifest.classifies:
        del files[f"{_SOURCES}Prediction.swift"]
    return {_MANIFEST: files.pop(f"{_SOURCES}{_MANIFEST}"), **files}


def _readme(variant: str, values: Mapping[str, object]) -> BundleFile:
    notes = render(f"apple/README-{variant}.md", values).data.decode()
    return render("apple/README.md", {**values, "RUNTIME_NOTES": notes})


def model_files(unpacked: Unpacked, provenance: Provenance) -> dict[str, BundleFile]:
    """Return the model's files, out of the target's resources."""
    return files_below(unpacked.files, _MODEL)


def problems(unpacked: Unpacked, provenance: Provenance) -> list[str]:
    """Return whether it is not a package for one of Apple's targets."""
    if unpacked.form != "folder" or provenance.variant not in targets_for(_NAME):
        return [f"{PROVENANCE} says {provenance.variant!r}, but this is a {unpacked.form}"]
    return []


def needs_executorch(target: str) -> bool:
    """Return whether ExecuTorch's Swift package runs models of a target; the system runs the others."""
    return find_target(target).native_runner


def systems_of(manifest: Manifest) -> tuple[str, str]:
    """Return the oldest iOS and macOS that run the model.

    Raises:
        InputError: the manifest names none that is known, or one that cannot pick budgets.
    """
    if needs_executorch(manifest.target):
        return SYSTEMS[_EXECUTORCH_SYSTEM]
    target = manifest.deployment_target or "none"
    if target not in SYSTEMS:
        raise InputError(
            f"{manifest.artifact}: its deployment target {quoted(target)} is not one of {', '.join(SYSTEMS)}; convert it again"
        )
    ages = list(SYSTEMS)
    if manifest.further_methods and ages.index(target) < ages.index(_FUNCTIONS_SYSTEM):
        raise InputError(
            f"{manifest.artifact}: has several budgets, which need {_FUNCTIONS_SYSTEM}, not {target}; convert it again with "
            f"--option deployment_target={_FUNCTIONS_SYSTEM}"
        )
    return SYSTEMS[target]


def values_for(model: PackagedModel, module: str) -> dict[str, object]:
    """Return every key of the Apple templates but the README's ``RUNTIME_NOTES``.

    Raises:
        InputError: as :func:`systems_of` and :func:`~tofe_edge.packaging.platform.executorch_release`, or a method cannot name a case.
    """
    manifest, spec = model.manifest, model.manifest.preprocessing
    gates, methods = gates_of(manifest), list(manifest.methods.values())
    ios, macos = systems_of(manifest)
    check_method_names(manifest, lambda name: _METHOD.fullmatch(name) and not _KEYWORD.fullmatch(name), "case in Swift")
    values: dict[str, object] = {
        **common_values(manifest),
        "MODULE": module,
        "NAME": model.name,
        "IOS": ios,
        "MACOS": macos,
        "MODEL_FILE": model.file_name,
        "SUMS": "\n".join(f'        "{name}": "{sha256}",' for name, sha256 in _sums(model).items()),
        "SELECTS_BY_RANK": boolean(manifest.selection == "rank"),
        "SHORT_SIDE": math.floor(spec.image_size / spec.crop_pct) if spec.resize == "short_side" else "nil",
        "FILTER": spec.interpolation,
        "MEAN": _floats(spec.mean),
        "STD": _floats(spec.std),
        "MIN_PSNR_DB": gates.min_psnr_db if math.isfinite(gates.min_psnr_db) else "-.infinity",
        "BUDGET_CASES": "\n".join(f'    case {method.name} = "{method.name}"' for method in methods),
        "STANDARD_BUDGET": methods[0].name,
        "BUDGET_GMACS": "\n".join(f"        case .{method.name}: return {float(method.gmacs)!r}" for method in methods),
        "BUDGET_TOKENS": "\n".join(
            f"        case .{method.name}: return {method.token_counts or []}" for method in methods
        ),
        "BUDGET_LIST": ", ".join(f"`.{method.name}` ({method.gmacs:.3f} GMACs)" for method in methods),
    }
    if needs_executorch(manifest.target):
        values["EXECUTORCH"] = executorch_release(manifest, "iOS")
        values["PRODUCTS"] = "\n".join(
            f'                .product(name: "{name}", package: "executorch"),' for name in _products(manifest)
        )
    return {**values, **parts(_NAME, manifest, values)}


def _products(manifest: Manifest) -> list[str]:
    """Return the products of ExecuTorch's package, in the order that its documentation gives them."""
    left = {name for method in manifest.methods.values() for name in method.fallback_ops}
    quantized = ["kernels_quantized"] if any("quant" in name for name in left) else []
    return [manifest.target, f"backend_{manifest.backend}", "kernels_optimized", *quantized]


def _sums(model: PackagedModel) -> dict[str, str]:
    """Return the SHA-256 of what the code reads beside the model."""
    read = [name for name in model.files() if name == LABELS or name.startswith(f"{model.name}.golden/")]
    return {name: hashlib.sha256(model.files()[name].data).hexdigest() for name in sorted(read)}


def _floats(values: Sequence[float]) -> str:
    return ", ".join(f"Float(bitPattern: 0x{word:08X})" for word in float_words(values))


_MODULE = re.compile(r"[A-Z][A-Za-z0-9_]{0,79}", re.ASCII)
_SYSTEM_MODULES = (
    "Accelerate AppKit ARKit AVFAudio AVFoundation AVKit BackgroundTasks CFNetwork Charts Cocoa Combine Contacts CoreAudio "
    "CoreData CoreFoundation CoreGraphics CoreImage CoreLocation CoreMedia CoreML CoreMotion CoreServices CoreText "
    "CoreTransferable CoreVideo CreateML CryptoKit Darwin Dispatch Distributed DeveloperToolsSupport ExecuTorch Foundation "
    "FoundationModels GameKit Glibc HealthKit ImageIO Intents IOKit IOSurface LocalAuthentication Logging MapKit Metal "
    "MetalKit MetalPerformanceShaders MLCompute Musl NaturalLanguage Network Observation ObjectiveC OSLog PackageDescription "
    "PDFKit Photos PhotosUI QuartzCore QuickLook RealityKit RegexBuilder SceneKit Security SoundAnalysis Speech SpriteKit "
    "StoreKit Swift SwiftData SwiftUI Synchronization System Testing UIKit UniformTypeIdentifiers UserNotifications VideoToolbox "
    "Vision VisionKit WatchKit WebKit WidgetKit XCTest"
)
_COMMON_TYPES = (
    "Any AnyObject Array Bool Bundle Calendar Character Codable Data Date Decimal Decodable Dictionary Double Encodable Equatable "
    "Error FileHandle FileManager Float Hashable Identifiable Int Int64 JSONDecoder JSONEncoder Locale LocalizedError "
    "MainActor Module Notification Optional Process ProcessInfo Protocol Range Result Selector Self Sendable Sequence Set String "
    "Substring Task Tensor Thread Timer Type UInt UInt8 URL URLSession UUID Value View Void"
)
_OWN_TYPES = (
    "Checksum CompiledModel Facts ModelInput Network OutputDistance Outputs PillowResize Pixels Prediction Preprocessing Resources "
    "SelfTest SelfTestResult Square TofeBudget TofeClassifier TofeConfiguration TofeEncoder TofeError"
)
_TAKEN = {name.lower() for name in f"{_SYSTEM_MODULES} {_COMMON_TYPES} {_OWN_TYPES}".split()}
"""Modules that one of the same name would stand in for, and types that would hide it or be hidden, in lower case, because file
names on a Mac do not distinguish case."""

_METHOD = re.compile(r"[a-z][A-Za-z0-9_]*", re.ASCII)
_KEYWORD = re.compile(
    r"as|associatedtype|break|case|catch|class|continue|default|defer|deinit|do|else|enum|extension"
    r"|fallthrough|false|fileprivate|for|func|guard|if|import|in|init|inout|internal|is|let|nil|none"
    r"|open|operator|private|protocol|public|repeat|rethrows|return|self|some|standard|static|struct"
    r"|subscript|super|switch|throw|throws|true|try|typealias|var|where|while"
)
"""Words that cannot name a case of ``TofeBudget``: those of Swift, and what every enum or this one has already."""


def module_of(model: PackagedModel, chosen: str | None) -> str:
    """Return the Swift module: the one chosen, or one made of the model's name.

    Raises:
        InputError: it cannot name a module, or is the name of one of the system's or of a type.
    """
    made = "".join(part.capitalize() for part in identifier(model.name).split("_")) + "Model"
    module = made if chosen is None else chosen
    if not _MODULE.fullmatch(module):
        raise InputError(f"--package-name {quoted(module)}: cannot name a Swift module; give one such as FlowerModel")
    if module.lower() in _TAKEN:
        raise InputError(
            f"--package-name {quoted(module)}: is the name of a module or type that an app may use; give one such as FlowerModel"
        )
    return module


PLATFORM = Platform(_NAME, ("package_name",), bundle_name, build, problems, model_files)

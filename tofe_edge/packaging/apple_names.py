"""Names in Swift: which a module and a case of ``TofeBudget`` may have."""

from __future__ import annotations

import re

from tofe_edge.errors import InputError, shown
from tofe_edge.io.artifact import Manifest
from tofe_edge.packaging.bundle import identifier
from tofe_edge.packaging.contents import PackagedModel

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
    "Checksum CompiledModel Facts LogitDistance ModelInput Network Outputs PillowResize Pixels Prediction Preprocessing Resources "
    "SelfTest SelfTestResult Square TofeBudget TofeClassifier TofeConfiguration TofeError"
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
        raise InputError(f"--package-name {shown(module)}: cannot name a Swift module; give one such as FlowerModel")
    if module.lower() in _TAKEN:
        raise InputError(
            f"--package-name {shown(module)}: is the name of a module or type that an app may use; give one such as FlowerModel"
        )
    return module


def check_methods(manifest: Manifest) -> None:
    """Refuse methods that cannot name a case of ``TofeBudget``.

    Raises:
        InputError: one cannot.
    """
    names = list(manifest.methods)
    for name in names:
        if not _METHOD.fullmatch(name) or _KEYWORD.fullmatch(name):
            raise InputError(
                f"{manifest.artifact}: method {shown(name)} cannot name a case in Swift; convert the model again"
            )
    if len({name.lower() for name in names}) < len(names):
        raise InputError(f"{manifest.artifact}: two methods differ in case alone; convert the model again")

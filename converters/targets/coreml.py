"""Core ML packages for Apple's systems, whose compiler places operators on CPU, GPU and Neural Engine."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tofe_edge.errors import InputError
from tofe_edge.io.targets import FP16_GATES, FP32_GATES, INT8_GATES, Lowered, Precision, Target, TargetOption

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tofe_edge.converters.coreml import CoreMlOptions
    from tofe_edge.converters.request import Build, ConvertRequest
    from tofe_edge.converters.static_graph import StaticToFe
    from tofe_edge.io.artifact import Artifact
    from tofe_edge.profiles import DeviceProfile
    from tofe_edge.runtimes.coreml import CoreMlModel
    from tofe_edge.runtimes.reports import PackageReport, ProfileRequest

_SYSTEMS = ("iOS16", "iOS17", "iOS18", "iOS26")
"""By Core ML's names, the oldest first; macOS 13, 14, 15 and 26 load the same packages."""

_USUAL_SYSTEM = "iOS17"
_EXACT_IN_FLOAT16 = 2048


@dataclass(frozen=True)
class PackageOptions:
    """What only a Core ML package has."""

    deployment_target: str
    io: str = "image"
    """``image``: an image in, and of a classifier a class with probabilities out; ``tensor``: normalised pixels in."""
    float32_selectors: bool = False
    author: str = ""
    license: str = ""


OPTIONS = (
    TargetOption(
        "io",
        "image: an image in, and of a classifier a class with probabilities out; tensor: normalised pixels in, logits out "
        "(default: image)",
        ("image", "tensor"),
    ),
    TargetOption(
        "deployment_target",
        f"the oldest system to load the model: {', '.join(_SYSTEMS)}, for macOS 13, 14, 15, 26 too "
        f"(default: the profile's, else {_USUAL_SYSTEM})",
    ),
    TargetOption(
        "float32_selectors", "true: score tokens in fp32 in an fp16 model (default: false)", ("true", "false")
    ),
    TargetOption("author", "shown by Xcode"),
    TargetOption("license", "shown by Xcode"),
)


def _profile_system(profile: DeviceProfile | None) -> str:
    return (profile and profile.defaults.deployment_target) or _USUAL_SYSTEM


def _read_options(given: Mapping[str, str], profile: DeviceProfile | None) -> PackageOptions:
    return PackageOptions(
        deployment_target=given.get("deployment_target", _profile_system(profile)),
        io=given.get("io", "image"),
        float32_selectors=given.get("float32_selectors") == "true",
        author=given.get("author", ""),
        license=given.get("license", ""),
    )


def _name_suffix(options: PackageOptions, profile: DeviceProfile | None) -> tuple[str, ...]:
    return (
        "tensor" if options.io == "tensor" else "",
        "fp32_selectors" if options.float32_selectors else "",
        options.deployment_target if options.deployment_target != _profile_system(profile) else "",
    )


def _default_selection(profile: DeviceProfile | None) -> str:
    """topk and gather leave the Neural Engine, and tokens then travel to the CPU and back at each selection."""
    return "rank" if profile is None or any(unit.kind == "npu" for unit in profile.peaks.accelerators) else "topk"


def _manifest_fields(options: PackageOptions) -> Mapping[str, Any]:
    return {"io": options.io, "deployment_target": options.deployment_target}


def _has_native_library() -> bool:
    """Whether coremltools can write packages here; it notices only at the end of a conversion."""
    spec = importlib.util.find_spec("coremltools")
    return spec is None or spec.origin is None or any(Path(spec.origin).parent.glob("libmilstoragepython*"))


def _check(request: ConvertRequest) -> None:
    options: PackageOptions = request.options
    if not _has_native_library():
        raise InputError(
            "--target coreml: this coremltools has no native library to write weights with, as its wheels for Linux and macOS have; "
            "install one of them, with a Python that it has wheels for"
        )
    if request.reproducible:
        raise InputError(
            "--reproducible: Core ML chooses processor and rounding itself; use XNNPACK (--target executorch)"
        )
    if request.batch > 1:
        raise InputError(
            "--batch: a Core ML package takes one image per run; hand it several with MLArrayBatchProvider"
        )
    if options.float32_selectors and request.precision == "fp32":
        raise InputError("--option float32_selectors: at --precision fp32 everything is; leave it out")
    system = options.deployment_target
    if system not in _SYSTEMS:
        raise InputError(f"--option deployment_target={system}: is not one of {', '.join(_SYSTEMS)}")
    needs = {"several budgets in one package": "iOS18"} if request.further_gmacs else {}
    if request.precision == "int8":
        # Before it, coremltools 9.0 has no int8 zero points.
        needs["int8 weights"] = "iOS17"
    for what, needed in needs.items():
        if _SYSTEMS.index(system) < _SYSTEMS.index(needed):
            raise InputError(f"{what} need {needed}, not {system}; add --option deployment_target={needed}")


def _prepare_images(images: tuple[Tensor, ...], build: Build) -> tuple[Tensor, ...]:
    """Pixels 0 to 255 if that is what the package takes."""
    import torch

    from tofe_edge.io.preprocessing import denormalize

    if build.request.options.io == "tensor":
        return images
    return tuple(torch.from_numpy(denormalize(image.numpy(), build.preprocessing)) for image in images)


def _rewrite(graph: StaticToFe, build: Build) -> StaticToFe:
    from tofe_edge.converters.coreml_graph import NativeRankSelection, native_graph, native_topk

    request, patch_tokens = build.request, build.backbone.patch_tokens
    by_rank = request.selection == "rank"
    if by_rank and request.precision != "fp32" and patch_tokens > _EXACT_IN_FLOAT16:
        raise InputError(
            f"{patch_tokens} tokens cannot be ranked: float16 counts to {_EXACT_IN_FLOAT16}; use --selection topk or "
            "--precision fp32"
        )
    select = NativeRankSelection(patch_tokens) if by_rank else native_topk
    return native_graph(graph, select, build.preprocessing if request.options.io == "image" else None)


def _lower(methods: Mapping[str, nn.Module], build: Build) -> Lowered:
    from tofe_edge.converters.coreml import lower

    return lower(methods, build.input_shape, _lowering_options(build))


def _lowering_options(build: Build) -> CoreMlOptions:
    from tofe_edge import __version__
    from tofe_edge.converters.coreml import About, CoreMlOptions, check_text, unique_labels
    from tofe_edge.io.artifact import DEFAULT_METHOD
    from tofe_edge.runtimes.coreml_checks import function_name

    request, backbone = build.request, build.backbone
    options: PackageOptions = request.options
    checkpoint, default = request.checkpoint, build.budgets[DEFAULT_METHOD]
    check_text(options.author, "--option author")
    check_text(options.license, "--option license")
    kept = {function_name(name): counts.kept for name, counts in build.budgets.items() if counts is not None}
    notes = {
        **build.notes,
        **{f"tofe_edge.kept_tokens.{name}": ",".join(map(str, tokens)) for name, tokens in kept.items()},
    }
    tokens = "" if default is None else f", {', '.join(map(str, default.kept))} of {backbone.patch_tokens} patches kept"
    classifies, as_image = request.output == "logits", options.io == "image"
    kind = f"image classifier, {len(checkpoint.classes.names)} classes" if classifies else f"image {request.output}"
    about = About(
        title=f"{checkpoint.name}: {kind}{tokens}",
        author=options.author,
        license=options.license,
        version=__version__,
        stages=0 if default is None else len(default.kept),
        patch_tokens=backbone.patch_tokens,
        output=request.output,
        metadata=notes,
    )
    classes = checkpoint.classes
    return CoreMlOptions(
        deployment_target=options.deployment_target,
        precision="fp32" if request.precision == "fp32" else "fp16",
        about=about,
        labels=unique_labels(classes.names, classes.ids) if as_image and classifies else None,
        takes_image=as_image,
        float32_selectors=options.float32_selectors,
        palettes=TARGET.precisions[request.precision].palette_bits is not None,
    )


def _open(artifact: Artifact, _threads: int, method: str, _provider: str | None) -> CoreMlModel:
    """Core ML has threads of its own."""
    from tofe_edge.runtimes.coreml import load

    return load(artifact, method)


def _time(artifact: Artifact, request: ProfileRequest) -> PackageReport:
    from tofe_edge.runtimes.coreml_profile import profile_package

    return profile_package(artifact, request)


TARGET = Target(
    name="coreml",
    backend="coreml",
    title="Core ML",
    suffix=".mlpackage",
    is_folder=True,
    libraries=("coremltools",),
    precisions={
        "fp32": Precision(FP32_GATES),
        "fp16": Precision(FP16_GATES),
        "int8": Precision(INT8_GATES, int8_modes=("weights", "static"), quantizes_outputs=False),
        "pal6": Precision(INT8_GATES, palette_bits=6, quantizes_outputs=False),
        "pal4": Precision(INT8_GATES, palette_bits=4, quantizes_outputs=False),
    },
    options=OPTIONS,
    deployment_targets=_SYSTEMS,
    platforms=("apple",),
    runtime_options=("compute_units",),
    default_selection=_default_selection,
    read_options=_read_options,
    name_suffix=_name_suffix,
    manifest_fields=_manifest_fields,
    check=_check,
    prepare_images=_prepare_images,
    rewrite=_rewrite,
    lower=_lower,
    open=_open,
    time=_time,
)

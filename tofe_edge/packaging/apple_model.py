"""What the Apple templates are filled with: the manifest as constants of Swift, systems, products and README."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

from tofe_edge.errors import InputError, shown
from tofe_edge.evaluation.parity import GATES
from tofe_edge.io.artifact import Manifest
from tofe_edge.io.targets import find_target, runs_on
from tofe_edge.packaging.apple_names import check_methods
from tofe_edge.packaging.contents import LABELS, PackagedModel
from tofe_edge.packaging.platform import executorch_release
from tofe_edge.packaging.wording import boolean, common_values, float_words

SYSTEMS = {
    "iOS16": ("16.0", "13.0"),
    "iOS17": ("17.0", "14.0"),
    "iOS18": ("18.0", "15.0"),
    "iOS26": ("26.0", "26.0"),
}
"""The oldest iOS and macOS for each deployment target, the oldest first."""
_EXECUTORCH_SYSTEM = "iOS17"
"""That of ExecuTorch's Swift package."""
_FUNCTIONS_SYSTEM = "iOS18"
"""The first that picks a function of a package."""


def variant_of(model: PackagedModel) -> str:
    """Return the target that runs the model. Raises :class:`InputError` if there is none on Apple's systems."""
    manifest = model.manifest
    if runs_on(manifest, "apple"):
        return manifest.target
    raise InputError(
        f"{model.file_name}: is a model for {shown(manifest.target)} with {shown(manifest.backend)}, which does not run on Apple's "
        "systems; convert it for iphone_15 or another of their profiles"
    )


def systems_of(manifest: Manifest) -> tuple[str, str]:
    """The oldest iOS and macOS that run the model.

    Raises:
        InputError: the manifest names none that is known, or one that cannot pick budgets.
    """
    target = manifest.deployment_target or (
        _EXECUTORCH_SYSTEM if find_target(manifest.target).native_runner else "none"
    )
    if target not in SYSTEMS:
        raise InputError(
            f"{manifest.artifact}: its deployment target {shown(target)} is not one of {', '.join(SYSTEMS)}; convert it again"
        )
    ages = list(SYSTEMS)
    if find_target(manifest.target).native_runner:
        return SYSTEMS[max(target, _EXECUTORCH_SYSTEM, key=ages.index)]
    if manifest.further_methods and ages.index(target) < ages.index(_FUNCTIONS_SYSTEM):
        raise InputError(
            f"{manifest.artifact}: has several budgets, which need {_FUNCTIONS_SYSTEM}, not {target}; convert it again with "
            f"--option deployment_target={_FUNCTIONS_SYSTEM}"
        )
    return SYSTEMS[target]


def values_for(model: PackagedModel, module: str) -> dict[str, object]:
    """Every key of the Apple templates but those of the test vectors and the README's ``USE``.

    Raises:
        InputError: as :func:`systems_of` and :func:`~tofe_edge.packaging.platform.executorch_release`, or a method cannot name a case.
    """
    manifest, spec = model.manifest, model.manifest.preprocessing
    gates, methods = GATES[manifest.precision], list(manifest.methods.values())
    ios, macos = systems_of(manifest)
    check_methods(manifest)
    values: dict[str, object] = {
        **common_values(manifest),
        "MODULE": module,
        "NAME": model.name,
        "IOS": ios,
        "MACOS": macos,
        "MODEL_FILE": model.file_name,
        "LABELS_FILE": LABELS,
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
    if find_target(manifest.target).native_runner:
        values["EXECUTORCH"] = executorch_release(manifest, "iOS")
        values["PRODUCTS"] = "\n".join(
            f'                .product(name: "{name}", package: "executorch"),' for name in _products(manifest)
        )
    return values


def _products(manifest: Manifest) -> list[str]:
    """Of ExecuTorch's package, in the order that its documentation gives them."""
    left = {name for method in manifest.methods.values() for name in method.fallback_ops}
    quantized = ["kernels_quantized"] if any("quant" in name for name in left) else []
    return [manifest.target, f"backend_{manifest.backend}", "kernels_optimized", *quantized]


def _sums(model: PackagedModel) -> dict[str, str]:
    """SHA-256 of what the code reads beside the model."""
    read = [LABELS, *(name for name in model.files() if name.startswith(f"{model.name}.golden/"))]
    return {name: hashlib.sha256(model.files()[name].data).hexdigest() for name in sorted(read)}


def _floats(values: Sequence[float]) -> str:
    return ", ".join(f"Float(bitPattern: 0x{word:08X})" for word in float_words(values))

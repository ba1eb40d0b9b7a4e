"""tofe-edge: ToFe vision transformers on edge devices.

A checkpoint becomes a checked model for a device; the model is run, measured and compared with its reference::

    import tofe_edge as te

    model = te.convert("tofe_deit_tiny_063", profile="raspberry_pi_5")
    for best in model.run("photo.jpg")[0].top5:
        print(f"{best.probability:.0%} {best.name}")
    print(te.profile(model).timing.latency.to_json())
    print(te.parity(model, data="val/").passed)

Functions take names, paths or what other functions return, and raise :class:`TofeEdgeError` with one line that says what
is wrong and what to try. ``import tofe_edge`` loads none of the libraries below it; the first use of a name does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tofe_edge.errors import DeviceError, GateError, InputError, TofeEdgeError
    from tofe_edge.profiles import DeviceProfile, load_profile
    from tofe_edge.runtimes.reports import LatencyReport, PackageReport
    from tofe_edge.workflows.api import convert
    from tofe_edge.workflows.evaluate import EvaluationReport, evaluate
    from tofe_edge.workflows.package import Packaged, package
    from tofe_edge.workflows.parity import ParityReport, parity
    from tofe_edge.workflows.profile import profile
    from tofe_edge.workflows.reduce import Reduced, reduce
    from tofe_edge.workflows.run import Classification, Model, SelfTest, load
    from tofe_edge.workflows.select import Selected, select
    from tofe_edge.workflows.train import train

_WHERE = {
    "errors": ("DeviceError", "GateError", "InputError", "TofeEdgeError"),
    "profiles": ("DeviceProfile", "load_profile"),
    "runtimes.reports": ("LatencyReport", "PackageReport"),
    "workflows.api": ("convert",),
    "workflows.evaluate": ("EvaluationReport", "evaluate"),
    "workflows.package": ("Packaged", "package"),
    "workflows.parity": ("ParityReport", "parity"),
    "workflows.profile": ("profile",),
    "workflows.reduce": ("Reduced", "reduce"),
    "workflows.run": ("Classification", "Model", "SelfTest", "load"),
    "workflows.select": ("Selected", "select"),
    "workflows.train": ("train",),
}
_MODULE_OF = {name: module for module, names in _WHERE.items() for name in names}

__all__ = [
    "Classification",
    "DeviceError",
    "DeviceProfile",
    "EvaluationReport",
    "GateError",
    "InputError",
    "LatencyReport",
    "Model",
    "PackageReport",
    "Packaged",
    "ParityReport",
    "Reduced",
    "Selected",
    "SelfTest",
    "TofeEdgeError",
    "convert",
    "evaluate",
    "load",
    "load_profile",
    "package",
    "parity",
    "profile",
    "reduce",
    "select",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]

"""What a device profile holds, and how one is built from a YAML document.

The dataclasses mirror the file: ``budget.gmacs.value`` in YAML is ``profile.budget.gmacs.value`` here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Annotated

from pydantic import AfterValidator, Field

from tofe_edge.errors import did_you_mean, quoted
from tofe_edge.io.documents import FORBID, fault, one_of
from tofe_edge.io.targets import find_target, target_names
from tofe_edge.profiles.document import Document, Line, Positive, Whole
from tofe_edge.profiles.latency import LatencyTable, check_tables

SCHEMA_VERSION = 1

PROVENANCES = ("vendor", "measured", "derived")
CLUSTER_KINDS = ("big", "little")
ISA_FEATURES = (
    "neon", "fp16", "dotprod", "i8mm", "bf16", "sve2", "sme2",
    "fma", "f16c", "avx2", "avx512", "vnni",
)  # fmt: skip
ACCELERATOR_KINDS = ("gpu", "npu", "dsp")
ACCELERATOR_PRECISIONS = ("fp32", "fp16", "int8", "unstated")
PRECISIONS = ("fp32", "fp16", "int8")

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


def _name(name: str) -> str:
    if not _NAME.fullmatch(name):
        fault(f"{quoted(name)} is not a profile name; use lower-case letters, digits and _, as in my_board")
    return name


@dataclass(frozen=True)
class Quantity:
    """A number and where it comes from. The unit is in the name of the field that holds it."""

    __pydantic_config__ = FORBID

    value: Positive
    """Finite and greater than zero."""
    provenance: Annotated[Line, one_of(PROVENANCES)]
    """``vendor`` (published by the maker), ``measured`` (by anybody) or ``derived`` (computed or assumed)."""
    source: Line
    """Who says so, or the formula; states when a number was not cross-checked."""


@dataclass(frozen=True)
class CpuCluster:
    """CPU cores of one kind."""

    __pydantic_config__ = FORBID

    name: Line
    kind: Annotated[Line, one_of(CLUSTER_KINDS)]
    """``big`` cores run the model; ``little`` cores are left to the system."""
    cores: Whole
    ghz: Quantity
    """Highest clock, GHz."""
    int8_ops_per_cycle: Quantity | None = None
    """int8 operations (a multiply-accumulate is two) per cycle and core at the dot-product rate. Set for big cores."""


@dataclass(frozen=True)
class Cpu:
    """The CPU: instruction set features that matter for matrix products, and its clusters."""

    __pydantic_config__ = FORBID

    isa: Annotated[tuple[Annotated[Line, one_of(ISA_FEATURES)], ...], Field(min_length=1)]
    clusters: Annotated[tuple[CpuCluster, ...], Field(min_length=1)]


@dataclass(frozen=True)
class Memory:
    """Main memory."""

    __pydantic_config__ = FORBID

    ram_gb: Quantity
    """Capacity, GB."""
    bandwidth_gb_per_s: Quantity
    """Peak bandwidth, GB/s."""


@dataclass(frozen=True)
class Accelerator:
    """A GPU, NPU or DSP beside the CPU. Recorded for people; the budget rule does not use it."""

    __pydantic_config__ = FORBID

    name: Line
    kind: Annotated[Line, one_of(ACCELERATOR_KINDS)]
    precision: Annotated[Line, one_of(ACCELERATOR_PRECISIONS)]
    """Number format of the peak, or ``unstated`` when the maker does not say."""
    peak_tops: Quantity
    """Dense peak, 10^12 operations per second (a multiply-accumulate is two)."""


@dataclass(frozen=True)
class Peaks:
    """Upper bounds of compute, 10^9 operations per second (a multiply-accumulate is two), all big cores together."""

    __pydantic_config__ = FORBID

    cpu_fp32_gops: Quantity
    cpu_fp16_gops: Quantity
    cpu_int8_gops: Quantity
    accelerators: Annotated[tuple[Accelerator, ...], Field(min_length=1)] = ()


@dataclass(frozen=True)
class ProfileDefaults:
    """What a conversion for this device uses unless told otherwise."""

    __pydantic_config__ = FORBID

    target: Annotated[Line, one_of(target_names())]
    backend: Line
    precision: Annotated[Line, one_of(PRECISIONS)]
    threads: Whole
    """CPU threads, at most the number of big cores."""
    deployment_target: Line | None = None
    """Core ML: the oldest system that is to load the model, by its name for iOS (iOS17 is macOS 14 too), if stated."""


@dataclass(frozen=True)
class ProfileEngine:
    """Another processor of the device that can run a model, and what is converted for it: ``convert --engine NAME``."""

    __pydantic_config__ = FORBID

    name: Annotated[Line, one_of(ACCELERATOR_KINDS)]
    target: Annotated[Line, one_of(target_names())]
    precision: Annotated[Line, one_of(PRECISIONS)]
    runtime: Line
    """What runs it there, for people: ``TensorRT``."""
    provenance: Annotated[Line, one_of(PROVENANCES)]
    source: Line
    """Why this precision, and whether it was run."""


@dataclass(frozen=True)
class ProfileBudget:
    """What a model may cost on this device."""

    __pydantic_config__ = FORBID

    gmacs: Quantity
    """10^9 multiply-accumulates per image."""


@dataclass(frozen=True)
class DeviceProfile:
    """One device, as one YAML file describes it."""

    __pydantic_config__ = FORBID

    name: Annotated[Line, AfterValidator(_name)]
    title: Line
    soc: Line
    cpu: Cpu
    memory: Memory
    peaks: Peaks
    defaults: ProfileDefaults
    budget: ProfileBudget
    engines: Annotated[tuple[ProfileEngine, ...], Field(min_length=1)] = ()
    """Beside the one of ``defaults``."""
    latency: Annotated[tuple[LatencyTable, ...], Field(min_length=1)] = ()
    """What nets take on it, if somebody measured that: at most one table per net and precision."""

    @property
    def architecture(self) -> str | None:
        """``aarch64`` or ``x86_64``, by its instructions; ``None`` if it states none of either."""
        isa = set(self.cpu.isa)
        return "aarch64" if "neon" in isa else "x86_64" if isa & {"fma", "f16c", "avx2", "avx512", "vnni"} else None

    def is_of(self, machine: str) -> bool:
        """Whether a machine, as ``uname -m`` names it, can be this device."""
        named = {"arm64": "aarch64", "amd64": "x86_64"}.get(machine.lower(), machine)
        return self.architecture in (None, named)


@dataclass(frozen=True, kw_only=True)
class _File(DeviceProfile):
    schema: Whole


def build_profile(document: Document) -> DeviceProfile:
    """The profile in a parsed document. Raises ProfileError naming file, line and key of the first fault."""
    read = document.read(_File)
    if read.schema != SCHEMA_VERSION:
        problem = f"version {read.schema} is not supported; this program reads version {SCHEMA_VERSION}"
        raise document.error(("schema",), problem)
    _check_cpu(document, read)
    _check_defaults(document, read)
    for index, engine in enumerate(read.engines):
        if engine.name in [other.name for other in read.engines[:index]]:
            raise document.error(("engines", index, "name"), f"{quoted(engine.name)} is there twice; keep one")
        precisions = find_target(engine.target).precisions
        if engine.precision not in precisions:
            problem = f"{quoted(engine.precision)} is not one of {', '.join(precisions)}"
            raise document.error(("engines", index, "precision"), problem)
    check_tables(document, read.latency)
    return DeviceProfile(**{field.name: getattr(read, field.name) for field in fields(DeviceProfile)})


def _check_cpu(document: Document, profile: DeviceProfile) -> None:
    clusters = profile.cpu.clusters
    if not any(cluster.kind == "big" for cluster in clusters):
        raise document.error(("cpu", "clusters"), "no cluster has kind 'big'; mark the cores that run the model")
    for index, cluster in enumerate(clusters):
        if cluster.kind == "big" and cluster.int8_ops_per_cycle is None:
            problem = "int8_ops_per_cycle is missing; a big cluster needs it, for example 64 with 2 128-bit pipes"
            raise document.error(("cpu", "clusters", index), problem)


def _check_defaults(document: Document, profile: DeviceProfile) -> None:
    defaults = profile.defaults
    big_cores = sum(cluster.cores for cluster in profile.cpu.clusters if cluster.kind == "big")
    if defaults.threads > big_cores:
        problem = f"{defaults.threads} is more than the big cores; use at most {big_cores}"
        raise document.error(("defaults", "threads"), problem)
    target = find_target(defaults.target)
    if defaults.backend != target.backend:
        raise document.error(("defaults", "backend"), f"{quoted(defaults.backend)} is not one of {target.backend}")
    system, systems = defaults.deployment_target, target.deployment_targets
    if system is not None and not systems:
        owners = [name for name in target_names() if find_target(name).deployment_targets]
        problem = f"belongs to target {', '.join(owners)} alone; remove it"
        raise document.error(("defaults", "deployment_target"), problem)
    if system is not None and system not in systems:
        problem = f"{quoted(system)} is not one of {', '.join(systems)}{did_you_mean(system, systems)}"
        raise document.error(("defaults", "deployment_target"), problem)

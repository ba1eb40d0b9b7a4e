"""What a device profile holds, and how one is built from a YAML document.

The dataclasses mirror the file: ``budget.gmacs.value`` in YAML is ``profile.budget.gmacs.value`` here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tofe_edge.errors import shown
from tofe_edge.io.targets import find_target, target_names
from tofe_edge.profiles.document import Field
from tofe_edge.profiles.latency import LatencyTable, read_tables

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


@dataclass(frozen=True)
class Quantity:
    """A number and where it comes from. The unit is in the name of the field that holds it."""

    value: float
    """Finite and greater than zero."""
    provenance: str
    """``vendor`` (published by the maker), ``measured`` (by anybody) or ``derived`` (computed or assumed)."""
    source: str
    """Who says so, or the formula; states when a number was not cross-checked."""


@dataclass(frozen=True)
class CpuCluster:
    """CPU cores of one kind."""

    name: str
    kind: str
    """``big`` cores run the model; ``little`` cores are left to the system."""
    cores: int
    ghz: Quantity
    """Highest clock, GHz."""
    int8_ops_per_cycle: Quantity | None
    """int8 operations (a multiply-accumulate is two) a cycle and core at the dot-product rate. Set for big cores."""


@dataclass(frozen=True)
class Cpu:
    """The CPU: instruction set features that matter for matrix products, and its clusters."""

    isa: tuple[str, ...]
    clusters: tuple[CpuCluster, ...]


@dataclass(frozen=True)
class Memory:
    """Main memory."""

    ram_gb: Quantity
    """Capacity, GB."""
    bandwidth_gb_per_s: Quantity
    """Peak bandwidth, GB/s."""


@dataclass(frozen=True)
class Accelerator:
    """A GPU, NPU or DSP beside the CPU. Recorded for people; the budget rule does not use it."""

    name: str
    kind: str
    precision: str
    """Number format of the peak, or ``unstated`` when the maker does not say."""
    peak_tops: Quantity
    """Dense peak, 10^12 operations a second (a multiply-accumulate is two)."""


@dataclass(frozen=True)
class Peaks:
    """Upper bounds of compute, 10^9 operations a second (a multiply-accumulate is two), all big cores together."""

    cpu_fp32_gops: Quantity
    cpu_fp16_gops: Quantity
    cpu_int8_gops: Quantity
    accelerators: tuple[Accelerator, ...]


@dataclass(frozen=True)
class ProfileDefaults:
    """What a conversion for this device uses unless told otherwise."""

    target: str
    backend: str
    precision: str
    threads: int
    """CPU threads, at most the number of big cores."""
    deployment_target: str | None
    """Core ML: the oldest system that is to load the model, by its name for iOS (iOS17 is macOS 14 too), where stated."""


@dataclass(frozen=True)
class ProfileBudget:
    """What a model may cost on this device."""

    gmacs: Quantity
    """10^9 multiply-accumulates an image."""


@dataclass(frozen=True)
class DeviceProfile:
    """One device, as one YAML file describes it."""

    name: str
    title: str
    soc: str
    cpu: Cpu
    memory: Memory
    peaks: Peaks
    defaults: ProfileDefaults
    budget: ProfileBudget
    latency: tuple[LatencyTable, ...] = ()
    """What nets take on it, where somebody measured that: at most one table a net and precision."""


def build_profile(root: Field) -> DeviceProfile:
    """The profile in a parsed document. Raises ProfileError naming file, line and key of the first fault."""
    required = ("schema", "name", "title", "soc", "cpu", "memory", "peaks", "defaults", "budget")
    fields = root.mapping(required, optional=("latency",))
    _check_version(fields["schema"])
    cpu = _cpu(fields["cpu"])
    return DeviceProfile(
        name=_name(fields["name"]),
        title=fields["title"].text(),
        soc=fields["soc"].text(),
        cpu=cpu,
        memory=_memory(fields["memory"]),
        peaks=_peaks(fields["peaks"]),
        defaults=_defaults(fields["defaults"], cpu),
        budget=ProfileBudget(gmacs=_quantity(fields["budget"].mapping(("gmacs",))["gmacs"])),
        latency=read_tables(fields["latency"]) if "latency" in fields else (),
    )


def _check_version(field: Field) -> None:
    version = field.count()
    if version != SCHEMA_VERSION:
        raise field.error(f"version {version} is not supported; this program reads version {SCHEMA_VERSION}")


def _name(field: Field) -> str:
    name = field.text()
    if not _NAME.fullmatch(name):
        raise field.error(f"{shown(name)} is not a profile name; use lower-case letters, digits and _, as in my_board")
    return name


def _quantity(field: Field) -> Quantity:
    fields = field.mapping(("value", "provenance", "source"))
    return Quantity(
        value=fields["value"].number(),
        provenance=fields["provenance"].choice(PROVENANCES),
        source=fields["source"].text(),
    )


def _cpu(field: Field) -> Cpu:
    fields = field.mapping(("isa", "clusters"))
    clusters = tuple(_cluster(item) for item in fields["clusters"].items())
    if not any(cluster.kind == "big" for cluster in clusters):
        raise fields["clusters"].error("no cluster has kind 'big'; mark the cores that run the model")
    return Cpu(isa=tuple(item.choice(ISA_FEATURES) for item in fields["isa"].items()), clusters=clusters)


def _cluster(field: Field) -> CpuCluster:
    fields = field.mapping(("name", "kind", "cores", "ghz"), optional=("int8_ops_per_cycle",))
    kind = fields["kind"].choice(CLUSTER_KINDS)
    ops_field = fields.get("int8_ops_per_cycle")
    if kind == "big" and ops_field is None:
        raise field.error("int8_ops_per_cycle is missing; a big cluster needs it, for example 64 with 2 128-bit pipes")
    return CpuCluster(
        name=fields["name"].text(),
        kind=kind,
        cores=fields["cores"].count(),
        ghz=_quantity(fields["ghz"]),
        int8_ops_per_cycle=_quantity(ops_field) if ops_field else None,
    )


def _memory(field: Field) -> Memory:
    fields = field.mapping(("ram_gb", "bandwidth_gb_per_s"))
    return Memory(
        ram_gb=_quantity(fields["ram_gb"]),
        bandwidth_gb_per_s=_quantity(fields["bandwidth_gb_per_s"]),
    )


def _peaks(field: Field) -> Peaks:
    fields = field.mapping(("cpu_fp32_gops", "cpu_fp16_gops", "cpu_int8_gops"), optional=("accelerators",))
    accelerators = fields["accelerators"].items() if "accelerators" in fields else []
    return Peaks(
        cpu_fp32_gops=_quantity(fields["cpu_fp32_gops"]),
        cpu_fp16_gops=_quantity(fields["cpu_fp16_gops"]),
        cpu_int8_gops=_quantity(fields["cpu_int8_gops"]),
        accelerators=tuple(_accelerator(item) for item in accelerators),
    )


def _accelerator(field: Field) -> Accelerator:
    fields = field.mapping(("name", "kind", "precision", "peak_tops"))
    return Accelerator(
        name=fields["name"].text(),
        kind=fields["kind"].choice(ACCELERATOR_KINDS),
        precision=fields["precision"].choice(ACCELERATOR_PRECISIONS),
        peak_tops=_quantity(fields["peak_tops"]),
    )


def _defaults(field: Field, cpu: Cpu) -> ProfileDefaults:
    fields = field.mapping(("target", "backend", "precision", "threads"), optional=("deployment_target",))
    target = find_target(fields["target"].choice(target_names()))
    threads = fields["threads"].count()
    big_cores = sum(cluster.cores for cluster in cpu.clusters if cluster.kind == "big")
    if threads > big_cores:
        raise fields["threads"].error(f"{threads} is more than the big cores; use at most {big_cores}")
    system = fields.get("deployment_target")
    if system is not None and not target.deployment_targets:
        owners = [name for name in target_names() if find_target(name).deployment_targets]
        raise system.error(f"belongs to target {', '.join(owners)} alone; remove it")
    return ProfileDefaults(
        target=target.name,
        backend=fields["backend"].choice((target.backend,)),
        precision=fields["precision"].choice(PRECISIONS),
        threads=threads,
        deployment_target=system.choice(target.deployment_targets) if system else None,
    )

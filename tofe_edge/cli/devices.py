"""``tofe-edge devices``: the shipped device profiles, or every number of one."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from tofe_edge.cli.output import emit, facts, latency_facts, table, threads
from tofe_edge.profiles import DeviceProfile, Quantity, load_all, load_profile

_DEFAULTS = ("target", "precision", "threads")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="a shipped profile or a file: show every number with its provenance"
    )


def run(args: argparse.Namespace) -> int:
    """Print the list or one profile."""
    if args.name:
        profile = load_profile(args.name)
        emit(args.json, asdict(profile), _describe(profile))
        return 0
    loaded = load_all()
    rows = [
        [one.name, one.title, f"{one.budget.gmacs.value:.2f}", *(str(getattr(one.defaults, key)) for key in _DEFAULTS)]
        for one in loaded
    ]
    emit(args.json, [asdict(one) for one in loaded], table(rows, ["profile", "device", "GMACs", *_DEFAULTS]))
    return 0


def _describe(profile: DeviceProfile) -> str:
    cpu, memory, peaks = profile.cpu, profile.memory, profile.peaks
    rows: list[tuple[str, str]] = [("device", profile.title), ("SoC", profile.soc), ("ISA", ", ".join(cpu.isa))]
    for cluster in cpu.clusters:
        rows.append((f"{cluster.cores}x {cluster.name}", _quantity(cluster.ghz, "GHz")))
        if cluster.int8_ops_per_cycle is not None:
            rows.append(("", _quantity(cluster.int8_ops_per_cycle, "int8 operations a cycle")))
    rows += [
        ("RAM", _quantity(memory.ram_gb, "GB")),
        ("bandwidth", _quantity(memory.bandwidth_gb_per_s, "GB/s")),
        ("CPU fp32", _quantity(peaks.cpu_fp32_gops, "GOPS")),
        ("CPU fp16", _quantity(peaks.cpu_fp16_gops, "GOPS")),
        ("CPU int8", _quantity(peaks.cpu_int8_gops, "GOPS")),
    ]
    rows += [
        (f"{unit.name} ({unit.kind}, {unit.precision})", _quantity(unit.peak_tops, "TOPS"))
        for unit in peaks.accelerators
    ]
    defaults = profile.defaults
    system = f", {defaults.deployment_target} or later" if defaults.deployment_target else ""
    rows.append(
        ("defaults", f"{defaults.target}/{defaults.backend}, {defaults.precision}, {defaults.threads} threads{system}")
    )
    rows += [
        (f"engine {one.name}", f"{one.target}, {one.precision}, {one.runtime}  [{one.provenance}: {one.source}]")
        for one in profile.engines
    ]
    rows.append(("budget", _quantity(profile.budget.gmacs, "GMACs")))
    for measured in profile.latency:
        rows += [
            ("", ""),
            ("latency", f"{measured.backbone}, {measured.precision}, {threads(measured.threads)}"),
            ("", f"[{measured.provenance}: {measured.source}]"),
            *latency_facts(measured),
        ]
    return facts(rows)


def _quantity(quantity: Quantity, unit: str) -> str:
    return f"{quantity.value:g} {unit}  [{quantity.provenance}: {quantity.source}]"

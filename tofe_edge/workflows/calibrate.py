"""Measuring the parts of a net on a device, and writing the latency table into its profile."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from tofe_edge import __version__
from tofe_edge.budget.latency_model import Part, check_sum, parts_of, to_table
from tofe_edge.converters.probes import build_probes, count_programs
from tofe_edge.errors import require
from tofe_edge.io.files import check_place, staging_dir, write_bytes
from tofe_edge.io.progress import covering_bar, progress_bar
from tofe_edge.model.checkpoint import Checkpoint, load_model
from tofe_edge.model.tofe import ToFe
from tofe_edge.model.zoo import shipped_checkpoints
from tofe_edge.profiles import (
    DeviceProfile,
    LatencyTable,
    ProfileError,
    check_layout,
    is_path,
    load_profile,
    read_profile,
    with_tables,
)
from tofe_edge.runtimes.bench import Bench, HostBench
from tofe_edge.runtimes.calibration import Calibrated, Plan, time_parts, turns
from tofe_edge.runtimes.devices.opening import open_bench
from tofe_edge.runtimes.latency import UNDISTURBED_PERCENT
from tofe_edge.workflows.sources import StrPath, open_checkpoint

_ROUNDS, _QUICK_ROUNDS, _RUNS = 20, 8, 5


@dataclass(frozen=True)
class CalibrationReport:
    """The latency tables of a device.

    Attributes:
        profile: its name.
        out: the profile file with the tables.
        where: the bench that they were measured on.
        tables: each with what it was made of.
    """

    profile: str
    out: Path
    where: str
    tables: tuple[tuple[LatencyTable, Calibrated], ...]


def calibrate(
    profile: str,
    *,
    on: str = "host",
    runner: Path | None = None,
    checkpoint: StrPath | None = None,
    backbone: str | None = None,
    precisions: Sequence[str] = ("int8", "fp32"),
    threads: int | None = None,
    cpus: str = "",
    quick: bool = False,
    out: Path | None = None,
    force: bool = False,
) -> CalibrationReport:
    """Measure the parts of a net, or of each shipped one, and write the profile when all is measured.

    Args:
        profile: a shipped profile or a file.
        precisions: one table for each.
        threads: the profile's if not given.
        quick: fewer points, and no search for steps.
        out: the profile's own file if not given, ``./NAME.yaml`` for a shipped one.
        force: overwrite a file that holds something else.

    Raises:
        InputError: the options do not go together, or ``out`` holds something else.
        DeviceError: the device fails; nothing is written.
    """
    # 1. What to measure, and where it goes: known before minutes are spent.
    device = load_profile(profile)
    out = out or (Path(profile) if is_path(profile) else Path(f"{device.name}.yaml"))
    _check_machine(device, platform.machine() if on == HostBench.name else None)
    content, name = _base(profile, device, out, force)
    check_layout(content, name)
    models = [(one, load_model(one)) for one in _checkpoints(checkpoint, backbone)]
    for opened, model in models:
        require(
            not model.backbone.spec.merges,
            f"{opened.name}: merges tokens, and a latency table is of nets that do not; calibrate with its dense weights",
        )
    rounds = _QUICK_ROUNDS if quick else _ROUNDS
    plan = Plan(rounds=rounds, runs=_RUNS, threads=threads or device.defaults.threads, cpus=cpus)
    # 2. Lower and measure; 3. write.
    tables: list[tuple[LatencyTable, Calibrated]] = []
    with staging_dir(out.parent) as folder, open_bench(on, runner) as bench:
        for opened, model in models:
            for precision in dict.fromkeys(precisions):
                programs = _programs(folder, opened, model, precision, quick)
                table, measured = _measure(bench, programs, plan, model, precision)
                _check_machine(device, measured.machine.arch if measured.machine else None)
                check_sum(table, model.backbone.spec)
                tables.append((table, measured))
        write_bytes(out, with_tables(content, [table for table, _ in tables], name))
        return CalibrationReport(device.name, out, bench.name, tuple(tables))


def _check_machine(device: DeviceProfile, machine: str | None) -> None:
    """Refuse to write the times of one kind of processor into the profile of another."""
    require(
        machine is None or device.is_of(machine),
        f"profile {device.name} is of a device with {', '.join(device.cpu.isa)}, and what would be measured is {machine}; "
        "say where the device is with --on ssh://USER@HOST or adb, or give this machine's own profile",
    )


def _base(profile: str, device: DeviceProfile, out: Path, force: bool) -> tuple[bytes, str]:
    """The text that the table goes into, and its name; earlier tables of a calibrated copy are kept.

    Raises:
        InputError: what is in the way of ``out`` is not a copy of the profile.
    """
    check_place(out, False)
    original = read_profile(profile)
    if not out.exists() or (is_path(profile) and out.samefile(profile)) or force:
        return original
    # With a folder in front it is a path for certain, whatever its suffix.
    own = str(out.absolute())
    try:
        is_copy = replace(load_profile(own), latency=()) == replace(device, latency=())
    except ProfileError:
        is_copy = False
    require(
        is_copy,
        f"{out}: holds something other than profile {device.name}; name another file with --out, or overwrite it with --force",
    )
    return read_profile(own)


def _checkpoints(checkpoint: StrPath | None, backbone: str | None) -> list[Checkpoint]:
    """The one that is named, or a shipped one of each net."""
    if checkpoint is not None:
        return [open_checkpoint(checkpoint, backbone)]
    require(backbone is None, "--backbone names the net of plain dense weights; give their file with --checkpoint")
    nets = {(one.backbone_name, tuple(sorted(one.overrides.items()))): one for one in shipped_checkpoints()}
    return list(nets.values())


def _programs(folder: Path, checkpoint: Checkpoint, model: ToFe, precision: str, quick: bool) -> dict[Part, Path]:
    """Every part's program, lowered into files."""
    parts = parts_of(model.backbone.spec, checkpoint.token_counts, quick)
    paths: dict[Part, Path] = {}
    what = f"lowering {len(parts)} parts, {precision} (a minute or two)"
    with progress_bar(what, total=count_programs(parts), unit="program") as bar:
        for program in build_probes(model, parts, precision):
            path = folder / f"{checkpoint.name}-{precision}-{program.parts[0].method}.pte"
            write_bytes(path, program.content)
            paths |= dict.fromkeys(program.parts, path)
            bar.update(1)
    return {part: paths[part] for part in parts}


def _measure(
    bench: Bench, programs: Mapping[Part, Path], plan: Plan, model: ToFe, precision: str
) -> tuple[LatencyTable, Calibrated]:
    total = plan.rounds * len(turns(programs))
    with covering_bar(f"measuring on {bench.name}, {precision}", total=total, unit="part") as bar:
        measured = time_parts(bench, programs, plan, bar)
    source, spec = _source(bench.name, measured, plan), model.backbone.spec
    return to_table(measured.ms, spec, precision=precision, threads=plan.threads, source=source), measured


def _source(where: str, measured: Calibrated, plan: Plan) -> str:
    """The table's provenance: device, date, versions and how widely the times spread."""
    machine = measured.machine
    device = [where, *((machine.cpu_model, machine.arch) if machine else ())]
    text = (
        f"{', '.join(filter(None, device))}; {datetime.date.today().isoformat()}; "
        f"{plan.threads} thread{'s' if plan.threads > 1 else ''}{f' on cores {plan.cpus}' if plan.cpus else ''}; "
        f"ExecuTorch {metadata.version('executorch')}, tofe-edge {__version__}; "
        f"{measured.runs} runs per part: p{UNDISTURBED_PERCENT:g}, the median is {measured.disturbed - 1:.0%} higher"
    )
    return "".join(character if character.isprintable() else " " for character in text)

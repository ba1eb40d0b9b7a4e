"""``tofe-edge calibrate``: measure the parts of a net on a device, and write the table into its profile."""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tofe_edge.cli.calibrated import describe, to_json
from tofe_edge.cli.options import add_checkpoint, add_runner, open_checkpoint, positive_int, require
from tofe_edge.io.files import check_place, staging_dir, write_bytes
from tofe_edge.io.progress import covering_bar, progress_bar

if TYPE_CHECKING:
    from tofe_edge.budget.latency_parts import Part
    from tofe_edge.model.checkpoint import Checkpoint
    from tofe_edge.model.tofe import ToFe
    from tofe_edge.profiles import DeviceProfile, LatencyTable
    from tofe_edge.runtimes.bench import Bench
    from tofe_edge.runtimes.calibration import Calibrated, Plan

_ROUNDS, _QUICK_ROUNDS, _RUNS = 20, 8, 5


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Declare the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "calibrate", help="measure a net's parts on a device, so that latencies can be predicted and held"
    )
    parser.add_argument("--profile", required=True, metavar="P", help="the device's profile: a shipped one, or a file")
    parser.add_argument(
        "--on",
        default="host",
        metavar="WHERE",
        help="host, ssh://[USER@]HOST[:PORT], adb or adb://SERIAL (default: host)",
    )
    add_runner(parser)
    add_checkpoint(parser)
    parser.add_argument(
        "--precision",
        nargs="+",
        choices=("fp32", "int8"),
        default=["int8", "fp32"],
        help="a table each (default: both; int8 is dynamic)",
    )
    parser.add_argument("--threads", type=positive_int, metavar="N", help="threads (default: the profile's)")
    parser.add_argument("--cpus", default="", metavar="LIST", help="cores to run on, as 0,2-3 (default: any)")
    parser.add_argument("--quick", action="store_true", help="fewer points, and no search for steps: half the time")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="where the profile with the table goes (default: the profile's own file, ./NAME.yaml for a shipped one)",
    )
    parser.add_argument("--force", action="store_true", help="overwrite a file that holds something else")
    return parser


def run(args: argparse.Namespace) -> int:
    """Measure; the profile is written when all is measured."""
    from tofe_edge.model.checkpoint import load_model
    from tofe_edge.profiles import check_layout, load_profile, with_tables
    from tofe_edge.runtimes.calibration import Plan
    from tofe_edge.runtimes.devices.opening import open_bench

    profile = load_profile(args.profile)
    out: Path = args.out or (Path(args.profile) if _is_path(args.profile) else Path(f"{profile.name}.yaml"))
    content, name = _base(args, profile, out)
    check_layout(content, name)
    models = [(checkpoint, load_model(checkpoint)) for checkpoint in _checkpoints(args)]
    plan = Plan(
        rounds=_QUICK_ROUNDS if args.quick else _ROUNDS,
        runs=_RUNS,
        threads=args.threads or profile.defaults.threads,
        cpus=args.cpus,
    )
    found: list[tuple[LatencyTable, Calibrated]] = []
    with staging_dir(out.parent) as folder, open_bench(args.on, args.runner) as bench:
        for checkpoint, model in models:
            for precision in dict.fromkeys(args.precision):
                programs = _programs(folder, checkpoint, model, precision, args.quick)
                found.append(_measure(bench, programs, plan, model, precision))
        written = with_tables(content, [table for table, _ in found], name)
        write_bytes(out, written)
        where = bench.name
    from tofe_edge.cli.output import emit

    emit(args.json, to_json(profile.name, out, where, found), describe(profile.name, out, where, found))
    return 0


def _is_path(name: str) -> bool:
    from tofe_edge.profiles import is_path

    return is_path(name)


def _base(args: argparse.Namespace, profile: DeviceProfile, out: Path) -> tuple[bytes, str]:
    """The text that the table goes into, and its name; earlier tables of a calibrated copy are kept.

    Raises:
        InputError: what is in the way of ``out`` is no copy of the profile.
    """
    from tofe_edge.profiles import ProfileError, load_profile, read_profile

    check_place(out, False)
    given = read_profile(args.profile)
    if not out.exists() or (_is_path(args.profile) and out.samefile(args.profile)) or args.force:
        return given
    # With a folder in front it is a path for certain, whatever its suffix.
    own = str(out.absolute())
    try:
        there = replace(load_profile(own), latency=()) == replace(profile, latency=())
    except ProfileError:
        there = False
    require(
        there,
        f"{out}: holds something other than profile {profile.name}; name another file with --out, or overwrite it with --force",
    )
    return read_profile(own)


def _checkpoints(args: argparse.Namespace) -> list[Checkpoint]:
    """The one that is named, or a shipped one of each net."""
    if args.checkpoint:
        return [open_checkpoint(args.checkpoint, args.backbone)]
    from tofe_edge.model.zoo import shipped_checkpoints

    require(args.backbone is None, "--backbone names the net of plain dense weights; give their file with --checkpoint")
    nets = {(one.backbone_name, tuple(sorted(one.overrides.items()))): one for one in shipped_checkpoints()}
    return list(nets.values())


def _programs(folder: Path, checkpoint: Checkpoint, model: ToFe, precision: str, quick: bool) -> Mapping[Part, Path]:
    """Every part's program, lowered into files."""
    from tofe_edge.budget.latency_parts import parts_of
    from tofe_edge.converters.probes import build_probes, count_programs

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
    from tofe_edge.budget.latency_parts import to_table
    from tofe_edge.runtimes.calibration import calibrate, turns

    with covering_bar(
        f"measuring on {bench.name}, {precision}", total=plan.rounds * len(turns(programs)), unit="part"
    ) as bar:
        measured = calibrate(bench, programs, plan, bar)
    source = _source(bench.name, measured, plan)
    spec = model.backbone.spec
    return to_table(measured.ms, spec, precision=precision, threads=plan.threads, source=source), measured


def _source(where: str, measured: Calibrated, plan: Plan) -> str:
    """Who says so: device, date, versions and how widely the times spread."""
    from importlib import metadata

    from tofe_edge import __version__
    from tofe_edge.runtimes.calibration import UNDISTURBED_PERCENT

    machine = measured.machine
    device: Sequence[str] = [where, *((machine.cpu_model, machine.arch) if machine else ())]
    text = (
        f"{', '.join(filter(None, device))}; {datetime.date.today().isoformat()}; "
        f"{plan.threads} thread{'s' if plan.threads > 1 else ''}{f' on cores {plan.cpus}' if plan.cpus else ''}; "
        f"ExecuTorch {metadata.version('executorch')}, tofe-edge {__version__}; "
        f"{measured.runs} runs a part: the {UNDISTURBED_PERCENT:g}nd percentile, the median is {measured.disturbed - 1:.0%} higher"
    )
    return "".join(character if character.isprintable() else " " for character in text)

"""Corrupts every kind of input and reads it: ``make fuzz``, or with other seeds as the Makefile calls it.

Each reader runs in a process of its own that is started anew when an input ends it; a watchdog ends what takes too long.
The same seed gives the same inputs. The table says how many of them were refused in one line, read as before or read as
something else, and what must not happen: other exceptions, ends by a signal, more than 60 s of CPU time or 2 GB, and silent
wrong results, where a digest should have told. The exit code is 1 if anything of that did happen; its inputs are kept.
"""

import argparse
import json
import os
import random
import resource
import select
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import surfaces as module
from surfaces import Surface, surfaces
from tabulate import tabulate

from tofe_edge.cli.failures import failure_of
from tofe_edge.io.quiet import quiet

LONGEST_S = 60
MOST_BYTES = 2 << 30
BAD = ("fault", "crash", "slow", "big", "silent")
_COLUMNS = {
    "refused": "refused",
    "same": "read as before",
    "other": "read as other",
    "fault": "other exceptions",
    "crash": "signals",
    "slow": f"> {LONGEST_S} s",
    "big": f"> {MOST_BYTES >> 30} GB",
    "silent": "silent wrong",
}


@dataclass
class Tally:
    """What became of the inputs of a surface."""

    outcomes: Counter[str] = field(default_factory=Counter)
    ended_in_trial: int = 0
    longest_s: float = 0.0
    bad: list[str] = field(default_factory=list)


def main() -> int:
    """Fuzz, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", default="", help="surfaces with one of these words in their name, with commas between"
    )
    parser.add_argument("--case", type=int, help="one input alone, with its traceback")
    parser.add_argument(
        "--keep", type=Path, default=Path("out/fuzz"), help="folder for inputs that must not do what they did"
    )
    parser.add_argument("--cache", type=Path, help="folder of good inputs, to use them again")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tofe-edge-fuzz-") as scratch:
        os.environ["XDG_STATE_HOME"] = scratch
        place = args.cache or Path(scratch) / "good"
        place.mkdir(parents=True, exist_ok=True)
        with surfaces(place) as every:
            chosen = [one for one in every if any(word in one.name for word in args.only.split(","))]
            if args.case is not None:
                print(
                    _one(
                        chosen[0], args.seed, args.case, Path(scratch), _expected(chosen[0], Path(scratch)), debug=True
                    )
                )
                return 0
            tallies = {}
            whole = sum(one.share for one in chosen)
            for one in chosen:
                tallies[one.name] = _fuzz(one, args.seed, args.seconds * one.share / whole, Path(scratch), args.keep)
                print(f"{one.name}: {dict(tallies[one.name].outcomes)}", file=sys.stderr, flush=True)
    print(_table(tallies))
    bad = [line for tally in tallies.values() for line in tally.bad]
    print("\n".join(bad[:40]))
    return 1 if bad else 0


def _table(tallies: dict[str, Tally]) -> str:
    whole = Tally(
        sum((tally.outcomes for tally in tallies.values()), Counter[str]()),
        sum(tally.ended_in_trial for tally in tallies.values()),
        max((tally.longest_s for tally in tallies.values()), default=0.0),
    )
    rows = [
        [
            name,
            one.outcomes.total(),
            *(one.outcomes[key] for key in _COLUMNS),
            one.ended_in_trial,
            f"{one.longest_s:.1f}",
        ]
        for name, one in {**tallies, "all": whole}.items()
    ]
    return tabulate(
        rows, ["surface", "inputs", *_COLUMNS.values(), "ended in the trial", "longest, s of CPU"], tablefmt="github"
    )


def _fuzz(surface: Surface, seed: int, seconds: float, scratch: Path, keep: Path) -> Tally:
    """Inputs of one surface until the time is over."""
    tally, number, expected = Tally(), 0, _expected(surface, scratch)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        number = _worker(surface, seed, number, end, scratch, expected, tally)
    for line in tally.bad:
        case = int(line.split("case ")[1].split(":")[0])
        folder = keep / f"{''.join(one if one.isalnum() else '_' for one in surface.name)}-{seed}-{case}"
        shutil.rmtree(folder, ignore_errors=True)
        try:
            _write(surface, seed, case, folder)
        except Exception as error:
            print(f"{folder}: {error!r}", file=sys.stderr)
    return tally


def _expected(surface: Surface, scratch: Path) -> list[object]:
    """What the good inputs read as."""
    found = []
    for files in surface.inputs:
        folder = scratch / "good-input"
        _fill(folder, files)
        module.HERE[:] = [folder]
        found.append(surface.read(folder / next(iter(files))))
    return found


def _fill(folder: Path, files: module.Files) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def _write(surface: Surface, seed: int, number: int, folder: Path) -> tuple[Path, int]:
    """The input of this number, and which good one it was."""
    dice = random.Random(f"{seed} {surface.name} {number}")
    which = dice.randrange(len(surface.inputs))
    files = dict(surface.inputs[which])
    name = dice.choice(surface.changed or tuple(files))
    files[name] = surface.change(name, files[name], dice)
    _fill(folder, files)
    path = folder / next(iter(files))
    surface.amend(path)
    return path, which


def _worker(
    surface: Surface, seed: int, number: int, end: float, scratch: Path, expected: list[object], tally: Tally
) -> int:
    """Read inputs in a new process until it or the time ends; returns the number of the next input."""
    receive, send = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(receive)
        _work(surface, seed, number, end, scratch, expected, send)
    os.close(send)
    pending, begun = b"", 0.0
    current: int | None = None
    while True:
        # Of the processor: other programs may have it, too.
        while not (ready := select.select([receive], [], [], 1.0)[0]) and _cpu_s(pid) - begun < LONGEST_S:
            pass
        piece = os.read(receive, 1 << 16) if ready else b""
        if not piece:
            break
        *lines, pending = (pending + piece).split(b"\n")
        for line in lines:
            found = json.loads(line)
            if "begin" in found:
                current, begun = found["begin"], _cpu_s(pid)
                continue
            _count(surface, tally, number, found["outcome"], found["said"], found["seconds"])
            number, current = number + 1, None
    os.close(receive)
    if not ready:
        os.kill(pid, 9)
    _, status = os.waitpid(pid, 0)
    if current is not None:
        ended = os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status)
        if not ready:
            _count(surface, tally, current, "slow", "", float(LONGEST_S))
        elif surface.in_trial:
            tally.ended_in_trial += 1
            _count(surface, tally, current, "refused", f"signal {ended}", 0.0)
        else:
            _count(surface, tally, current, "crash", f"signal {ended}", 0.0)
        number = current + 1
    return number


def _cpu_s(pid: int) -> float:
    """What a child has had of the processor."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def _count(surface: Surface, tally: Tally, case: int, outcome: str, said: str, seconds: float) -> None:
    tally.outcomes[outcome] += 1
    tally.longest_s = max(tally.longest_s, seconds)
    if outcome in BAD:
        tally.bad.append(f"{outcome}: {surface.name}, case {case}: {said}")


def _work(
    surface: Surface, seed: int, number: int, end: float, scratch: Path, expected: list[object], send: int
) -> None:
    """The process itself: never returns."""
    sink = os.open(os.devnull, os.O_RDWR)
    for stream in (1, 2):
        os.dup2(sink, stream)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    if "native" not in surface.name:  # what sanitizers reserve is more than there is
        resource.setrlimit(resource.RLIMIT_AS, (held + 2 * MOST_BYTES,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    folder = scratch / f"worker-{os.getpid()}"
    try:
        while time.monotonic() < end:
            os.write(send, json.dumps({"begin": number}).encode() + b"\n")
            begun = time.process_time()
            outcome, said = _one(surface, seed, number, folder, expected)
            found = {"outcome": outcome, "said": said[:300], "seconds": time.process_time() - begun}
            os.write(send, json.dumps(found).encode() + b"\n")
            number += 1
            if outcome == "big":
                break  # the peak of a process never falls
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os._exit(0)


def _one(
    surface: Surface, seed: int, number: int, folder: Path, expected: list[object], debug: bool = False
) -> tuple[str, str]:
    """What becomes of one input: one of the columns, and a word on it."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        path, which = _write(surface, seed, number, folder)
    except Exception as error:  # a document that cannot be amended is no document
        return "refused", f"nothing to read: {error!r}"
    module.HERE[:] = [folder]
    try:
        with quiet():
            found = surface.read(path)
    except Exception as error:
        if debug:
            traceback.print_exc()
        code, line = failure_of(error)
        if "internal error" in line or "\n" in line:
            return "fault", line
        return _size(before) or ("refused", f"{code} {line}")
    if found == expected[which]:
        return _size(before) or ("same", "")
    return ("silent", "") if surface.has_digest else _size(before) or ("other", "")


def _size(before: int) -> tuple[str, str] | None:
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    return ("big", f"{grown >> 20} MB") if grown > MOST_BYTES else None


if __name__ == "__main__":
    sys.exit(main())

"""Kills convert, package, reduce and train at random moments, 25 times each: ``make kills``.

After each kill the old result or the new one is there and whole, and whoever reads it takes it. After the last one a run that
is let be leaves nothing of the killed ones; training then gives the bytes of a run that was never killed.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from conftest import TINY_COUNTS, tiny_tofe
from tabulate import tabulate
from tiny_run import make_request, to_reduce

import tofe_edge as te
from tofe_edge.cli import main as command
from tofe_edge.evaluation.golden import golden_path_of, read_golden
from tofe_edge.io.artifact import open_artifact
from tofe_edge.io.files import sha256_of
from tofe_edge.io.labels import default_classes
from tofe_edge.model.checkpoint import describe, load_model, read_header, save
from tofe_edge.packaging import check
from tofe_edge.training.run import train_checkpoint

_LATE_S = 0.05
"""Half of the kills come at most so long after a sign that results are about to be put in place."""


@dataclass(frozen=True)
class Subject:
    """A command: what it writes differs from ``work(0)`` to ``work(1)``; ``look`` reads it, and raises if it is not whole."""

    name: str
    folder: Path
    work: Callable[[int], object]
    look: Callable[[], object]
    sign: str
    """A pattern of names in the folder: what appears at the end."""


def main() -> int:
    """Kill, look, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=25, help="of each command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="commands with this in their name")
    args = parser.parse_args()
    rows, wrong = [], []
    with tempfile.TemporaryDirectory(prefix="tofe-edge-kills-") as place:
        os.environ["XDG_STATE_HOME"] = place
        for subject in _subjects(Path(place)):
            if args.only not in subject.name:
                continue
            outcomes, faults = _kill(subject, args.kills, random.Random(f"{args.seed} {subject.name}"))
            rows.append(
                [subject.name, args.kills, outcomes["old"], outcomes["new"], outcomes["ended before"], len(faults)]
            )
            print(rows[-1], file=sys.stderr, flush=True)
            wrong += faults
    print(
        tabulate(
            rows, ["command", "kills", "old result there", "new one there", "ended before", "faults"], tablefmt="github"
        )
    )
    print("\n".join(wrong))
    return 1 if wrong else 0


def _kill(subject: Subject, kills: int, dice: random.Random) -> tuple[Counter[str], list[str]]:
    outcomes: Counter[str] = Counter()
    faults = []
    begun = time.monotonic()
    _ended(_started(subject.work, 0))
    duration = time.monotonic() - begun
    last = subject.look()
    for number in range(kills):
        pid = _started(subject.work, (number + 1) % 2)
        if number % 2:
            _wait_for(subject, pid)
            moment = dice.uniform(0, _LATE_S)
        else:
            moment = dice.uniform(0, duration)
        if _ended(pid, moment):
            outcomes["ended before"] += 1
        try:
            found = subject.look()
        except Exception as error:
            faults.append(f"{subject.name}, kill {number} after {moment:.2f} s: {error!r}")
            _ended(_started(subject.work, 0))
            found = subject.look()
        else:
            outcomes["old" if found == last else "new"] += 1
        last = found
        print(subject.name, number + 1, dict(outcomes), faults[-1:], file=sys.stderr, flush=True)
    time.sleep(6)  # what is younger may be in use
    _ended(_started(subject.work, 0))
    subject.look()
    faults += [f"{subject.name}: {path.name} is left" for path in subject.folder.rglob(".*") if path.name != ".lock"]
    return outcomes, faults


def _started(work: Callable[[int], object], number: int) -> int:
    pid = os.fork()
    if pid == 0:
        sink = os.open(os.devnull, os.O_RDWR)
        for stream in (1, 2):
            os.dup2(sink, stream)
        code = 1
        try:
            work(number)
            code = 0
        finally:
            os._exit(code)
    return pid


def _wait_for(subject: Subject, pid: int) -> None:
    """Wait for the sign, or for the end."""
    while not any(subject.folder.glob(subject.sign)):
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        time.sleep(0.001)


def _ended(pid: int, moment: float | None = None) -> bool:
    """Wait for the end; or kill at this moment, in seconds: whether it had ended before."""
    end = time.monotonic() + (moment if moment is not None else 600)
    while time.monotonic() < end:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return True
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert moment is not None, "it does not end"
    return False


def _subjects(place: Path) -> Iterator[Subject]:
    checkpoints = [_checkpoint(place / str(seed) / "tiny.safetensors", seed) for seed in (0, 1)]
    out = place / "models"

    def convert(number: int, folder: Path = out) -> None:
        words = ["--checkpoint", str(checkpoints[number]), "--precision", "fp32", "--out", str(folder)]
        assert command(["convert", *words]) == 0

    def model() -> object:
        artifact = open_artifact(out / "tiny-fp32.pte")
        read_golden(golden_path_of(artifact.path), artifact)
        return artifact.manifest.sha256

    yield Subject("convert", out, convert, model, ".tofe-edge-*/*.golden")

    models = []
    for number in (0, 1):
        folder = place / "to package" / str(number)
        _ended(_started(partial(convert, folder=folder), number))
        models.append(open_artifact(folder / "tiny-fp32.pte"))

    def package(number: int) -> None:
        te.package(models[number], "android", place / "bundles", source=True, weights_licence="MIT", force=True)

    def bundle() -> object:
        (path,) = [one for one in (place / "bundles").iterdir() if not one.name.startswith(".")]
        result = check.check_bundle(path, lambda *_: {})
        assert result.passed, result.failures
        return sorted(sha256_of(one) for one in path.rglob("*.pte"))

    yield Subject("package --force", place / "bundles", package, bundle, ".tofe-edge-*")

    with to_reduce(place) as folder:
        reduced = place / "reduced" / "small.safetensors"

        def reduce(number: int) -> None:
            words = {
                "weights": folder / "dense.safetensors",
                "images": folder / "images",
                "out": reduced,
                "share": ("0.8", "0.9")[number],
            }
            assert not command(["reduce", *(str(word) for key, value in words.items() for word in (f"--{key}", value))])

        def small() -> object:
            load_model(read_header(reduced))
            return sha256_of(reduced)

        yield Subject("reduce", reduced.parent, reduce, small, ".small.safetensors.*")

        request = make_request(place / "training")
        unkilled = replace(request, out=place / "unkilled" / "tiny.safetensors")
        _ended(_started(lambda _: train_checkpoint(unkilled), 0))

        def train(_: int) -> None:
            if request.out.exists():
                shutil.rmtree(request.out.parent)
            train_checkpoint(request)

        def trained() -> object:
            if request.out.exists():
                # Before its accuracy is known, the net is there without it: of the file, the weights are compared.
                weights, expected = (load_model(read_header(path)).state_dict() for path in (request.out, unkilled.out))
                assert all(torch.equal(value, expected[key]) for key, value in weights.items()), "another net"
            return request.out.exists()

        yield Subject("train", request.out.parent, train, trained, ".tiny.safetensors.*")


def _checkpoint(path: Path, seed: int) -> Path:
    model = tiny_tofe(seed=seed)
    spec = model.backbone.spec
    header = describe("tiny", spec, model.backbone.preprocessing, default_classes(spec.classes), TINY_COUNTS)
    path.parent.mkdir(parents=True)
    save(path, model, header)
    return path


if __name__ == "__main__":
    sys.exit(main())

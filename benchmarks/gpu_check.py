"""A GPU checked and measured in minutes: equal to the CPU in every forward, images per second, and a training run.

    make gpu-check GPU="--weights deit_tiny.safetensors --start reduced.safetensors --data photographs.tar"

The result file is written after every part, so that what was measured stays if the time is over: ``OUT/gpu.yaml``. With ``--start`` and
``--data`` the rest of the minutes is a training run of as many epochs as fit, after which ``OUT/trained.safetensors`` is there; a run
that takes longer leaves its state, and the same command of ``tofe-edge train`` goes on from it anywhere.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import host
from tofe_edge.budget.cost import GmacsCost
from tofe_edge.errors import GateError, InputError
from tofe_edge.evaluation.reference import forbid_tf32, gpu_failures, pick_device
from tofe_edge.model.backbones import Reduction, TokenCounts, create_backbone
from tofe_edge.model.macs import dense_macs, gmacs
from tofe_edge.model.tofe import ToFe
from tofe_edge.training.batches import Source, TrainingSet
from tofe_edge.training.losses import approximation_loss, budget_loss, distillation_loss
from tofe_edge.training.schedule import gumbel_sampler
from tofe_edge.training.teacher import teacher_targets

NETS = ("deit_tiny_patch16_224", "deit_small_patch16_224", "deit_base_patch16_224")
KEPT = (0.75, 0.43, 0.2)
"""Shares of the patch tokens in three stages: half of a dense DeiT-Tiny's multiply-accumulates."""

_CLOSE = 1e-3
"""Largest difference from the CPU as a share of the largest number, in fp32 without TF32."""

_SECONDS = 0.5
_WARM_UP = 3
_START_SECONDS = 60.0
"""What a training run takes before its first step, and at its end."""


def counts_of(net: ToFe) -> TokenCounts:
    """Token counts by :data:`KEPT`."""
    tokens = net.backbone.spec.patch_tokens
    return TokenCounts(tuple(max(1, round(share * tokens)) for share in KEPT)).check(net.backbone.spec)


def make_net(name: str, overrides: dict[str, int], reduction: Reduction = "merging") -> ToFe:
    """A net of random weights: speed and rounding do not depend on them."""
    torch.manual_seed(0)
    return ToFe(create_backbone(name, overrides, stages=None, reduction=reduction)).eval()


def outputs(net: ToFe, images: Tensor) -> dict[str, Tensor]:
    """Every forward of a net and the gradients of the losses, by name."""
    counts, cost = counts_of(net), GmacsCost(net.backbone.spec, 0.5 * gmacs(dense_macs(net.backbone.spec)))
    with torch.no_grad():
        found = {
            "dense": net.forward_dense(images),
            "batch": net.forward_batch(images, counts).logits,
            "instance": net.forward_instance(images[:1]).logits,
        }
    view = teacher_targets(net, images)
    for name, output in {
        "masked": net.masked_from(net.stem(images), gumbel_sampler(0, 0)),
        "gathered": net.gathered_from(net.stem(images), counts),
    }.items():
        loss = distillation_loss(output.logits, view.logits) + budget_loss(output.masks, cost)
        loss = loss + approximation_loss(output.rearranged, view.stages, output.masks)
        net.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = [one.grad.flatten() for one in net.parameters() if one.grad is not None]
        found |= {name: output.logits.detach(), f"{name}, gradients": torch.cat(gradients)}
    return {name: value.float().cpu() for name, value in found.items()}


def parity(names: Sequence[str], overrides: dict[str, int], device: torch.device) -> dict[str, dict[str, float]]:
    """Largest differences from the CPU, as shares of the largest number."""
    rows = {}
    for name in names:
        for reduction in ("paper", "merging"):
            net = make_net(name, overrides, reduction)  # type: ignore[arg-type]
            size = net.backbone.spec.image_size
            images = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(0))
            here, there = outputs(net, images), outputs(net.to(device), images.to(device))
            rows[f"{name}, {reduction}"] = {
                key: float((here[key] - there[key]).abs().max() / here[key].abs().max()) for key in here
            }
    return rows


def throughput(
    names: Sequence[str], overrides: dict[str, int], sizes: Sequence[int], device: torch.device, seconds: float
) -> list[dict[str, Any]]:
    """Images per second of inference and of a training step, dense and reduced, in fp32 (TF32 off) and bf16."""
    rows = []
    for name in names:
        net = make_net(name, overrides).to(device)
        side = net.backbone.spec.image_size
        for size in sizes:
            images = torch.randn(size, 3, side, side, device=device)
            for bf16 in (False, True):
                row: dict[str, Any] = {"net": name, "batch": size, "precision": "bf16" if bf16 else "fp32"}
                for key, work in _WORKS.items():
                    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
                        rate = _rate(partial(work, net, images), size, device, seconds)
                    row[f"{key}_images_per_second"] = round(rate, 1)
                rows.append(row)
    return rows


def _step(net: ToFe, images: Tensor) -> None:
    net.zero_grad(set_to_none=True)
    logits = net.gathered_from(net.stem(images), counts_of(net)).logits
    distillation_loss(logits, torch.zeros_like(logits)).backward()  # type: ignore[no-untyped-call]


_WORKS: dict[str, Callable[[ToFe, Tensor], Any]] = {
    "dense": torch.no_grad()(lambda net, images: net.forward_dense(images)),
    "reduced": torch.no_grad()(lambda net, images: net.forward_batch(images, counts_of(net))),
    "step": _step,
}


def _rate(work: Callable[[], Any], images: int, device: torch.device, seconds: float) -> float:
    for _ in range(_WARM_UP):
        work()
    _wait(device)
    done, begun = 0, time.monotonic()
    while time.monotonic() - begun < seconds:
        work()
        _wait(device)
        done += 1
    return done * images / (time.monotonic() - begun)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


@dataclass(frozen=True)
class Trained:
    """What became of the training run."""

    epochs: float
    seconds: float
    finished: bool
    log: str

    def to_json(self) -> dict[str, Any]:
        """For the result file."""
        return vars(self)


def train(arguments: argparse.Namespace, rate: float, device: torch.device, seconds: float) -> Trained:
    """Train for as many epochs as fit, or until the time is over.

    Args:
        rate: images per second that a step is known to take.
    """
    data = TrainingSet.find([Source.parse(source) for source in arguments.data], None, 0, 0)
    epochs = max(0.01, round(0.7 * rate * max(1.0, seconds - _START_SECONDS) / len(data.train), 2))
    out = arguments.out / "trained.safetensors"
    command = [sys.executable, "-m", "tofe_edge", "train", "--out", str(out)]
    command += ["--start", str(arguments.start), "--weights", str(arguments.weights)]
    for source in arguments.data:
        command += ["--data", source]
    for setting in (f"epochs={min(epochs, arguments.most_epochs)}", f"device={device.type}", *arguments.settings):
        command += ["--set", setting]
    begun = time.monotonic()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        _, errors = process.communicate(timeout=max(1.0, seconds))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate()
    log = (errors.strip().splitlines() or [""])[-1]
    return Trained(epochs, round(time.monotonic() - begun, 1), process.returncode == 0, log)


def run(arguments: argparse.Namespace, command: str) -> Path:
    """All parts. Returns the path of the result file.

    Raises:
        InputError: arguments do not fit each other, or there is no such device.
        GateError: the device differs from the CPU.
        DeviceError: it fails.
    """
    end, device = time.monotonic() + 60 * arguments.minutes, pick_device(arguments.device)
    given = [arguments.weights, arguments.start, arguments.data]
    if any(given) and not all(given):
        raise InputError("--weights, --start and --data: give all of them for the training run, or none")
    forbid_tf32()
    names, overrides = arguments.nets.split(","), dict(arguments.overrides)
    kind = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    document = {**host.conditions(command, ("torch", "timm"), torch.get_num_threads()), "device": kind}
    arguments.out.mkdir(parents=True, exist_ok=True)
    path: Path = arguments.out / "gpu.yaml"

    def parts() -> Iterator[tuple[str, Any]]:
        yield "parity", parity(names[:1], overrides, device)
        sizes = host.numbers("--batches", arguments.batches, "1,16,256")
        yield "throughput", throughput(names, overrides, sizes, device, arguments.seconds)
        if arguments.data:
            rate = max(row["step_images_per_second"] for row in document["throughput"] if row["net"] == names[0])
            yield "training", train(arguments, rate, device, end - time.monotonic()).to_json()

    with gpu_failures(device, "in this check"):
        for name, found in parts():
            document[name] = found
            host.write(path, document)
    for net, row in document["parity"].items():
        for name, gap in row.items():
            if not gap < _CLOSE:
                raise GateError(f"{net}: {name} differs from the CPU by {gap:.1e} of its largest number; see {path}")
    return path


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = made.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="for the result file and the trained net")
    add("--device", default="auto", choices=("auto", "cuda", "cpu"), help="(%(default)s)")
    add("--minutes", type=float, default=7.5, metavar="M", help="all in all (%(default)s)")
    add("--nets", default=",".join(NETS), metavar="A,B", help="(%(default)s)")
    add("--batches", default="1,8,64,256", metavar="N,N", help="(%(default)s)")
    add("--seconds", type=float, default=_SECONDS, metavar="S", help="per figure (%(default)s)")
    add("--weights", type=Path, metavar="FILE", help="the dense net's, for the training run")
    add("--start", type=Path, metavar="CKPT", help="what `tofe-edge reduce` made of it")
    add("--data", action="append", default=[], metavar="DATA", help="pictures, as of `tofe-edge train`")
    add("--set", action="append", dest="settings", default=[], metavar="KEY=VALUE", help="of its recipe")
    add("--most-epochs", type=float, default=100.0, metavar="E", help="(%(default)s)")
    made.set_defaults(overrides={})
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the check; returns the exit code."""
    return host.run_benchmark("benchmarks.gpu_check", parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())

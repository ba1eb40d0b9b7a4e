"""How a run is carried out, and by which processes: one, or those that ``torchrun`` has started, each with a share of every batch.

Gradients are averaged in one message per step. Parameters that learn change with the phases of a run, of which
DistributedDataParallel would each need a wrapper of its own; nets here have 6 to 90 million parameters, so that nothing is
won by sending them layer by layer.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from tofe_edge.errors import DeviceError, first_line, require
from tofe_edge.model.tofe import ToFe
from tofe_edge.training.batches import Share
from tofe_edge.training.recipe import Recipe

_MOST_WORKERS = 8
_PATIENCE = timedelta(hours=1)
"""The first process measures token counts while others wait. One that is killed is noticed at once: its connections close."""


@dataclass(frozen=True)
class Processes:
    """A run's processes, as one of them sees them."""

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this one writes files."""
        return self.rank == 0

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one type by their means over all processes.

        Raises:
            DeviceError: another process has ended.
        """
        if self.count == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors]) / self.count
        with _losses():
            dist.all_reduce(flat)
        for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors])):
            tensor.copy_(mean.view_as(tensor))

    def agreed(self, numbers: Sequence[int], device: torch.device) -> tuple[int, ...]:
        """The numbers of the first process, as many as here. Raises :class:`DeviceError` as :meth:`average`."""
        if self.count == 1:
            return tuple(numbers)
        sent = torch.tensor(numbers, device=device)
        with _losses():
            dist.broadcast(sent, 0)
        return tuple(sent.tolist())


ALONE = Processes()


@contextmanager
def _losses() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise DeviceError(
            f"training: another process of this run has ended ({first_line(error)}); start it again to go on from its state"
        ) from error


@contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """The processes of ``torchrun``, joined as long as the block runs, each on a GPU of its own; else :data:`ALONE`.

    Raises:
        DeviceError: the others cannot be reached.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    with _losses():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield Processes(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


@dataclass(frozen=True)
class Running:
    """How a run is carried out. What it computes changes by rounding alone."""

    device: torch.device
    workers: int = 0
    """Processes that decode images beside this one."""
    parts: int = 1
    """Parts of a step's batch that this process takes, one after another."""
    bf16: bool = False
    compiles: bool = False
    logits: Path | None = None
    """Folder of the logits of crops that come again."""
    processes: Processes = ALONE

    @classmethod
    def of(cls, recipe: Recipe, net: ToFe, device: torch.device, out: Path, processes: Processes = ALONE) -> Running:
        """What a recipe says, or what suits this machine and net.

        A net that merges tokens computes in fp32 unless told otherwise: in bf16 it was 0.023 nats from itself (DeiT-Tiny at 0.63 GMACs;
        the dense net 0.0002), since near the cut other tokens are kept.
        """
        workers = recipe.workers
        if workers is None:
            beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
            workers = min(_MOST_WORKERS, max(1, (os.cpu_count() or 1) // beside - 1))
        bf16 = recipe.autocast == "bf16" or (
            recipe.autocast == "auto" and device.type == "cuda" and not net.backbone.spec.merges
        )
        logits = (recipe.logits_dir or out.with_suffix(".logits")) if recipe.crops else None
        return cls(device, workers, recipe.parts, bf16, recipe.compile == "blocks", logits, processes)

    def share(self, batch_size: int) -> Share:
        """The share of this process in each batch. Raises :class:`InputError` if a batch cannot be cut so."""
        parts = self.processes.count * self.parts
        require(
            batch_size % parts == 0,
            f"training: batch_size {batch_size} cannot be cut into {parts} equal parts, {self.parts} for each process; "
            "choose a multiple of it",
        )
        return Share(parts, range(self.processes.rank * self.parts, (self.processes.rank + 1) * self.parts))

    @contextmanager
    def compiled(self, *nets: ToFe) -> Iterator[None]:
        """Nets whose blocks are compiled as long as this lasts, if the run asks for it."""
        for net in nets if self.compiles else ():
            net.run_blocks = torch.compile(net.run_blocks, dynamic=True)  # type: ignore[method-assign]
        try:
            yield
        finally:
            for net in nets if self.compiles else ():
                del net.run_blocks

    def autocast(self, enabled: bool = True) -> torch.autocast:
        """Products in half precision, if the run has them."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16 and enabled)

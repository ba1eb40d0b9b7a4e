"""Equal seeds give equal runs: whatever ran before in the process, and however busy the machine is."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY
from tiny_run import make_request, stand_in, trained

from tofe_edge.budget.cost import GmacsCost, fit_to_budget
from tofe_edge.model.backbones import create_backbone
from tofe_edge.training.counts import MeasuredCounts, fit_measured

BUSY = "while True: sum(range(10000))"


@contextmanager
def busy_machine(processes: int) -> Iterator[None]:
    """Keep as many other processes computing."""
    started = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_equal_seeds_give_equal_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch)
    request = make_request(tmp_path)
    longer: dict[str, Any] = {"epochs": 4.0, "gathered_epochs": 1.0, "guidance_weight": 1.0}
    quiet = trained(request, **longer)
    torch.rand(7)  # whatever else draws from the process's generator
    with busy_machine(3):
        busy = trained(request, out=tmp_path / "again" / "tiny.safetensors", **longer)
    assert busy.path.read_bytes() == quiet.path.read_bytes()


def test_means_that_no_factor_takes_to_the_target_give_way_to_those_with_noise() -> None:
    cost = GmacsCost(create_backbone("deit_tiny_patch16_224", TINY).spec, 0.0018)
    sampled = (5.75, 8.5, 6.625)
    undecided, with_noise = fit_measured(MeasuredCounts((0.0, 0.375, 0.0), sampled, 8), cost)
    assert with_noise and undecided == fit_to_budget(sampled, cost)
    assert cost.of_counts(undecided.counts.kept) == pytest.approx(cost.target, rel=0.05)
    decided = (9.0, 5.0, 3.0)
    assert fit_measured(MeasuredCounts(decided, sampled, 8), cost) == (fit_to_budget(decided, cost), False)

"""Several processes train as one does: the same losses, the same weights, and a state that any number of them goes on from."""

import multiprocessing
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_tofe
from tiny_run import records, striped_images

from tofe_edge.budget.cost import GmacsCost
from tofe_edge.errors import DeviceError, InputError
from tofe_edge.training.batches import Source, TrainingSet
from tofe_edge.training.recipe import TrainingConfig
from tofe_edge.training.running import ALONE, Processes, Running, joined
from tofe_edge.training.trainer import train

CPU = torch.device("cpu")
IDS = [str(number) for number in range(10)]
# Masked steps with the backbone fixed and free, gathered ones at two budgets, and a running mean of the weights.
CONFIG = TrainingConfig(
    target_gmacs=0.0017, epochs=3, fixed_epochs=0.5, gathered_epochs=1, token_counts="9,5,3;7,4,2", batch_size=8,
    budget_weight=3e6, distillation_weight=1.0, ema=0.5, held_out=0,
)  # fmt: skip
STEPS = 9


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TrainingSet:
    return TrainingSet.find([Source(striped_images(tmp_path_factory.mktemp("images"), 12))], IDS, 0, 0)


Weights = dict[str, torch.Tensor]


def run(data: TrainingSet, out: Path, processes: Processes = ALONE, **changes: Any) -> Weights:
    """The weights of a run; every step is in its log."""
    model = tiny_tofe()
    running = replace(Running(CPU, processes=processes), **changes)
    train(model, data, CONFIG, GmacsCost(model.backbone.spec, 0.0017), out, running)
    return model.state_dict()


def together(work: Callable[[Processes], None], count: int = 2) -> list[int | None]:
    """Let processes do it, and return their exit codes."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = found.getsockname()[1]

    def begin(rank: int) -> None:
        torch.set_num_threads(1)
        os.environ |= {
            "RANK": str(rank),
            "WORLD_SIZE": str(count),
            "MASTER_ADDR": "localhost",
            "MASTER_PORT": str(port),
        }
        with joined(CPU) as processes:
            work(processes)

    # Forked: they have what this process has imported.
    started = [multiprocessing.get_context("fork").Process(target=begin, args=(rank,)) for rank in range(count)]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
    return [process.exitcode for process in started]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, data: TrainingSet) -> tuple[Weights, list[dict[str, Any]]]:
    """Weights and log of one process."""
    out = tmp_path_factory.mktemp("alone") / "net.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tofe_edge.training.trainer._LOG_EVERY_STEPS", 1)
        return run(data, out), records(out)


@pytest.fixture(autouse=True)
def _every_step_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tofe_edge.training.trainer._LOG_EVERY_STEPS", 1)


def assert_close(out: Path, weights: Weights, alone: tuple[Weights, list[dict[str, Any]]]) -> None:
    log = records(out)
    assert [record["step"] for record in log] == list(range(1, STEPS + 1))
    for mine, its in zip(log, alone[1], strict=True):
        for key in its.keys() - {"images_per_second", "step"}:
            assert mine[key] == pytest.approx(its[key], rel=1e-3, abs=1e-3), (mine["step"], key)
    for name, value in alone[0].items():
        torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=1e-5, msg=name)


def test_two_processes_give_the_loss_curve_of_one_with_the_whole_batch(
    tmp_path: Path, data: TrainingSet, alone: tuple[Weights, list[dict[str, Any]]]
) -> None:
    out = tmp_path / "net.safetensors"

    def work(processes: Processes) -> None:
        weights = run(data, out, processes, parts=2)
        torch.save(weights, tmp_path / f"{processes.rank}.pt")

    assert together(work) == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert_close(out, first, alone)


def test_a_process_that_is_killed_ends_the_run_in_one_line_and_one_goes_on_where_two_were(
    tmp_path: Path, data: TrainingSet, alone: tuple[Weights, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, update, updates = tmp_path / "net.safetensors", torch.optim.AdamW.step, [0]

    def work(processes: Processes) -> None:
        def counted(self: torch.optim.AdamW, closure: None = None) -> Any:
            updates[0] += 1
            if updates[0] == 6 and not processes.is_first:
                os.kill(os.getpid(), signal.SIGKILL)
            return update(self, closure)

        monkeypatch.setattr(torch.optim.AdamW, "step", counted)
        try:
            run(data, out, processes)
        except DeviceError as error:
            (tmp_path / "error").write_text(str(error))
            os._exit(error.exit_code)

    assert together(work) == [3, -signal.SIGKILL]
    message = (tmp_path / "error").read_text()
    assert message.startswith("training: another process of this run has ended (") and "\n" not in message
    assert torch.load(out.with_suffix(".state"), weights_only=True)["step"] == 6
    assert_close(out, run(data, out), alone)


def test_a_state_that_not_all_processes_see_is_refused(tmp_path: Path, data: TrainingSet) -> None:
    run(data, tmp_path / "0.safetensors")

    def work(processes: Processes) -> None:
        try:
            run(data, tmp_path / f"{processes.rank}.safetensors", processes)
        except InputError as error:
            (tmp_path / "error").write_text(str(error))
            os._exit(error.exit_code)

    assert together(work) == [0, 2]
    assert "1.state: is not there for all processes; give an --out on a disk" in (tmp_path / "error").read_text()


def test_a_batch_that_cannot_be_shared_is_refused(data: TrainingSet, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="batch_size 8 cannot be cut into 3 equal parts, 3 for each process"):
        run(data, tmp_path / "net.safetensors", parts=3)

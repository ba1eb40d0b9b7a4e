"""The throughput benchmark end to end on a tiny net, its clock, and batches that do not fit."""

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from benchmarks import throughput
from benchmarks.throughput import MIN_ROUNDS, Plan, Turns, row_of, take_turns
from tofe_edge.model.tofe import ToFe

Measure = Callable[..., tuple[dict[str, Any], str]]
CPU = torch.device("cpu")


@pytest.fixture
def measure(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Measure:
    """The program with the tiny checkpoint: the result file, and what is printed."""

    def run(*arguments: str) -> tuple[dict[str, Any], str]:
        words = ["--nets", str(weights), "--out", str(tmp_path), "--seconds", "0.001", *arguments]
        assert throughput.main(words) == 0
        (path,) = tmp_path.glob("throughput-*.yaml")
        text = path.read_text()
        assert str(tmp_path) not in text and str(weights.parent) not in text
        return {"file": path.name, **yaml.safe_load(text)}, capsys.readouterr().out

    return run


@pytest.fixture(autouse=True)
def _no_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "Plan", lambda **given: Plan(**given, turn_s=1e-6, warm_up_s=0.0))


def test_every_batch_size_gives_a_row(measure: Measure) -> None:
    document, out = measure("--batches", "3,1", "--device", "cpu")
    assert [(row["net"], row["batch"], row["rounds"]) for row in document["results"]] == [
        ("tiny", 1, 6),
        ("tiny", 3, 6),
    ]
    for row in document["results"]:
        low, high = row["ratio_interval"]
        assert low <= row["ratio"] <= high
        assert low <= row["ratio_quartiles"][0] <= row["ratio_quartiles"][1] <= high
        assert row["dense_images_per_s"] > 0 and row["tofe_images_per_s"] > 0 and "note" not in row
    assert document["nets"]["tiny"]["tokens"] == "9,5,3"
    assert document["device"]["kind"] == "cpu" and document["device"]["why"] == "as asked"
    assert (document["precision"], document["threads"]) == ("fp32", 1)
    table = [line for line in out.splitlines() if line.startswith("| tiny | ")]
    assert [line.split(" | ")[2] for line in table] == ["1", "3"]


def test_the_cpu_is_used_if_there_is_no_gpu(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    document, out = measure("--batches", "1")
    assert document["file"].startswith("throughput-cpu-20")
    assert document["device"]["why"].startswith("as there is no GPU: PyTorch ")
    assert out.startswith("On the CPU, as there is no GPU: PyTorch ")


def test_autocast_reaches_both_nets(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()

    def noting(name: str, own: Callable[..., Any]) -> Callable[..., Any]:
        def forward(self: ToFe, *arguments: Any) -> Any:
            seen.add((name, self.score(0, torch.zeros(1, 1, self.backbone.spec.dim)).dtype))
            return own(self, *arguments)

        return forward

    for name in ("forward_dense", "forward_batch"):
        monkeypatch.setattr(ToFe, name, noting(name, getattr(ToFe, name)))
    document, _ = measure("--batches", "2", "--device", "cpu", "--precision", "bf16")
    assert seen == {("forward_dense", torch.bfloat16), ("forward_batch", torch.bfloat16)}
    assert document["precision"] == "bf16" and document["file"].startswith("throughput-cpu-bf16-20")


def test_the_clock_that_is_asked_for_times_the_nets(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    # A second passes from one look at the clock to the next, and only there.
    monkeypatch.setitem(throughput.CLOCKS, "cpu", count(1.0).__next__)
    document, out = measure("--batches", "3", "--device", "cpu", "--clock", "cpu")
    (row,) = document["results"]
    assert (row["dense_images_per_s"], row["tofe_images_per_s"], row["ratio"]) == (3.0, 3.0, 1.0)
    assert document["clock"] == "cpu" and "by the process's CPU time" in out


def test_results_of_another_call_are_not_overwritten(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--nets", str(weights), "--out", str(tmp_path), "--seconds", "0.001", "--device", "cpu"]
    assert throughput.main([*words, "--batches", "1"]) == 0
    (path,) = tmp_path.iterdir()
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(throughput, "measure_all", lambda *arguments: pytest.fail("measured"))
        for written in (before, b"[]", b"\xff"):
            path.write_bytes(written)
            capsys.readouterr()
            assert throughput.main([*words, "--batches", "2"]) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert "is there already, and not of this call; move it away" in line
            assert path.read_bytes() == written
    path.write_bytes(before)
    assert throughput.main([*words, "--batches", "1"]) == 0
    assert path.read_bytes() != before
    assert throughput.main([*words, "--batches", "2", "--precision", "bf16"]) == 0  # a file of its own


def _no_room_on_the_cpu() -> None:
    torch.empty(1 << 60)


def _no_room_on_the_gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize("failure", [_no_room_on_the_cpu, _no_room_on_the_gpu])
def test_a_batch_that_does_not_fit_is_noted_and_larger_ones_are_not_tried(
    measure: Measure, monkeypatch: pytest.MonkeyPatch, failure: Callable[[], None]
) -> None:
    own = ToFe.forward_batch
    sizes: list[int] = []

    def limited(self: ToFe, images: torch.Tensor, counts: Any) -> Any:
        sizes.append(len(images))
        if len(images) > 2:
            failure()
        return own(self, images, counts)

    monkeypatch.setattr(ToFe, "forward_batch", limited)
    document, out = measure("--batches", "1,2,3,4", "--device", "cpu")
    one, two, three, four = document["results"]
    assert "ratio" in one and "ratio" in two and max(sizes) == 3
    assert three == {"net": "tiny", "batch": 3, "rounds": 0, "note": "out of memory"}
    assert four == {"net": "tiny", "batch": 4, "rounds": 0, "note": "not tried, as 3 images do not fit"}
    assert "| 3 | – | – | – | out of memory |" in out


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--batches", "1,0"], "--batches 1,0: expected different positive whole numbers"),
        (["--rounds", "5"], "rounds (5) must be at least 6"),
        (["--seconds", "nan"], "seconds (nan)"),
        (["--threads", "0"], "--threads 0"),
        (["--nets", "no_such_net"], "no_such_net"),
        (["--nets", "deit_small:9,5"], "has 3 stages, not 2"),
        (["--device", "cuda"], "device cuda: PyTorch "),
        (["--clock", "cpu", "--threads", "2"], "--clock cpu is for one thread"),
    ],
)
def test_wrong_arguments_are_one_line_before_anything_is_measured(
    arguments: list[str], reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(throughput, "measure_all", lambda *arguments: pytest.fail("measured"))
    assert throughput.main(["--seconds", "1", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and reason in line


class Machine:
    """Two rivals that take 3 and 1 seconds, on a clock that each call slows down further."""

    def __init__(self, drift: float) -> None:
        self.now, self.drift, self.calls = 0.0, drift, ""

    def clock(self) -> float:
        return self.now

    def call(self, name: str, seconds: float) -> None:
        self.now += seconds * (1 + self.drift * self.now)
        self.calls += name

    def turns(self, plan: Plan) -> Turns:
        return take_turns(lambda: self.call("A", 3.0), lambda: self.call("B", 1.0), plan, clock=self.clock)


def test_turns_go_a_b_b_a_after_a_warm_up() -> None:
    machine = Machine(drift=0.0)
    turns = machine.turns(Plan(rounds=7, turn_s=2.0, warm_up_s=4.0))
    # B is called twice a turn, for it takes half of one.
    assert machine.calls == "AAA" + "BBBBB" + "ABBBBA" * 7
    assert turns == Turns((3.0,) * 7, (1.0,) * 7)
    assert (turns.medians_s, turns.speedup.value, turns.quartiles) == ((3.0, 1.0), 3.0, (3.0, 3.0))


def test_a_machine_that_slows_down_does_not_move_the_ratio() -> None:
    turns = Machine(drift=1e-4).turns(Plan(rounds=10, turn_s=1.0, warm_up_s=0.0))
    assert turns.a_s[-1] > 1.003 * turns.a_s[0]
    assert turns.speedup.value == pytest.approx(3.0, rel=1e-4)


def test_no_round_begins_after_the_seconds_but_an_interval_there_is() -> None:
    assert len(Machine(0.0).turns(Plan(rounds=50, seconds=100.0, turn_s=1.0, warm_up_s=0.0)).a_s) == 13
    turns = Machine(0.0).turns(Plan(rounds=50, seconds=1.0, turn_s=1.0, warm_up_s=0.0))
    assert len(turns.a_s) == MIN_ROUNDS
    assert row_of("net", 1, turns).ratio_interval == (3.0, 3.0)

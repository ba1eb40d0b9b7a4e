"""``tofe-edge train --target-ms``: a tiny net trained to a made-up latency table, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, Program, flat, refusal
from latency_tables import NET, table_for
from tiny_run import stand_in, striped_images, write_dense

from tofe_edge.budget.cost import LatencyCost, fit_to_budget
from tofe_edge.budget.latency_model import predict_ms
from tofe_edge.model.backbones import TokenCounts, create_backbone
from tofe_edge.model.checkpoint import read_header
from tofe_edge.profiles import LatencyTable, Step, with_tables

BOARD = (Path(__file__).parents[1] / "profiles" / "my_board.yaml").read_bytes()
TINY_NET = create_backbone("deit_tiny_patch16_224", TINY).spec


def settings(epochs: float, fixed_epochs: float) -> tuple[str, ...]:
    """Options of a run of 4 steps per epoch."""
    recipe = {
        "epochs": epochs, "fixed_epochs": fixed_epochs, "batch_size": 8, "held_out": 8, "learning_rate": 2e-3,
        "backbone_learning_rate": 2e-3, "budget_weight": 1e7,
    }  # fmt: skip
    return "--set", "device=cpu", *(word for key, value in recipe.items() for word in ("--set", f"{key}={value}"))


SETTINGS, BRIEF = settings(20, 2), settings(0.25, 0.1)


def tiny_table(precision: str = "int8", block_us: float = 50.0) -> LatencyTable:
    """A block takes 50 us a token, in steps of 4 tokens that are half as high as their tokens are dear."""
    return table_for(TINY_NET, precision, kept=(9, 5, 3), block_us=block_us, step=Step(4, block_us * 4 / 2e3))


def board(folder: Path, *tables: LatencyTable) -> Path:
    path = folder / "board.yaml"
    path.write_bytes(with_tables(BOARD, tables, path.name) if tables else BOARD)
    return path


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """The options for 40 images of two classes and a tiny net's dense weights, under the name of the published net."""

    stand_in(monkeypatch)
    return "--weights", str(write_dense(tmp_path)), "--data", str(striped_images(tmp_path / "data", 20))


def test_a_run_meets_a_target_in_milliseconds(tmp_path: Path, data: tuple[str, ...], program: Program) -> None:
    table, out = tiny_table(), tmp_path / "net.safetensors"
    cost = LatencyCost(TINY_NET, 2.7, table, "my_board")
    code, stdout, _ = program(
        "train",
        *data,
        "--target-ms",
        2.7,
        "--set",
        f"profile={board(tmp_path, table)}",
        *SETTINGS,
        "--out",
        out,
        "--json",
    )
    assert code == 0
    header = read_header(out)
    assert header.training is not None and header.token_counts is not None
    log = [json.loads(line) for line in out.with_suffix(".log.jsonl").read_text().splitlines()]
    trained = predict_means(cost, np.mean([line["kept"] for line in log[-2:]], axis=0).tolist())
    assert abs(predict_means(cost, [16.0] * 3) / 2.7 - 1) > 0.2, "the target must not be met from the start"
    assert trained == pytest.approx(2.7, rel=0.03), "the loss alone brings the net there"
    predicted = predict_ms(table, TINY_NET, header.token_counts)
    assert predicted == pytest.approx(2.7, rel=0.05)

    assert header.training["budget"] == cost.to_json(header.token_counts.kept)
    parameters = header.training["hyper_parameters"]
    assert parameters["target_ms"] == 2.7 and "target_gmacs" not in parameters
    assert parameters["latency_table"] == cost.fingerprint
    assert json.loads(stdout)["training"] == header.training


def predict_means(cost: LatencyCost, kept: list[float]) -> float:
    """What mean counts cost: between those of whole counts on both sides."""
    import torch

    return float(cost.of([torch.tensor([count]) for count in kept]))


def test_the_precision_chooses_the_table(tmp_path: Path, data: tuple[str, ...], program: Program) -> None:
    profile = board(tmp_path, tiny_table("int8"), tiny_table("fp32", 100.0))
    code, stdout, _ = program(
        "train", *data, "--target-ms", 4.6, "--set", f"profile={profile}", "--set", "precision=fp32", *BRIEF,
        "--out", tmp_path / "net.safetensors", "--json",
    )  # fmt: skip
    assert code == 0
    document = json.loads(stdout)
    kept = TokenCounts(tuple(document["token_counts"]))
    assert document["training"]["budget"]["precision"] == "fp32"
    assert document["training"]["budget"]["predicted"] == round(
        predict_ms(tiny_table("fp32", 100.0), TINY_NET, kept), 3
    )


def test_a_run_does_not_go_on_with_another_table(tmp_path: Path, data: tuple[str, ...], program: Program) -> None:
    out = tmp_path / "net.safetensors"
    brief = (*BRIEF, "--out", out)
    assert (
        program("train", *data, "--target-ms", 2.7, "--set", f"profile={board(tmp_path, tiny_table())}", *brief)[0] == 0
    )
    again = board(tmp_path, tiny_table(block_us=51.0))
    _, _, err = program("train", *data, "--target-ms", 2.7, "--set", f"profile={again}", *brief)
    assert "net.state: belongs to a run with another latency_table;" in err
    _, _, err = program("train", *data, "--target-gmacs", 0.002, *brief)
    assert "net.state: belongs to a run with another latency_table, target_gmacs, target_ms;" in err


def test_people_read_what_is_predicted_and_where(tmp_path: Path, data: tuple[str, ...], program: Program) -> None:
    code, stdout, _ = program(
        "train", *data, "--target-ms", 2.7, "--set", f"profile={board(tmp_path, tiny_table())}",
        *BRIEF, "--out", tmp_path / "net.safetensors",
    )  # fmt: skip
    assert code == 0
    assert " ms predicted on my_board in int8 with 1 thread; the target was 2.7 " in flat(stdout)


def test_fitted_counts_meet_a_target_in_milliseconds() -> None:
    table = table_for(step=Step(7, 0.02))
    for target in (4.4, 5.0, 7.0):
        cost = LatencyCost(NET, target, table, "a_board")
        kept = fit_to_budget((120.0, 80.0, 35.0), cost).counts
        assert predict_ms(table, NET, kept) == pytest.approx(target, rel=0.02)
        assert cost.raised(kept.kept) == kept.kept


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--target-ms", 2.7], "--target-ms is held by a device's latency table; say which with --set profile="),
        (["--target-gmacs", 0.002, "--set", "profile=jetson_orin"], "profile says where --target-ms is held"),
        (["--target-gmacs", 0.002, "--set", "precision=int8"], "precision is that of the latency table of --target-ms"),
        (["--target-gmacs", 0.002, "--set", "start_share=0.5"], "start_share is a share of the way to --start; say"),
        (["--target-gmacs", 9], "--target-gmacs 9: deit_tiny_patch16_224 takes 0.00"),
        (["--target-gmacs", 0.0001], "--target-gmacs 0.0001: deit_tiny_patch16_224 takes 0.00"),
    ],
)
def test_wrong_targets_are_refused(
    tmp_path: Path, data: tuple[str, ...], program: Program, options: list[str], said: str
) -> None:
    out = tmp_path / "out" / "net.safetensors"
    assert said in refusal(program, "train", *data, *options, *SETTINGS, "--out", out)
    assert not out.parent.exists()


@pytest.mark.parametrize(
    ("tables", "target", "said"),
    [
        ([], 2.7, "my_board has no latency table of deit_tiny_patch16_224 in int8 or fp32 (it has: none at all)"),
        ([table_for(NET)], 2.7, "(it has: a_net in int8); run `tofe-edge calibrate --profile my_board`"),
        ([tiny_table()], 0.2, "--target-ms 0.2: deit_tiny_patch16_224 takes "),
        ([tiny_table()], 90.0, " ms (dense) on my_board in int8; choose a target between them"),
        ([tiny_table("fp32")], 0.2, " ms (dense) on my_board in fp32; choose a target between them"),
        ([replace(tiny_table(), backbone="deit_tiny")], 2.7, "(it has: deit_tiny in int8)"),
    ],
    ids=["no table", "of another net", "too little", "more than dense", "the precision there is", "by another name"],
)
def test_a_target_that_no_table_can_hold_is_refused(
    tmp_path: Path, data: tuple[str, ...], program: Program, tables: list[LatencyTable], target: float, said: str
) -> None:
    out = tmp_path / "out" / "net.safetensors"
    options = ("--target-ms", target, "--set", f"profile={board(tmp_path, *tables)}", *SETTINGS, "--out", out)
    assert said in refusal(program, "train", *data, *options)
    assert not out.parent.exists()


def test_a_run_has_one_target(
    tmp_path: Path, data: tuple[str, ...], program: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    from tofe_edge.cli import main

    out = tmp_path / "net.safetensors"
    assert "train needs a budget" in refusal(program, "train", *data, "--out", out)
    with pytest.raises(SystemExit) as caught:
        main(["train", *data, "--target-ms", "1", "--target-gmacs", "1", "--out", str(out)])
    assert caught.value.code == 2
    assert "--target-gmacs" in capsys.readouterr().err

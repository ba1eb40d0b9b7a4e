"""A whole run: dense weights and images in, a checkpoint with counts, accuracy and its record out."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY
from tiny_run import RECIPE, STILL, TARGET_GMACS, make_request, stand_in, trained, write_dense

from tofe_edge.budget.cost import GmacsCost, fit_to_budget
from tofe_edge.errors import InputError
from tofe_edge.evaluation.reference import Mode
from tofe_edge.io.tensors import read_tensors
from tofe_edge.model.backbones import TokenCounts, create_backbone
from tofe_edge.model.checkpoint import Checkpoint, load_model, read_header
from tofe_edge.model.macs import gmacs, tofe_macs
from tofe_edge.model.tofe import ToFe
from tofe_edge.training import run
from tofe_edge.training.accuracy import Examined, Validation
from tofe_edge.training.counts import MeasuredCounts, fit_measured
from tofe_edge.training.recipe import TrainingConfig
from tofe_edge.training.run import TrainingRequest


@pytest.fixture
def request_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainingRequest:
    stand_in(monkeypatch)
    return make_request(tmp_path)


@pytest.fixture
def deeper(request_: TrainingRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainingRequest:
    """A net with one block more than its stages need."""
    monkeypatch.setitem(TINY, "depth", 5)
    write_dense(tmp_path)
    return request_


def record_of(header: Checkpoint) -> dict[str, Any]:
    assert header.training is not None
    return header.training


def kept_by(header: Checkpoint) -> tuple[int, ...]:
    assert header.token_counts is not None
    return header.token_counts.kept


def interrupt_after_the_dense_model(examine: Callable[..., Examined]) -> Callable[..., Examined]:
    """Ctrl-C while the trained net is validated."""

    def examined(self: Validation, model: ToFe, counts: TokenCounts | None, mode: Mode) -> Examined:
        if mode != "dense":
            raise KeyboardInterrupt
        return examine(self, model, counts, mode)

    return examined


def test_a_run_writes_a_checkpoint_that_explains_itself(request_: TrainingRequest) -> None:
    for number in range(13):
        (Path(request_.data[0]) / "0" / f"{number}.png").write_bytes(b"no image")
    written = trained(request_)
    header = read_header(request_.out)
    rounded = {
        "gmacs": pytest.approx(written.gmacs, abs=1e-6),
        "dense_gmacs": pytest.approx(written.dense_gmacs, abs=1e-6),
    }
    assert vars(header) == {**vars(written), **rounded, "sources": {}}
    assert header.name == "tiny" and header.backbone_name == "deit_tiny_patch16_224"
    assert len(kept_by(header)) == 3 and all(1 <= count <= 16 for count in kept_by(header))
    spec = load_model(header).backbone.spec
    assert header.gmacs == pytest.approx(gmacs(tofe_macs(spec, kept_by(header))), abs=1e-6)

    record = record_of(header)
    config = TrainingConfig(**RECIPE.hyper_parameters(), target_gmacs=TARGET_GMACS)
    assert record["hyper_parameters"] == config.to_json()
    assert record["budget"] == {"unit": "GMACs", "target": 0.002, "reached": round(header.gmacs, 6)}
    assert (record["start"], record["data"]) == ("dense.safetensors", ["train x1"])
    assert (record["steps"], record["images_per_epoch"]) == (2, 20)
    assert len(record["mean_kept"]) == len(record["mean_kept_sampled"]) == 3
    (unreadable,) = [warning for warning in record["warnings"] if "could not be read" in warning]
    assert 1 <= int(unreadable.split()[0]) <= 13

    accuracy = header.accuracy
    assert accuracy is not None
    assert (accuracy["images"], accuracy["dataset"], accuracy["mode"]) == (6, "val", "batch")
    assert {"top1", "top1_interval", "top5", "dense_top1", "dense_top5"} <= accuracy.keys()
    for mode in (accuracy, accuracy["instance"]):
        assert mode["drop_points"]["estimate"] == pytest.approx(accuracy["dense_top1"] - mode["top1"], abs=0.01)
        assert mode["drop_points"]["low"] <= mode["drop_points"]["estimate"] <= mode["drop_points"]["high"]
        assert 0 < mode["p_value"] <= 1
    assert str(request_.out.parent) not in str(record) + str(accuracy), "no paths of this machine in a header"


def test_counts_are_the_means_of_held_out_images_scaled_to_the_target(request_: TrainingRequest) -> None:
    header = trained(request_, validation=None)
    assert header.accuracy is None
    assert record_of(header)["held_out_images"] == 6
    scaled = [record_of(header)["counts_scaled_by"] * mean for mean in record_of(header)["mean_kept"]]
    for count, mean in zip(kept_by(header), scaled, strict=True):
        assert abs(count - min(16.0, max(1.0, mean))) < 0.52
    assert header.gmacs == pytest.approx(TARGET_GMACS, rel=0.03)


def test_instance_mode_keeps_the_counts_it_is_centred_on(request_: TrainingRequest, tmp_path: Path) -> None:
    (tmp_path / "kitchen.v2" / "monday").mkdir(parents=True)
    for number, path in enumerate(sorted((tmp_path / "val").rglob("*.png"))):
        folder = tmp_path / "kitchen.v2" / ("monday" if number % 2 else "")
        (folder / f"{number}.png").write_bytes(path.read_bytes())
    plain = trained(request_)
    centred = trained(request_, center_on=request_.validation)  # goes on from the finished state
    unlabelled = trained(request_, center_on=tmp_path / "kitchen.v2")
    assert [record_of(header)["centred_on"] for header in (plain, centred, unlabelled)] == [
        "held-out images", "val, 6 images", "kitchen.v2, 6 images",
    ]  # fmt: skip
    assert plain.accuracy is not None and centred.accuracy is not None
    # The file has half precision; a token of one of the six images may change sides.
    assert centred.accuracy["instance"]["mean_kept"] == pytest.approx(kept_by(centred), abs=0.34)
    assert plain.accuracy["instance"]["mean_kept"] != centred.accuracy["instance"]["mean_kept"]
    assert plain.accuracy["top1"] == centred.accuracy["top1"], "the order of the scores stays"
    assert record_of(unlabelled)["mean_kept_centred"] == record_of(centred)["mean_kept_centred"]
    assert unlabelled.accuracy == centred.accuracy, "no label is looked at"


def test_a_finished_checkpoint_stays_until_replaced(request_: TrainingRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(**changes: Any) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Validation, "examine", interrupt_after_the_dense_model(Validation.examine))
            with pytest.raises(KeyboardInterrupt):
                trained(request_, **changes)

    interrupted()
    assert read_header(request_.out).accuracy is None, "better than nothing"
    assert trained(request_).accuracy is not None
    before = request_.out.read_bytes()
    interrupted(center_on=request_.validation)
    assert request_.out.read_bytes() == before
    trained(request_, center_on=request_.validation)
    assert request_.out.read_bytes() != before and read_header(request_.out).accuracy is not None
    assert not list(request_.out.parent.glob(".*"))


def test_a_checkpoint_without_room_is_written_later(request_: TrainingRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, *content: object) -> Checkpoint:
        raise InputError(f"{path}: cannot be written (No space left on device)")

    with monkeypatch.context() as patch:
        patch.setattr(run, "save", full)
        with pytest.raises(InputError, match="No space left"):
            trained(request_)
    log = request_.out.with_suffix(".log.jsonl").read_text()
    assert not request_.out.exists() and log
    assert record_of(trained(request_))["steps"] == 2
    assert request_.out.with_suffix(".log.jsonl").read_text() == log
    first = request_.out.read_bytes()
    for path in request_.out.parent.iterdir():
        path.unlink()
    trained(request_)
    assert request_.out.read_bytes() == first


def test_gathered_epochs_train_with_the_counts_that_are_shipped_and_both_modes_keep(request_: TrainingRequest) -> None:
    header = trained(request_, epochs=4.0, gathered_epochs=2.0)
    assert header.gmacs == pytest.approx(TARGET_GMACS, rel=0.03)
    assert record_of(header)["mean_kept_centred"] == pytest.approx(kept_by(header), abs=0.2)
    last = json.loads(request_.out.with_suffix(".log.jsonl").read_text().splitlines()[-1])
    assert last["kept"] == list(kept_by(header)) and "budget" not in last


def test_a_run_goes_on_from_the_next_larger_budget(request_: TrainingRequest, tmp_path: Path) -> None:
    larger = trained(request_, target_gmacs=0.0023)
    header = trained(request_, start=larger, out=tmp_path / "out/smaller.safetensors")
    record = record_of(header)
    assert (record["start"], record["teacher"]) == ("tiny", "dense.safetensors")
    assert record["start_record"] == larger.training
    assert header.gmacs < larger.gmacs
    gathered = trained(request_, start=larger, out=tmp_path / "out/gathered.safetensors", gathered_epochs=1.0)
    assert gathered.gmacs == pytest.approx(TARGET_GMACS, rel=0.03), "counts may be those of the start's selectors"


def test_a_run_selects_as_asked_or_as_its_start_does(deeper: TrainingRequest, tmp_path: Path) -> None:
    common: dict[str, Any] = {"target_gmacs": 0.0023}
    early = trained(deeper, select_before="1,3,4", **common)
    following = replace(deeper, start=early, out=tmp_path / "out/next.safetensors")
    assert early.stages == (1, 3, 4)
    assert trained(following, **common).stages == (1, 3, 4)


def test_a_start_that_selects_elsewhere_lends_its_weights(deeper: TrainingRequest, tmp_path: Path) -> None:
    late = trained(deeper, target_gmacs=0.0025)
    moved = replace(deeper, start=late, target_gmacs=0.0025, out=tmp_path / "out/moved.safetensors")
    header = trained(moved, select_before="1,3,4", **STILL)
    assert (late.stages, header.stages) == ((1, 2, 3), (1, 3, 4))
    before, after = load_model(late).state_dict(), load_model(header).state_dict()
    thresholds = {f"selectors.{stage}.fc3.bias" for stage in range(3)}  # set again, on the held-out images
    assert thresholds < set(before)
    for name in set(before) - thresholds:
        assert torch.equal(before[name], after[name]), name
    with pytest.raises(InputError, match="tiny: selects 3 times; select_before asks for 2"):
        trained(moved, select_before="1,3", **STILL)


def test_a_backbone_may_begin_between_the_dense_one_and_the_start(request_: TrainingRequest, tmp_path: Path) -> None:
    far = trained(request_, fixed_epochs=0.0, backbone_learning_rate=0.05)
    between = replace(request_, start=far, out=tmp_path / "out/between.safetensors")
    header = trained(between, start_share=0.25, fixed_epochs=0.0, **STILL)
    assert record_of(header)["start_share"] == 0.25
    dense, end, middle = read_tensors(tmp_path / "dense.safetensors"), load_model(far), load_model(header)
    selector = "selectors.0.fc1.weight"
    assert torch.equal(middle.get_parameter(selector), end.get_parameter(selector))
    for name, weight in middle.backbone.named_parameters():
        start, moved = dense[name.removeprefix("vit.")], end.backbone.get_parameter(name)
        assert torch.allclose(weight, start + 0.25 * (moved - start), atol=2e-3), name
    name = "vit.blocks.3.mlp.fc1.weight"
    assert (end.backbone.get_parameter(name) - dense[name.removeprefix("vit.")]).abs().max() > 0.05


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "deit_tiny_distilled_patch16_224"}, "weights do not fit deit_tiny_distilled_patch16_224: .* missing"),
        ({"weights": None}, "--weights FILE, or --pretrained"),
        ({"out": Path("net.pth")}, r"net.pth: a checkpoint's file name ends in \.safetensors"),
        ({"center_on": Path("nowhere")}, "nowhere: does not exist"),
        ({"precision": "int8"}, "precision is that of the latency table"),
        ({"start_share": 0.5}, "start_share is a share of the way to --start"),
        *[
            (epochs, "in gathered epochs selectors do not learn; give --start, or fewer")
            for epochs in ({"gathered_epochs": 1.0}, {"epochs": 4.0, "gathered_epochs": 4.0}, {"gathered_epochs": 0.9})
        ],
    ],
    ids=str,
)  # fmt: skip
def test_what_is_refused_before_any_training(request_: TrainingRequest, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        trained(request_, **changes)
    assert not list(request_.out.parent.glob("*.state"))


def test_an_output_folder_that_is_a_file_is_refused_first(request_: TrainingRequest) -> None:
    request_.out.parent.write_text("a file")
    with pytest.raises(InputError, match="cannot be written to"):
        trained(request_)
    assert request_.out.parent.read_text() == "a file"


def test_a_start_of_another_backbone_is_refused(request_: TrainingRequest, tiny_checkpoint: Checkpoint) -> None:
    with pytest.raises(InputError, match="is a deit_tiny_patch16_224 with 64 px and 10 classes, not the backbone"):
        trained(request_, start=tiny_checkpoint, backbone="deit_small_patch16_224")


def test_counts_can_be_set_in_place_of_learned(request_: TrainingRequest) -> None:
    given: dict[str, Any] = {"epochs": 2.0, "gathered_epochs": 1.0, "target_gmacs": 0.00177}
    assert kept_by(trained(request_, token_counts="9,5,3", **given)) == (9, 5, 3)
    for counts, message in {
        "16,16,16": "token_counts 16,16,16: cost .* GMACs, and the target is 0.00177",
        "9,5": "stages",
        "9,five,3": "whole numbers",
    }.items():
        with pytest.raises(InputError, match=message):
            trained(request_, token_counts=counts, **given)


@pytest.mark.parametrize("option", ["weights", "start"])
def test_the_checkpoint_does_not_take_the_place_of_what_the_run_starts_from(
    request_: TrainingRequest, tiny_checkpoint: Checkpoint, tmp_path: Path, option: str
) -> None:
    source = tmp_path / "input.safetensors"
    source.write_bytes((request_.weights if option == "weights" else tiny_checkpoint.path).read_bytes())  # type: ignore[union-attr]
    (tmp_path / "link").symlink_to(tmp_path)
    given = source if option == "weights" else replace(tiny_checkpoint, path=source)
    before = source.read_bytes()
    for out in (source, tmp_path / "link" / source.name):
        with pytest.raises(InputError, match=f"--out {out}: is what the run starts from; choose another name"):
            trained(request_, out=out, **{option: given})
    assert source.read_bytes() == before and not source.with_suffix(".state").exists()


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


def test_equal_seeds_give_equal_runs(request_: TrainingRequest, tmp_path: Path) -> None:
    """Whatever ran before in the process, and however busy the machine is."""
    longer: dict[str, Any] = {"epochs": 4.0, "gathered_epochs": 1.0}
    quiet = trained(request_, **longer)
    torch.rand(7)  # whatever else draws from the process's generator
    with busy_machine(3):
        busy = trained(request_, out=tmp_path / "again" / "tiny.safetensors", **longer)
    assert busy.path.read_bytes() == quiet.path.read_bytes()


def test_means_that_no_factor_takes_to_the_target_give_way_to_those_with_noise() -> None:
    cost = GmacsCost(create_backbone("deit_tiny_patch16_224", TINY).spec, 0.0018)
    sampled = (5.75, 8.5, 6.625)
    undecided, with_noise = fit_measured(MeasuredCounts((0.0, 0.375, 0.0), sampled, 8), cost)
    assert with_noise and undecided == fit_to_budget(sampled, cost)
    assert cost.of_counts(undecided.counts.kept) == pytest.approx(cost.target, rel=0.05)
    decided = (9.0, 5.0, 3.0)
    assert fit_measured(MeasuredCounts(decided, sampled, 8), cost) == (fit_to_budget(decided, cost), False)

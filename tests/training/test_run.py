"""A whole run: dense weights and images in, a checkpoint with counts, accuracy and its record out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_run import CONFIG, make_request, stand_in, write_dense

from tofe_edge.errors import InputError
from tofe_edge.evaluation.reference import Mode
from tofe_edge.io.tensors import read_tensors
from tofe_edge.model.backbones import TokenCounts
from tofe_edge.model.checkpoint import Checkpoint, load_model, read_header
from tofe_edge.model.macs import gmacs, tofe_macs
from tofe_edge.model.tofe import ToFe
from tofe_edge.training import run
from tofe_edge.training.accuracy import Examined, Validation
from tofe_edge.training.run import TrainingRequest, train_checkpoint


@pytest.fixture
def tiny_backbones(monkeypatch: pytest.MonkeyPatch, tiny_overrides: dict[str, int]) -> None:
    stand_in(monkeypatch, tiny_overrides)


@pytest.fixture
def request_(tmp_path: Path, tiny_overrides: dict[str, int]) -> TrainingRequest:
    return make_request(tmp_path, tiny_overrides)


def interrupt_after_the_dense_model(examine: Callable[..., Examined]) -> Callable[..., Examined]:
    """Ctrl-C while the trained net is validated."""

    def examined(self: Validation, model: ToFe, counts: TokenCounts | None, mode: Mode) -> Examined:
        if mode != "dense":
            raise KeyboardInterrupt
        return examine(self, model, counts, mode)

    return examined


@pytest.mark.usefixtures("tiny_backbones")
def test_a_run_writes_a_checkpoint_that_explains_itself(request_: TrainingRequest) -> None:
    for number in range(13):
        (Path(request_.data[0]) / "0" / f"{number}.png").write_bytes(b"no image")
    written = train_checkpoint(request_, CONFIG)
    header: Checkpoint = read_header(request_.out)
    rounded = {
        "gmacs": pytest.approx(written.gmacs, abs=1e-6),
        "dense_gmacs": pytest.approx(written.dense_gmacs, abs=1e-6),
    }
    assert vars(header) == {**vars(written), **rounded}
    assert header.name == "tiny" and header.backbone_name == "deit_tiny_patch16_224"

    model = load_model(header)
    assert header.token_counts is not None and len(header.token_counts.kept) == 3
    assert all(1 <= count <= 16 for count in header.token_counts.kept)
    assert header.gmacs == pytest.approx(gmacs(tofe_macs(model.backbone.spec, header.token_counts.kept)), abs=1e-6)

    record = header.training
    assert record is not None
    assert record["hyper_parameters"] == CONFIG.to_json()
    assert record["start"] == "dense.safetensors"
    assert record["data"] == ["train x1"]
    assert (record["steps"], record["images_per_epoch"]) == (2, 20)
    assert len(record["mean_kept"]) == len(record["mean_kept_sampled"]) == 3
    unreadable = [warning for warning in record["warnings"] if "could not be read" in warning]
    assert len(unreadable) == 1 and 1 <= int(unreadable[0].split()[0]) <= 13

    accuracy = header.accuracy
    assert accuracy is not None
    assert accuracy["images"] == 6 and accuracy["dataset"] == "val" and accuracy["mode"] == "batch"
    assert {"top1", "top1_interval", "top5", "dense_top1", "dense_top5"} <= accuracy.keys()
    for mode in (accuracy, accuracy["instance"]):
        assert mode["drop_points"]["estimate"] == pytest.approx(accuracy["dense_top1"] - mode["top1"], abs=0.01)
        assert mode["drop_points"]["low"] <= mode["drop_points"]["estimate"] <= mode["drop_points"]["high"]
        assert 0 < mode["p_value"] <= 1
    assert str(request_.out.parent) not in str(record) + str(accuracy), (
        "paths of this machine do not belong in a header"
    )


@pytest.mark.usefixtures("tiny_backbones")
def test_counts_are_the_means_of_held_out_images_scaled_to_the_target(request_: TrainingRequest) -> None:
    header = train_checkpoint(request_, CONFIG)
    assert header.training is not None and header.token_counts is not None
    assert header.training["held_out_images"] == 6
    scaled = [header.training["counts_scaled_by"] * mean for mean in header.training["mean_kept"]]
    for count, mean in zip(header.token_counts.kept, scaled, strict=True):
        assert abs(count - min(16.0, max(1.0, mean))) < 0.52
    assert header.gmacs == pytest.approx(CONFIG.target_gmacs, rel=0.03)


@pytest.mark.usefixtures("tiny_backbones")
def test_instance_mode_keeps_the_counts_on_the_images_it_is_centred_on(request_: TrainingRequest) -> None:
    plain = train_checkpoint(request_, CONFIG)
    centred = train_checkpoint(
        replace(request_, center_on=request_.validation), CONFIG
    )  # goes on from the finished state
    assert plain.training is not None and plain.accuracy is not None
    assert centred.training is not None and centred.accuracy is not None and centred.token_counts is not None
    assert plain.training["centred_on"] == "held-out images"
    assert centred.training["centred_on"] == "val, 6 images"
    # The file has half precision; a token of one of the six images may change sides.
    assert centred.accuracy["instance"]["mean_kept"] == pytest.approx(centred.token_counts.kept, abs=0.34)
    assert plain.accuracy["instance"]["mean_kept"] != centred.accuracy["instance"]["mean_kept"]
    assert plain.accuracy["top1"] == centred.accuracy["top1"]  # the order of the scores stays


@pytest.mark.usefixtures("tiny_backbones")
def test_images_to_center_on_need_no_labels(request_: TrainingRequest, tmp_path: Path) -> None:
    (tmp_path / "kitchen.v2" / "monday").mkdir(parents=True)
    for number, path in enumerate(sorted((tmp_path / "val").rglob("*.png"))):
        folder = tmp_path / "kitchen.v2" / ("monday" if number % 2 else "")
        (folder / f"{number}.png").write_bytes(path.read_bytes())
    labelled = train_checkpoint(replace(request_, center_on=tmp_path / "val"), CONFIG)
    unlabelled = train_checkpoint(replace(request_, center_on=tmp_path / "kitchen.v2"), CONFIG)
    assert labelled.training is not None and unlabelled.training is not None
    assert unlabelled.training["centred_on"] == "kitchen.v2, 6 images"
    assert unlabelled.training["mean_kept_centred"] == labelled.training["mean_kept_centred"]
    assert unlabelled.accuracy == labelled.accuracy


@pytest.mark.usefixtures("tiny_backbones")
def test_a_finished_checkpoint_stays_until_one_with_its_accuracy_takes_its_place(
    request_: TrainingRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    centred = replace(request_, center_on=request_.validation)
    with monkeypatch.context() as patch:
        patch.setattr(Validation, "examine", interrupt_after_the_dense_model(Validation.examine))
        with pytest.raises(KeyboardInterrupt):
            train_checkpoint(request_, CONFIG)
    assert read_header(request_.out).accuracy is None, "better than nothing"
    finished = train_checkpoint(request_, CONFIG)
    assert finished.accuracy is not None
    before = request_.out.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Validation, "examine", interrupt_after_the_dense_model(Validation.examine))
        with pytest.raises(KeyboardInterrupt):
            train_checkpoint(centred, CONFIG)
    assert request_.out.read_bytes() == before
    train_checkpoint(centred, CONFIG)
    assert request_.out.read_bytes() != before and read_header(request_.out).accuracy is not None
    assert not list(request_.out.parent.glob(".*"))


@pytest.mark.usefixtures("tiny_backbones")
def test_without_validation_images_the_checkpoint_has_no_accuracy(request_: TrainingRequest) -> None:
    object.__setattr__(request_, "validation", None)
    assert train_checkpoint(request_, CONFIG).accuracy is None
    assert read_header(request_.out).accuracy is None


@pytest.mark.usefixtures("tiny_backbones")
def test_the_same_call_gives_the_same_file(request_: TrainingRequest) -> None:
    first = train_checkpoint(request_, CONFIG).sha256()
    for path in request_.out.parent.iterdir():
        path.unlink()
    assert train_checkpoint(request_, CONFIG).sha256() == first


@pytest.mark.usefixtures("tiny_backbones")
def test_a_checkpoint_that_finds_no_room_is_written_by_the_next_call_without_training_again(
    request_: TrainingRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *content: object) -> Checkpoint:
        raise InputError(f"{path}: cannot be written (No space left on device)")

    with monkeypatch.context() as patch:
        patch.setattr(run, "save", full)
        with pytest.raises(InputError, match="No space left"):
            train_checkpoint(request_, CONFIG)
    log = request_.out.with_suffix(".log.jsonl").read_text()
    assert not request_.out.exists() and log
    record = train_checkpoint(request_, CONFIG).training
    assert record is not None and record["steps"] == 2
    assert request_.out.with_suffix(".log.jsonl").read_text() == log
    first = request_.out.read_bytes()
    for path in request_.out.parent.iterdir():
        path.unlink()
    train_checkpoint(request_, CONFIG)
    assert request_.out.read_bytes() == first


@pytest.mark.usefixtures("tiny_backbones")
def test_the_record_names_unit_target_and_what_the_counts_come_to(request_: TrainingRequest) -> None:
    header = train_checkpoint(request_, CONFIG)
    assert header.training is not None
    assert header.training["budget"] == {"unit": "GMACs", "target": 0.002, "reached": round(header.gmacs, 6)}


@pytest.mark.usefixtures("tiny_backbones")
def test_gathered_epochs_train_with_the_counts_that_are_shipped_and_both_modes_keep(request_: TrainingRequest) -> None:
    config = replace(CONFIG, epochs=4, gathered_epochs=2, views=24)
    header = train_checkpoint(request_, config)
    record = header.training
    assert record is not None and header.token_counts is not None
    assert header.gmacs == pytest.approx(CONFIG.target_gmacs, rel=0.03)
    assert record["views"] == 24
    assert record["mean_kept_centred"] == pytest.approx(header.token_counts.kept, abs=0.2)
    log = request_.out.with_suffix(".log.jsonl").read_text().splitlines()
    last = json.loads(log[-1])
    assert last["kept"] == list(header.token_counts.kept) and "budget" not in last


@pytest.mark.usefixtures("tiny_backbones")
def test_images_missing_among_the_views_are_counted_in_the_header(request_: TrainingRequest) -> None:
    for number in range(13):
        (Path(request_.data[0]) / "0" / f"{number}.png").write_bytes(b"no image")
    record = train_checkpoint(request_, replace(CONFIG, views=24)).training
    assert record is not None
    assert any("not among the views" in warning for warning in record["warnings"])


@pytest.mark.usefixtures("tiny_backbones")
def test_a_run_goes_on_from_the_next_larger_budget(request_: TrainingRequest, tmp_path: Path) -> None:
    larger = train_checkpoint(request_, replace(CONFIG, target_gmacs=0.0023, views=24))
    smaller = replace(
        request_, start=larger, out=tmp_path / "out" / "smaller.safetensors", views=tmp_path / "out/tiny.views"
    )
    header = train_checkpoint(smaller, replace(CONFIG, views=24))
    assert header.training is not None
    assert (header.training["start"], header.training["teacher"]) == ("tiny", "dense.safetensors")
    assert header.training["start_record"] == larger.training
    assert header.gmacs < larger.gmacs


@pytest.mark.usefixtures("tiny_backbones")
def test_a_run_selects_where_it_is_told_or_where_its_start_does(
    request_: TrainingRequest, tmp_path: Path, tiny_overrides: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tiny_overrides, "depth", 5)  # one block more than its stages need
    write_dense(tmp_path, tiny_overrides)
    config = replace(CONFIG, target_gmacs=0.0023, views=24)
    early = train_checkpoint(replace(request_, stages=(1, 3, 4)), config)
    assert early.stages == (1, 3, 4)
    following = replace(request_, start=early, out=tmp_path / "out/next.safetensors", views=tmp_path / "out/tiny.views")
    assert train_checkpoint(following, config).stages == (1, 3, 4)


@pytest.mark.usefixtures("tiny_backbones")
def test_a_start_that_selects_elsewhere_lends_its_weights(
    request_: TrainingRequest, tmp_path: Path, tiny_overrides: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tiny_overrides, "depth", 5)
    write_dense(tmp_path, tiny_overrides)
    late = train_checkpoint(request_, replace(CONFIG, target_gmacs=0.0025))
    still = replace(
        CONFIG,
        target_gmacs=0.0025,
        epochs=1,
        learning_rate=1e-12,
        final_learning_rate=1e-13,
        backbone_learning_rate=1e-12,
    )
    moved = replace(request_, start=late, stages=(1, 3, 4), out=tmp_path / "out/moved.safetensors")
    header = train_checkpoint(moved, still)
    assert (late.stages, header.stages) == ((1, 2, 3), (1, 3, 4))
    before, after = load_model(late).state_dict(), load_model(header).state_dict()
    thresholds = {f"selectors.{stage}.fc3.bias" for stage in range(3)}  # set again, on the held-out images
    assert thresholds < set(before)
    for name in set(before) - thresholds:
        assert torch.equal(before[name], after[name]), name
    with pytest.raises(InputError, match="tiny: selects 3 times; --select-before asks for 2"):
        train_checkpoint(replace(moved, stages=(1, 3)), still)


@pytest.mark.usefixtures("tiny_backbones")
def test_a_backbone_may_begin_between_the_dense_one_and_the_start(request_: TrainingRequest, tmp_path: Path) -> None:
    far = train_checkpoint(request_, replace(CONFIG, fixed_epochs=0, backbone_learning_rate=0.05))
    still = replace(
        CONFIG, fixed_epochs=0, learning_rate=1e-12, final_learning_rate=1e-13, backbone_learning_rate=1e-12
    )
    between = replace(request_, start=far, start_share=0.25, out=tmp_path / "out/between.safetensors")
    header = train_checkpoint(between, still)
    assert header.training is not None and header.training["start_share"] == 0.25
    dense, end, middle = read_tensors(tmp_path / "dense.safetensors"), load_model(far), load_model(header)
    selector = "selectors.0.fc1.weight"
    assert torch.equal(middle.get_parameter(selector), end.get_parameter(selector))
    for name, weight in middle.backbone.named_parameters():
        start, trained = dense[name.removeprefix("vit.")], end.backbone.get_parameter(name)
        assert torch.allclose(weight, start + 0.25 * (trained - start), atol=2e-3), name
    name = "vit.blocks.3.mlp.fc1.weight"
    assert (end.backbone.get_parameter(name) - dense[name.removeprefix("vit.")]).abs().max() > 0.05

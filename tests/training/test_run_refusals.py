"""What a run refuses before any training, and what it needs to be told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_run import CONFIG, make_request, stand_in

from tofe_edge.errors import InputError
from tofe_edge.model.checkpoint import Checkpoint
from tofe_edge.training.run import TrainingRequest, train_checkpoint


@pytest.fixture
def tiny_backbones(monkeypatch: pytest.MonkeyPatch, tiny_overrides: dict[str, int]) -> None:
    stand_in(monkeypatch, tiny_overrides)


@pytest.fixture
def request_(tmp_path: Path, tiny_overrides: dict[str, int]) -> TrainingRequest:
    return make_request(tmp_path, tiny_overrides)


@pytest.mark.usefixtures("tiny_backbones")
def test_weights_of_another_backbone_are_refused_before_any_training(request_: TrainingRequest) -> None:
    object.__setattr__(request_, "backbone", "deit_tiny_distilled_patch16_224")
    with pytest.raises(InputError, match=r"weights do not fit deit_tiny_distilled_patch16_224: .* missing"):
        train_checkpoint(request_, CONFIG)
    assert not request_.out.parent.exists()


@pytest.mark.usefixtures("tiny_backbones")
def test_a_run_without_dense_weights_is_refused(request_: TrainingRequest) -> None:
    object.__setattr__(request_, "weights", None)
    with pytest.raises(InputError, match="--weights FILE, or --pretrained"):
        train_checkpoint(request_, CONFIG)


@pytest.mark.usefixtures("tiny_backbones")
def test_an_output_folder_that_is_a_file_is_found_before_any_training(request_: TrainingRequest) -> None:
    request_.out.parent.write_text("a file")
    with pytest.raises(InputError, match="cannot be written to"):
        train_checkpoint(request_, CONFIG)
    assert request_.out.parent.read_text() == "a file"


@pytest.mark.usefixtures("tiny_backbones")
def test_views_need_a_start_with_the_first_blocks_of_the_dense_weights(
    request_: TrainingRequest, tmp_path: Path
) -> None:
    other = train_checkpoint(request_, replace(CONFIG, epochs=4, fixed_epochs=0, backbone_learning_rate=0.05))
    request = replace(request_, start=other, out=tmp_path / "out" / "next.safetensors")
    with pytest.raises(InputError, match="its blocks before the first selection are not those of the dense weights"):
        train_checkpoint(request, replace(CONFIG, views=24))


@pytest.mark.usefixtures("tiny_backbones")
def test_a_start_of_another_backbone_is_refused(request_: TrainingRequest, tiny_checkpoint: Checkpoint) -> None:
    with pytest.raises(InputError, match="is a deit_tiny_patch16_224 with 64 px and 10 classes, not the --backbone"):
        train_checkpoint(replace(request_, start=tiny_checkpoint, backbone="deit_small_patch16_224"), CONFIG)


@pytest.mark.usefixtures("tiny_backbones")
def test_counts_can_be_given_in_place_of_learned(request_: TrainingRequest) -> None:
    given = replace(CONFIG, gathered_epochs=1, guidance_weight=1.0, token_counts="9,5,3", target_gmacs=0.00177)
    header = train_checkpoint(request_, given)
    assert header.token_counts is not None and header.token_counts.kept == (9, 5, 3)
    with pytest.raises(InputError, match=r"--token-counts 16,16,16: cost .* GMACs, and the target is 0.00177"):
        train_checkpoint(request_, replace(given, token_counts="16,16,16"))
    with pytest.raises(InputError, match="selectors never learn"):
        train_checkpoint(request_, replace(given, guidance_weight=0.0))
    with pytest.raises(InputError, match="stages"):
        train_checkpoint(request_, replace(given, token_counts="9,5"))


def test_given_counts_need_epochs_that_use_them() -> None:
    with pytest.raises(InputError, match="token_counts are for gathered epochs"):
        replace(CONFIG, token_counts="9,5,3")
    with pytest.raises(InputError, match="whole numbers"):
        replace(CONFIG, gathered_epochs=1, token_counts="9,five,3")


@pytest.mark.usefixtures("tiny_backbones")
def test_images_to_center_on_are_looked_for_before_any_training(request_: TrainingRequest) -> None:
    with pytest.raises(InputError, match="nowhere: does not exist"):
        train_checkpoint(replace(request_, center_on=request_.out.parent / "nowhere"), CONFIG)
    assert not request_.out.with_suffix(".state").exists()


@pytest.mark.usefixtures("tiny_backbones")
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
            train_checkpoint(replace(request_, **{option: given}, out=out), CONFIG)  # type: ignore[arg-type]
    assert source.read_bytes() == before and not source.with_suffix(".state").exists()


@pytest.mark.usefixtures("tiny_backbones")
@pytest.mark.parametrize(
    "epochs",
    [{"gathered_epochs": 1}, {"epochs": 4, "gathered_epochs": 4}, {"gathered_epochs": 0.9}],
    ids=["all", "several", "all once rounded"],
)
def test_counts_are_not_those_of_selectors_that_have_learned_nothing(
    request_: TrainingRequest, epochs: dict[str, float]
) -> None:
    unlearned = replace(CONFIG, guidance_weight=1.0, **epochs)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="nothing is learned before counts are fixed; give --token-counts or fewer"):
        train_checkpoint(request_, unlearned)
    with pytest.raises(InputError, match="selectors never learn; give --start or --guidance-weight"):
        train_checkpoint(request_, replace(unlearned, guidance_weight=0.0))
    assert not request_.out.with_suffix(".state").exists()


@pytest.mark.usefixtures("tiny_backbones")
def test_counts_may_be_those_of_the_start(request_: TrainingRequest, tmp_path: Path) -> None:
    start = train_checkpoint(request_, CONFIG)
    following = replace(request_, start=start, out=tmp_path / "out" / "next.safetensors")
    header = train_checkpoint(following, replace(CONFIG, gathered_epochs=1))
    assert header.token_counts is not None and header.gmacs == pytest.approx(0.002, rel=0.03)

"""Training what `tofe-edge reduce` made: unlabelled pictures anywhere, the start's counts, one net for several budgets, kept logits."""

import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_tofe
from tiny_run import make_request, records, stand_in, trained

from tofe_edge.cli import main
from tofe_edge.errors import DeviceError, InputError
from tofe_edge.io.dataset import UNLABELLED, find_images
from tofe_edge.io.labels import default_classes
from tofe_edge.model.backbones import TokenCounts
from tofe_edge.model.checkpoint import describe, load_model, read_header, save
from tofe_edge.model.tofe import ToFe
from tofe_edge.training import batches
from tofe_edge.training.recipe import read_recipe
from tofe_edge.training.run import TrainingRequest
from tofe_edge.training.teacher import KeptLogits

BUDGETS = ((9, 5, 3), (12, 8, 5), (7, 3, 2))


@pytest.fixture
def request_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainingRequest:
    """26 pictures in shards and folders of any depth, and a net that was reduced for three budgets."""
    stand_in(monkeypatch)
    request = make_request(tmp_path)
    train, pictures = Path(request.data[0]), tmp_path / "pictures"
    (pictures / "of" / "cats").mkdir(parents=True)
    for path in sorted((train / "0").iterdir()):
        shutil.move(path, pictures / ("of" if path.stem < "3" else "of/cats") / path.name)
    with tarfile.open(tmp_path / "more.tar", "w") as archive:
        for path in sorted((train / "1").iterdir()):
            archive.add(path, f"./{path.name}")
    net = tiny_tofe(reduction="merging")
    outcomes = [{"counts": list(counts), "divergence": 1.0, "agreement": 50.0} for counts in BUDGETS]
    header = describe(
        "start", net.backbone.spec, net.backbone.preprocessing, default_classes(10), TokenCounts(BUDGETS[0]), None,
        {"reduced": {"outcomes": outcomes, "measure": "nats"}},
    )  # fmt: skip
    recipe = read_recipe("reduced", ["epochs=2", "batch_size=8", "held_out=6", "device=cpu", "workers=0", "crops=2"])
    return replace(
        request,
        data=(str(pictures), str(tmp_path / "more.tar")),
        start=save(tmp_path / "start.safetensors", net, header),
        target_gmacs=None,
        validation=None,
        recipe=recipe,
    )


def test_pictures_are_found_without_labels(request_: TrainingRequest, tmp_path: Path) -> None:
    folder, shard = map(Path, request_.data)
    (folder / "notes.txt").write_text("no picture")
    found = find_images(folder)
    assert len(found) == 13 and {sample.path.parent.name for sample in found} == {"of", "cats"}
    assert [left_out.count for left_out in found.coverage.left_out] == [1]
    (tmp_path / "shards").mkdir()
    shutil.copy(shard, tmp_path / "shards" / "a.tar")
    inside = find_images(tmp_path / "shards")
    assert len(inside) == len(find_images(shard)) == 13
    assert {sample.label for sample in (*found, *inside)} == {UNLABELLED}
    assert inside[0].read().size == (64, 64)
    shutil.copy(next(folder.rglob("*.png")), tmp_path / "shards")
    for source, message in {"shards": "holds both 'a.tar' and", "nowhere": "does not exist"}.items():
        with pytest.raises(InputError, match=message):
            find_images(tmp_path / source)


def test_a_reduced_net_learns_at_all_of_its_budgets_and_keeps_its_method(request_: TrainingRequest) -> None:
    header = trained(request_)
    assert read_header(header.path).reduction == "merging"
    assert header.token_counts == TokenCounts(BUDGETS[0])
    assert [budget.counts for budget in header.budgets] == list(BUDGETS)
    assert all(0 <= budget.agreement <= 100 and 0 <= budget.divergence != 1 for budget in header.budgets)
    assert header.training is not None and header.training["hyper_parameters"]["token_counts"] == "9,5,3;12,8,5;7,3,2"
    assert records(request_.out)[-1].keys() == {"step", "loss", "distillation", "kept", "images_per_second"}
    assert request_.start is not None
    before, after = load_model(request_.start).state_dict(), load_model(header).state_dict()
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert {"backbone", "approximators"} <= moved
    single = trained(request_, token_counts="7,3,2", target_gmacs=0.00172, out=request_.out.with_name("b.safetensors"))
    assert single.budgets[0].counts == (7, 3, 2) and len(single.budgets) == 1


def test_logits_of_crops_that_come_again_are_not_computed_again(
    request_: TrainingRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared: dict[str, Any] = {"logits_dir": tmp_path / "logits"}
    first = trained(request_, **shared)
    (kept,) = (tmp_path / "logits").iterdir()
    assert kept.stat().st_size == 20 * 2 * 10 * 2, "images, crops, classes, bytes"
    forward = ToFe.forward_dense
    seen: list[int] = []

    def counted(self: ToFe, images: torch.Tensor, *output: Any) -> torch.Tensor:
        seen.append(len(images))
        return forward(self, images, *output)

    monkeypatch.setattr(ToFe, "forward_dense", counted)
    again = trained(request_, out=tmp_path / "again" / first.path.name, name="tiny", **shared)
    assert sum(seen) <= 6 + 20 + 96, "held-out ones and the look at the preprocessing, nothing of the 40 in training"
    assert again.weights_sha256 == first.weights_sha256
    with kept.open("r+b") as file:
        file.write(bytes(20))
    row = KeptLogits(kept, 10, 2).read([batches.Crop(0, 0), batches.Crop(0, 1)])
    assert not row[0].any() and row[1].all()
    (tmp_path / "full.logits").symlink_to("/dev/full")
    full = KeptLogits(tmp_path / "full.logits", 10, 2)
    with pytest.raises(InputError, match=r"full\.logits: logits cannot be kept there .*; free some space"):
        full.write([batches.Crop(0, 0)], row[1:])


def test_pictures_that_are_gone_end_a_run_in_one_line_with_its_state(request_: TrainingRequest, tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "pictures", tmp_path / "kept")
    step, made = torch.optim.AdamW.step, [0]

    def vanish(self: torch.optim.AdamW, closure: None = None) -> Any:
        made[0] += 1
        if made[0] == 2:
            shutil.rmtree(tmp_path / "pictures", ignore_errors=True)
            (tmp_path / "more.tar").rename(tmp_path / "away.tar")
        return step(self, closure)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", vanish)
        with pytest.raises(InputError, match=r"none of 8 images of a batch could be read \(first: .*\)$"):
            trained(request_)
    assert torch.load(request_.out.with_suffix(".state"), weights_only=True)["step"] == 2
    (tmp_path / "kept").rename(tmp_path / "pictures")
    (tmp_path / "away.tar").rename(tmp_path / "more.tar")
    assert trained(request_).training["steps"] == 5  # type: ignore[index]


def test_a_decoding_process_that_is_killed_is_one_line(
    request_: TrainingRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches._Crops, "__getitem__", lambda *_: __import__("os")._exit(9))
    with pytest.raises(DeviceError, match=r"^training: a process that decodes images has ended \(.*\)$"):
        trained(request_, workers=1)


def test_the_command_takes_the_recipe_and_the_budget_from_the_start(
    request_: TrainingRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"train --weights {request_.weights} --start {tmp_path / 'start.safetensors'} --out {tmp_path / 'net.safetensors'}"
    data = [word for source in request_.data for word in ("--data", source)]
    settings = "--set epochs=1 --set batch_size=4 --set held_out=6 --set workers=1 --set autocast=bf16"
    assert main([*words.split(), *data, *settings.split()]) == 0
    assert "9,5,3 per stage" in capsys.readouterr().out

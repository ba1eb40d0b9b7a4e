"""The comparison of methods end to end on a tiny net: rows, tables, interruption, and refusals."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import TINY
from peer_nets import CONFIG, TARGET, tiny_images, tiny_teacher, tiny_views
from safetensors.torch import save_file

from benchmarks import compare_methods
from benchmarks.peers import lab as lab_module
from benchmarks.peers import training
from benchmarks.peers.ablations import accuracy_by_batch, reuse_by_stage
from benchmarks.peers.catalog import METHODS
from benchmarks.peers.crops import prepare_crops
from benchmarks.peers.freezing import Freezing
from benchmarks.peers.training import Course, Fit, fit
from tofe_edge.backbones import TokenCounts, create_host
from tofe_edge.checkpoint import Checkpoint
from tofe_edge.errors import InputError
from tofe_edge.preprocessing import normalize
from tofe_edge.training.batches import Source, TrainingSet, batches
from tofe_edge.training.lessons import Lesson, lessons_from_views
from tofe_edge.training.views import ViewRecipe

IDS = [str(number) for number in range(10)]
CPU = torch.device("cpu")
COURSE = Course(CONFIG, steps=6, selecting_share=0.5)

Compare = Callable[..., int]
"""``compare(*options)``: the exit code; results go to ``methods.yaml``."""


@pytest.fixture
def compare(tmp_path: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Compare:
    weights = tmp_path / "tiny.safetensors"
    save_file(tiny_teacher().backbone.vit.state_dict(), weights)  # type: ignore[union-attr,operator]
    monkeypatch.setattr(compare_methods, "create_host", lambda name, stages: create_host(name, TINY, stages=stages))
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)

    def run(*options: str) -> int:
        words = f"--weights {weights} --data {image_folder} --views {tmp_path / 'views'} --view-count 12 --held-out 0"
        words += f" --validation {image_folder} --target-gmacs {TARGET} --batch-size 4 --steps 4"
        return compare_methods.main([*words.split(), "--out", str(tmp_path / "methods.yaml"), *options])

    return run


def document(folder: Path) -> dict[str, Any]:
    text = (folder / "methods.yaml").read_text()
    assert str(folder) not in text
    read: dict[str, Any] = yaml.safe_load(text)
    return read


def test_every_kind_of_method_gives_a_row(
    compare: Compare, tmp_path: Path, tiny_checkpoint: Checkpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    names = "tofe,evit,tome_everywhere_untrained,resolution"
    assert compare("--methods", names, "--checkpoint", str(tiny_checkpoint.path), "--tables") == 0
    rows = document(tmp_path)["methods"]
    assert list(rows) == ["dense", "tiny", *names.split(",")]
    trained = {name: (row["trained"], row["steps"], row["images_seen"]) for name, row in rows.items()}
    assert trained["tofe"] == trained["resolution"] == ("yes", 4, 16)
    assert trained["tome_everywhere_untrained"] == ("no", 0, 0) and trained["tiny"] == ("elsewhere", 0, 0)
    dense = rows["dense"]
    assert dense["difference"] == dense["lost"] == dense["gained"] == 0 and dense["mid_p"] == 1
    for row in rows.values():
        low, high = row["top1_interval"]
        assert 0 <= low <= row["top1"] <= high <= 100 and 0 < row["gmacs"] < 0.003
        assert row["difference"] == pytest.approx(row["top1"] - dense["top1"], abs=0.011)
    tables = document(tmp_path)["tables"]
    assert set(tables) == {
        f"{name}, {what}" for name in ("tofe", "tiny") for what in ("by batch size", "reused tokens")
    }
    assert [row["batch"] for row in tables["tofe, by batch size"]] == [1, 8, 32, 128]
    out = capsys.readouterr().out
    assert "| tome_everywhere_untrained | 0.002 | merges" in out and "tiny, reused tokens:" in out


def test_an_interrupted_comparison_keeps_its_rows_and_goes_on(
    compare: Compare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fit

    def cut(method: Any, *arguments: Any) -> Fit:
        if type(method).__name__ == "ToMe":
            raise KeyboardInterrupt
        return whole(method, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(lab_module, "fit", cut)
        with pytest.raises(KeyboardInterrupt):
            compare("--methods", "evit,tome")
    first = document(tmp_path)["methods"]
    assert list(first) == ["dense", "evit"]
    assert compare("--methods", "tome") == 0
    rows = document(tmp_path)["methods"]
    assert list(rows) == ["dense", "evit", "tome"] and rows["evit"] == first["evit"]


def test_results_of_other_settings_are_not_mixed(
    compare: Compare, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare("--methods", "evit_untrained") == 0
    before = (tmp_path / "methods.yaml").read_bytes()
    assert compare("--methods", "tome_untrained", "--distillation-weight", "1") == 2
    assert "has results with another distillation_weight; use another --out" in capsys.readouterr().err
    assert (tmp_path / "methods.yaml").read_bytes() == before
    (tmp_path / "methods.yaml").write_text("[]")
    assert compare("--methods", "tome_untrained") == 2
    assert "is no result of benchmarks.compare_methods" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--methods", "evitt"], "'evitt' is unknown"),
        ([], "nothing to compare"),
        (["--methods", "evit", "--steps", "0"], "--steps is at least 1"),
        (["--methods", "evit", "--target-gmacs", "0.5"], "out of reach"),
        (["--checkpoint", "nothing"], "nothing"),
    ],
)
def test_wrong_arguments(
    compare: Compare, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(*options) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and message in error


def trained(name: str, out: Path, stop: int | None = None, course: Course = COURSE) -> tuple[Freezing, Fit | None]:
    """A run of six steps, stopped before step ``stop``."""
    torch.manual_seed(0)
    method, views = METHODS[name](tiny_teacher().backbone, TARGET), tiny_views(tiny_teacher())

    def lessons(steps: range) -> Iterator[Lesson]:
        for lesson in lessons_from_views(views, CONFIG, steps, CPU):
            if lesson.step == stop:
                raise KeyboardInterrupt
            yield lesson

    done = None
    try:
        done = fit(method, lessons, views, course, out)
    except KeyboardInterrupt:
        assert stop is not None
    assert isinstance(method, Freezing)
    return method, done


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_stopped_run_goes_on_to_the_same_net(stop: int, tmp_path: Path) -> None:
    whole, done = trained("tofe", tmp_path / "whole")
    assert done is not None and (done.steps, done.images) == (6, 24)
    trained("tofe", tmp_path / "cut", stop)
    again, _ = trained("tofe", tmp_path / "cut")
    assert again.counts == whole.counts
    for (name, mine), its in zip(again.state_dict().items(), whole.state_dict().values(), strict=True):
        assert torch.equal(mine, its), name
    logs = [[json.loads(line) for line in (tmp_path / f"{run}.log.jsonl").open()] for run in ("whole", "cut")]
    for log in logs:
        for record in log:
            del record["images_per_second"]
    assert logs[0][-1] == logs[1][-1] and logs[0][-1]["step"] == 6


def test_counts_are_learned_in_masked_steps_and_else_given(tmp_path: Path) -> None:
    given = METHODS["tofe"](tiny_teacher().backbone, TARGET)
    assert isinstance(given, Freezing)
    gathered, _ = trained("tofe", tmp_path / "gathered", course=Course(CONFIG, steps=6, selecting_share=0.0))
    assert gathered.counts == given.counts
    assert trained("tofe", tmp_path / "both")[0].counts != given.counts


def test_a_finished_run_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, done = trained("random", tmp_path / "run")
    monkeypatch.setattr(training, "_step", None)
    second, again = trained("random", tmp_path / "run")
    assert again == done
    assert all(torch.equal(mine, its) for mine, its in zip(first.parameters(), second.parameters()))


def test_only_what_is_not_shared_is_trained(tmp_path: Path) -> None:
    before = tiny_teacher().backbone.state_dict()
    after, _ = trained("tofe", tmp_path / "run")
    changed = {key for key, value in after.backbone.state_dict().items() if not torch.equal(value, before[key])}
    assert changed and not any(key.startswith(("vit.blocks.0.", "vit.patch", "vit.pos", "vit.cls")) for key in changed)


def test_a_state_of_another_run_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    trained("tofe", tmp_path / "run", stop=4)
    with pytest.raises(InputError, match="belongs to a run with other settings"):
        trained("tofe_identity", tmp_path / "run")
    (tmp_path / "run.state").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(InputError, match="cannot be read as a training state"):
        trained("tofe", tmp_path / "run")


def test_crops_are_those_of_the_views(tmp_path: Path, image_folder: Path) -> None:
    data, spec = TrainingSet.find([Source(image_folder)], IDS, 0, 0), tiny_teacher().backbone.preprocessing
    recipe = ViewRecipe(40, 3, 0.35, 0.0, (1, 2, 3), "", "")
    crops = prepare_crops(tmp_path, data.train, spec, recipe, 35, spec.image_size)
    wanted = torch.cat([batch.images for batch in batches(data.train, spec, 32, range(2), 3, recipe.augmentation)])[:35]
    assert np.array_equal(np.stack([normalize(crop, spec) for crop in crops]), wanted.numpy())
    smaller = prepare_crops(tmp_path, data.train, spec, recipe, 35, 32)
    assert smaller.shape == (35, 32, 32, 3)
    with pytest.raises(InputError, match="has not the crops of 36 views"):
        prepare_crops(tmp_path, data.train, spec, recipe, 36, 32)


@torch.no_grad()
def test_tables_six_and_seven() -> None:
    net, images = tiny_teacher(), tiny_images(12)
    method = Freezing.of(net, TokenCounts((9, 5, 3)))
    stems, labels = net.stem(images), torch.arange(12) % 10
    one, all_at_once = accuracy_by_batch(method, stems, labels, (1, 12))
    alone = [net.forward_instance(image[None]) for image in images]
    hits = sum(int(found.logits.argmax()) == int(label) for found, label in zip(alone, labels))
    assert one.top1.estimate == hits / 12
    costs = [method.macs_of([len(index[0]) for index in found.kept]) / 1e9 for found in alone]
    assert one.gmacs == pytest.approx(sum(costs) / 12) and all_at_once.gmacs != one.gmacs
    rows = reuse_by_stage(method, stems)
    kept = [[set(row) for row in index.tolist()] for index in net.forward_batch(images, TokenCounts((9, 5, 3))).kept]
    reused = sum(len(later - earlier) for earlier, later in zip(kept[0], kept[1])) / 12
    assert [(row.stage, row.kept) for row in rows] == [(2, 5.0), (3, 3.0)]
    assert rows[0].reused == pytest.approx(reused) and rows[0].share == pytest.approx(reused / 5)
    third = sum(len(now - (first & second)) for first, second, now in zip(*kept)) / 12
    assert rows[1].reused == pytest.approx(third)

"""The training of compared methods: the same net after an interruption, and no state of another run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import TINY, make_tiny_tofe
from peer_nets import CONFIG, TARGET, tiny_teacher, tiny_views

from research import training
from research.catalog import METHODS
from research.freezing import Freezing
from research.method import Method, Step
from research.training import Course, Fit, fit
from tofe_edge.errors import InputError
from tofe_edge.model.backbones import Host, create_host
from tofe_edge.training.teacher import TrainingBatch
from tofe_edge.training.views import batches_from_views

CPU = torch.device("cpu")
COURSE = Course(CONFIG, steps=6, selecting_share=0.5, samples="of noise")


def trained(name: str, out: Path, stop: int | None = None, course: Course = COURSE) -> tuple[Freezing, Fit | None]:
    """A run of six steps, stopped before step ``stop``."""
    torch.manual_seed(0)
    method, views = METHODS[name](tiny_teacher().backbone, TARGET), tiny_views(tiny_teacher())

    def batches(steps: range) -> Iterator[TrainingBatch]:
        for batch in batches_from_views(views, CONFIG, steps, CPU):
            if batch.step == stop:
                raise KeyboardInterrupt
            yield batch

    done = None
    try:
        done = fit(method, batches, views, course, out)
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
    gathered, _ = trained("tofe", tmp_path / "gathered", course=replace(COURSE, selecting_share=0.0))
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
    with pytest.raises(InputError, match="belongs to a run with another method, start; use another --states"):
        trained("tofe_identity", tmp_path / "run")
    (tmp_path / "run.state").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(InputError, match="cannot be read as a training state"):
        trained("tofe", tmp_path / "run")


def test_a_finished_run_is_not_taken_for_one_on_other_data_or_another_net(tmp_path: Path) -> None:
    def made(host: Host) -> Method:
        torch.manual_seed(0)
        return METHODS["random"](host, 0.0023)

    views, one, host = tiny_views(tiny_teacher()), replace(COURSE, steps=1), tiny_teacher().backbone

    def batches(steps: range) -> Iterator[TrainingBatch]:
        return batches_from_views(views, CONFIG, steps, CPU)

    fit(made(host), batches, views, one, tmp_path / "run")
    early = create_host("deit_tiny_patch16_224", {**TINY, "depth": 5}, stages=(1, 2, 4))
    late = create_host("deit_tiny_patch16_224", {**TINY, "depth": 5}, stages=(1, 3, 4))
    others = [
        (made(host), views, replace(one, samples="of others"), "samples"),
        (made(host), tiny_views(tiny_teacher(), 12), one, "drawn_views"),
        (made(make_tiny_tofe(seed=1).backbone), views, one, "start"),
    ]
    for method, of_them, course, changed in others:
        with pytest.raises(InputError, match=f"belongs to a run with another {changed}; "):
            fit(method, batches, of_them, course, tmp_path / "run")
    selections = [one.of(made(net), 24)["selections"] for net in (early, late)]
    assert selections == [[1, 2, 4], [1, 3, 4]]
    assert fit(made(host), batches, views, one, tmp_path / "run").steps == 1


def test_a_run_that_diverges_ends_in_one_line_and_keeps_its_last_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Freezing.losses

    def losses(self: Freezing, step: Step) -> dict[str, torch.Tensor]:
        return {name: value / (step.batch.step != 3) for name, value in own(self, step).items()}

    monkeypatch.setattr(Freezing, "losses", losses)
    monkeypatch.setattr(training, "SAVE_EVERY_SECONDS", -1.0)
    with pytest.raises(InputError, match=r"training Freezing: the loss is .* at step 4; lower --learning-rate"):
        trained("tofe", tmp_path / "run")
    saved = torch.load(tmp_path / "run.state", weights_only=True)
    assert saved["step"] == 3
    assert all(torch.isfinite(value).all() for value in saved["method"].values())

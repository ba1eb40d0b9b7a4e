"""The training of compared methods: what learns, and what ends it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peer_nets import CONFIG, TARGET, tiny_teacher, tiny_views

from research.catalog import METHODS
from research.freezing import Freezing
from research.method import Step
from research.training import Course, Fit, fit
from tofe_edge.errors import InputError
from tofe_edge.training.views import batches_from_views

COURSE = Course(CONFIG, steps=6, selecting_share=0.5)


def trained(name: str, out: Path, course: Course = COURSE) -> tuple[Freezing, Fit]:
    """A run of six steps."""
    torch.manual_seed(0)
    method, views = METHODS[name](tiny_teacher().backbone, TARGET), tiny_views(tiny_teacher())
    assert isinstance(method, Freezing)
    done = fit(method, lambda steps: batches_from_views(views, CONFIG, steps, torch.device("cpu")), views, course, out)
    return method, done


def test_counts_are_learned_in_masked_steps_and_only_what_is_not_shared_is_trained(tmp_path: Path) -> None:
    given, before = METHODS["tofe"](tiny_teacher().backbone, TARGET), tiny_teacher().backbone.state_dict()
    assert isinstance(given, Freezing)
    gathered, _ = trained("tofe", tmp_path / "gathered", replace(COURSE, selecting_share=0.0))
    both, done = trained("tofe", tmp_path / "both")
    assert (done.steps, done.images) == (6, 24)
    assert gathered.counts == given.counts != both.counts
    changed = {key for key, value in both.backbone.state_dict().items() if not torch.equal(value, before[key])}
    assert changed and not any(key.startswith(("vit.blocks.0.", "vit.patch", "vit.pos", "vit.cls")) for key in changed)
    again, _ = trained("tofe", tmp_path / "again")
    assert all(torch.equal(mine, its) for mine, its in zip(both.parameters(), again.parameters()))


def test_a_run_that_diverges_ends_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Freezing.losses

    def losses(self: Freezing, step: Step) -> dict[str, torch.Tensor]:
        return {name: value / (step.batch.step != 3) for name, value in own(self, step).items()}

    monkeypatch.setattr(Freezing, "losses", losses)
    with pytest.raises(InputError, match=r"training Freezing: the loss is .* at step 4; lower --learning-rate"):
        trained("tofe", tmp_path / "run")

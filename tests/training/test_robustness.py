"""What a training run survives: SIGKILL, a disk that fills up, images that break on the way. Nothing of it loses the run."""

import json
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import killed_run
import pytest
import torch
from conftest import nearly_full_disk, tiny_tofe
from tiny_run import assert_same_weights, striped_images

from tofe_edge.budget.cost import GmacsCost
from tofe_edge.errors import InputError
from tofe_edge.training import trainer
from tofe_edge.training.batches import Source, TrainingSet
from tofe_edge.training.running import Running
from tofe_edge.training.schedule import Schedule
from tofe_edge.training.trainer import train

CPU = Running(torch.device("cpu"))
CONFIG = killed_run.CONFIG
IMAGES = 24
STEPS = Schedule.of(CONFIG, IMAGES).steps
"""24: the log has lines for 10, 20 and 24."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 noisy images, class 0 bright at the top and class 1 bright at the bottom."""
    return striped_images(tmp_path_factory.mktemp("images"), IMAGES // 2)


def training_set(folder: Path) -> TrainingSet:
    return TrainingSet.find([Source(folder)], [str(number) for number in range(10)], 0, CONFIG.seed)


def killed(folder: Path, out: Path, when: str, update: int) -> int:
    """Run in a process of its own, which dies then; the step of the state that it leaves."""
    command = [sys.executable, killed_run.__file__, str(folder), str(out), when, str(update)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return int(torch.load(out.with_suffix(".state"), weights_only=True)["step"])


def curve(out: Path) -> dict[int, dict[str, Any]]:
    """The log by step, without speeds. Of a step that was taken twice, both lines must agree."""
    found: dict[int, dict[str, Any]] = {}
    for line in out.with_suffix(".log.jsonl").read_text().splitlines():
        record = json.loads(line)
        del record["images_per_second"]
        assert found.setdefault(record["step"], record) == record
    return found


Run = Callable[[Path], dict[str, torch.Tensor]]
Undisturbed = tuple[dict[str, torch.Tensor], dict[int, dict[str, Any]]]


@pytest.fixture
def run(folder: Path) -> Iterator[Run]:
    """Train a fresh net to ``out``, and return its weights."""

    def finished(out: Path) -> dict[str, torch.Tensor]:
        model = tiny_tofe()
        train(model, training_set(folder), CONFIG, GmacsCost(model.backbone.spec, 0.0017), out, CPU)
        return {key: value.clone() for key, value in model.state_dict().items()}

    # As in the process that is killed: sums in another order are other numbers.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield finished
    torch.set_num_threads(threads)


@pytest.fixture
def undisturbed(tmp_path: Path, run: Run) -> Undisturbed:
    """Weights and loss curve of a run in one go."""
    out = tmp_path / "undisturbed.safetensors"
    weights = run(out)
    assert list(curve(out)) == [10, 20, STEPS]
    return weights, curve(out)


def test_a_run_that_is_killed_again_and_again_follows_the_same_loss_curve(
    tmp_path: Path, folder: Path, run: Run, undisturbed: Undisturbed
) -> None:
    out = tmp_path / "net.safetensors"
    assert killed(folder, out, "between", 12) == 9, "steps 10 and 11 are lost, and step 10 is in the log"
    assert killed(folder, out, "saving", 4) == 12, "step 15 was on the disk by half"
    assert_same_weights(run(out), undisturbed[0])
    assert curve(out) == undisturbed[1]


def test_a_disk_that_fills_up_while_training_leaves_the_state_before_and_the_run_goes_on_from_it(
    tmp_path: Path, run: Run, undisturbed: Undisturbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, updates, update = tmp_path / "net.safetensors", [0], torch.optim.AdamW.step

    def filling(self: torch.optim.AdamW, closure: None = None) -> Any:
        updates[0] += 1
        if updates[0] == 6:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        return update(self, closure)

    with monkeypatch.context() as patch, nearly_full_disk(resource.RLIM_INFINITY):
        patch.setattr(trainer, "SAVE_EVERY_SECONDS", -1.0)
        patch.setattr(torch.optim.AdamW, "step", filling)
        with pytest.raises(InputError, match=r"net\.state: cannot be written"):
            run(out)
    assert torch.load(out.with_suffix(".state"), weights_only=True)["step"] == 5
    assert_same_weights(run(out), undisturbed[0])
    assert curve(out) == undisturbed[1]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a file on a full disk, which Linux has")
def test_a_log_on_a_full_disk_is_an_error_and_the_state_stays(
    tmp_path: Path, run: Run, undisturbed: Undisturbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, log = tmp_path / "net.safetensors", tmp_path / "net.log.jsonl"
    log.symlink_to("/dev/full")
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "SAVE_EVERY_SECONDS", -1.0)
        with pytest.raises(
            InputError, match=r"net\.log\.jsonl: cannot be written \(No space left on device\); free some"
        ):
            run(out)
    assert torch.load(out.with_suffix(".state"), weights_only=True)["step"] == 9
    log.unlink()
    assert_same_weights(run(out), undisturbed[0])


def test_images_that_break_while_a_run_is_stopped_are_left_out_and_counted(tmp_path: Path, folder: Path) -> None:
    copies = tmp_path / "images"
    for path in folder.rglob("*.png"):
        (copies / path.parent.name).mkdir(parents=True, exist_ok=True)
        (copies / path.parent.name / path.name).write_bytes(path.read_bytes())
    data, config = training_set(copies), replace(CONFIG, epochs=2)
    broken = [copies / "0" / "3.png", copies / "1" / "7.png"]
    broken[0].write_bytes(broken[0].read_bytes()[:1000])
    broken[1].unlink()
    model = tiny_tofe()
    result = train(model, data, config, GmacsCost(model.backbone.spec, 0.0017), tmp_path / "net.safetensors", CPU)
    assert result.steps == Schedule.of(config, IMAGES).steps == 6
    assert result.unreadable == 2 * len(broken), "each of them once an epoch"
    assert all(bool(torch.isfinite(value).all()) for value in model.state_dict().values())

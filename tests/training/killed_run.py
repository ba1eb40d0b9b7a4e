"""A training run of a tiny net that kills itself: ``python killed_run.py DATA OUT WHEN UPDATE``.

``WHEN`` is ``between``, with nothing being written, or ``saving``, with half of a state on the disk; ``UPDATE`` counts the
updates of this process. State is saved after every third step, so that most kills lose steps.
"""

import math
import os
import signal
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from conftest import tiny_tofe

from tofe_edge.budget.cost import GmacsCost
from tofe_edge.training import trainer
from tofe_edge.training.batches import Source, TrainingSet
from tofe_edge.training.recipe import TrainingConfig
from tofe_edge.training.running import Running
from tofe_edge.training.trainer import train

CONFIG = TrainingConfig(
    target_gmacs=0.0017, epochs=8, fixed_epochs=2, batch_size=8, budget_weight=3e6, noise_decay_start=0.5, held_out=0
)
SAVE_EVERY_STEPS = 3


def kill() -> None:
    """Without a chance to tidy up."""
    os.kill(os.getpid(), signal.SIGKILL)


def run(data: Path, out: Path, when: str, at: int) -> None:
    """Train until then."""
    updates = 0
    update, save = torch.optim.AdamW.step, torch.save

    def counted(self: torch.optim.AdamW, closure: None = None) -> Any:
        nonlocal updates
        updates += 1
        if when == "between" and updates == at:
            kill()
        trainer.SAVE_EVERY_SECONDS = -1.0 if updates % SAVE_EVERY_STEPS == 0 else math.inf
        return update(self, closure)

    def cut_short(content: Any, path: Path) -> None:
        save(content, path)
        if when == "saving" and updates >= at:
            os.truncate(path, path.stat().st_size // 2)
            kill()

    model = tiny_tofe()
    samples = TrainingSet.find([Source(data)], [str(number) for number in range(10)], CONFIG.held_out, CONFIG.seed)
    with (
        patch.object(trainer, "SAVE_EVERY_SECONDS", math.inf),
        patch.object(torch.optim.AdamW, "step", counted),
        patch.object(torch, "save", cut_short),
    ):
        train(model, samples, CONFIG, GmacsCost(model.backbone.spec, 0.0017), out, Running(torch.device("cpu")))


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))

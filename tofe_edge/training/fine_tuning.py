"""Fine-tuning a dense net on labelled pictures."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from tofe_edge.errors import InputError
from tofe_edge.io.dataset import Sample
from tofe_edge.io.progress import progress_bar
from tofe_edge.model.backbones import BackboneAdapter
from tofe_edge.model.tofe import ToFe
from tofe_edge.training.batches import batches, normalized
from tofe_edge.training.losses import classification_loss
from tofe_edge.training.recipe import HyperParameters
from tofe_edge.training.schedule import set_one_rate

_WARM_UP_SHARE = 0.1


def fine_tune(
    backbone: BackboneAdapter, samples: Sequence[Sample], epochs: float, config: HyperParameters, device: torch.device
) -> BackboneAdapter:
    """A copy of the net, all of it trained with cross entropy on random crops.

    The head should fit already: gradients of one that does not would spoil the features (Kumar et al. 2022).

    Raises:
        InputError: none of the pictures of a batch can be read, or loss or gradient are not finite.
    """
    net = copy.deepcopy(backbone).to(device)
    whole = ToFe(net)
    batch_size = min(config.batch_size, len(samples))
    steps = max(1, round(epochs * len(samples) / batch_size))
    warm_up = max(1.0, _WARM_UP_SHARE * steps)
    decayed = [one for one in net.parameters() if one.ndim > 1]
    others = [one for one in net.parameters() if one.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    )
    # The seed is not that of later training: other crops of the same pictures.
    stream = batches(
        samples, net.preprocessing.image_size, batch_size, range(steps), config.seed + 1, config.augmentation
    )
    with progress_bar("fine-tuning the dense net", total=steps, unit="step") as bar:
        for batch in stream:
            set_one_rate(optimizer, config.backbone_learning_rate, batch.step, steps, warm_up)
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
                logits = whole.forward_dense(normalized(batch.pixels.to(device), net.preprocessing))
                loss: Tensor = classification_loss(logits, batch.labels.to(device))
            loss.backward()  # type: ignore[no-untyped-call]
            norm = torch.nn.utils.clip_grad_norm_(net.parameters(), config.gradient_clip)
            if not (torch.isfinite(loss) and torch.isfinite(norm)):
                raise InputError(
                    f"fine-tuning: the loss is {float(loss.detach()):g} with a gradient of {float(norm):g} at step {batch.step + 1}; "
                    "lower backbone_learning_rate"
                )
            optimizer.step()
            bar.update()
    return net.to("cpu").eval()

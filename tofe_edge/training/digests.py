"""Digests by which an interrupted run, or views of an earlier one, are told from those of another."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from torch import nn

from tofe_edge.io.dataset import Sample


def weights_digest(net: nn.Module) -> str:
    """SHA-256 of the names and values of all weights and buffers."""
    digest = hashlib.sha256()
    for name, tensor in net.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def samples_digest(samples: Sequence[Sample]) -> str:
    """SHA-256 of the names and labels of the images, in order; not of what is in them."""
    digest = hashlib.sha256()
    for sample in samples:
        name = f"{sample.location.parent.name}/{sample.location.name}\0{sample.label}\n"
        digest.update(name.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()

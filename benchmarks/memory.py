"""Will a batch fit the memory? A CPU that has too little ends the process, with no error that could be caught."""

from __future__ import annotations

from pathlib import Path

import torch

from tofe_edge.model.backbones import Backbone

_FLOAT = 4
# Kernels' scratch and what the allocator does not give back: a process grew by 1.9 times the tensors below with 32
# images of DeiT-Small, by 1.4 (dense) and 1.8 times (ToFe) with 16 of LV-ViT-S.
_OVERHEAD = 2
_MEMINFO = Path("/proc/meminfo")


def activation_bytes(backbone: Backbone, batch: int) -> int:
    """By how much a process grows with a batch in fp32, dense or ToFe, to within a factor of 1.5.

    Its tensors at the peak are the input, and the larger of a layer of the stem and a block's MLP with its residual
    stream; attention holds less, as it makes no matrix of all pairs of tokens.
    """
    pixels = backbone.image_size**2
    stem = max(pixels // conv.downsampling**2 * conv.out_channels for conv in backbone.stem)
    tokens = backbone.patch_tokens + backbone.prefix_tokens
    block = tokens * (backbone.mlp_hidden + backbone.dim)
    # Twice: a layer's input is there while its output is made.
    return _OVERHEAD * _FLOAT * batch * (3 * pixels + 2 * max(stem, block))


def available_bytes(meminfo: Path = _MEMINFO) -> int | None:
    """Memory of the machine that a program can have without swapping; ``None`` where the system does not say."""
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:
        return None
    kilobytes = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(kilobytes[0]) * 1024 if kilobytes else None


def shortage(backbone: Backbone, batch: int, device: torch.device) -> str | None:
    """Why a batch does not fit; ``None`` where it may. A GPU is asked by trying: it says so itself."""
    available = available_bytes() if device.type == "cpu" else None
    needed = activation_bytes(backbone, batch)
    if available is None or needed <= available:
        return None
    return f"needs about {needed / 1e9:.1f} GB, {available / 1e9:.1f} GB are free"


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether PyTorch says that memory is short, of a GPU or of the machine."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)

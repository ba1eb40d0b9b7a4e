"""PyTorch itself: eager, and compiled by Inductor with its defaults.

Freezing the weights and ``max_autotune`` make no difference on a CPU (DeiT-Tiny, 27.1 against 27.7 and 28.0 ms
dense, 17.6 against 17.6 and 17.5 ms with ToFe) and take three times as long to compile.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.contenders.contender import Built, Pixels, Recipe, Run, Subject, Unavailable
from tofe_edge.io.quiet import quiet

_COMPILERS = ("g++", "clang++")


def _eager(subject: Subject) -> Built:
    torch.set_num_threads(subject.threads)
    return Built(_run(subject.plain()), _parameter_bytes(subject))


def _compiled(subject: Subject) -> Built:
    compiler = os.environ.get("CXX")
    if not any(shutil.which(name) for name in ((compiler,) if compiler else _COMPILERS)):
        raise Unavailable(f"torch.compile needs a C++ compiler: install {' or '.join(_COMPILERS)}, or set CXX")
    torch.set_num_threads(subject.threads)  # generated code is for this number of threads
    run = _run(torch.compile(subject.plain()))
    with quiet():
        run(subject.calibration[0])
    return Built(run, _parameter_bytes(subject))


def _run(net: Callable[[Tensor], Tensor]) -> Run:
    def run(pixels: Pixels) -> Any:
        with torch.no_grad():
            return net(torch.from_numpy(pixels)).numpy()

    return run


def _parameter_bytes(subject: Subject) -> int:
    net = subject.model.backbone if subject.counts is None else subject.model
    return sum(tensor.numel() * tensor.element_size() for tensor in net.state_dict().values())


RECIPES = (
    Recipe("PyTorch eager", "fp32", _eager),
    Recipe("torch.compile", "fp32", _compiled),
)

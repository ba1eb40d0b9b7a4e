"""What is compared: a net as it is given to every runtime, and a runtime that has built it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tofe_edge.converters.decompose import StaticLayers
from tofe_edge.converters.pipeline import export
from tofe_edge.converters.request import Build, Calibration, ConvertRequest
from tofe_edge.converters.static_graph import StaticToFe
from tofe_edge.errors import InputError
from tofe_edge.io.artifact import DEFAULT_METHOD
from tofe_edge.io.labels import default_classes
from tofe_edge.io.targets import Lowered, Target
from tofe_edge.model.backbones import TokenCounts
from tofe_edge.model.checkpoint import describe
from tofe_edge.model.tofe import KEEP, ToFe

Pixels: TypeAlias = npt.NDArray[np.float32]
"""A model input ``(1, 3, H, W)``."""

Run: TypeAlias = Callable[[Pixels], npt.NDArray[np.float32]]
"""One inference: pixels ``(1, 3, H, W)`` to logits ``(1, classes)``."""

EXTRA = "benchmarks"
"""The extra of this package that installs the peers."""


class Unavailable(Exception):  # noqa: N818 - no error: the comparison goes on without this one
    """A runtime cannot be built here; the message says what is missing and how to get it."""


class _Layer(nn.Module):
    """A method of the backbone as a module."""

    def __init__(self, backbone: nn.Module, method: str, *first: int) -> None:
        super().__init__()
        self.backbone, self.method, self.first = backbone, method, first

    def forward(self, tokens: Tensor, log_sizes: None = None) -> Tensor:
        out: Tensor = getattr(self.backbone, self.method)(*self.first, tokens)
        return out


class _Score(nn.Module):
    """How much a selector wants each token."""

    def __init__(self, selector: nn.Module) -> None:
        super().__init__()
        self.selector = selector

    def forward(self, patches: Tensor) -> Tensor:
        logits: Tensor = self.selector(patches)
        return logits[..., KEEP] - logits[..., 1 - KEEP]


def _plain_static(model: ToFe, counts: TokenCounts | None) -> StaticToFe:
    """The converters' static graph around layers of which none is rewritten."""
    backbone, spec = model.backbone, model.backbone.spec
    if spec.merges and counts is not None:
        raise InputError(f"{spec.name}: merges tokens, and the graph of other runtimes does not")
    blocks = [_Layer(backbone, "block", index) for index in range(spec.depth)]
    layers = StaticLayers(
        replace(spec, reduction="paper"), _Layer(backbone, "embed"), blocks, _Layer(backbone, "logits"), "logits"
    )
    if counts is None:
        return StaticToFe(layers, (), (), ())
    selectors = [_Score(selector) for selector in model.selectors]
    return StaticToFe(layers, selectors, list(model.approximators), counts.check(spec).kept)


class PlainToFe(nn.Module):
    """The ToFe net as a peer runtime likes it best: image ``(1, 3, H, W)`` to logits ``(1, classes)``.

    LayerNorm stays ``nn.LayerNorm``, attention stays ``scaled_dot_product_attention`` behind one fused qkv product; ToFe
    adds one ``topk`` and one ``index_select`` per stage. Shares its parameters with ``model``; ``counts`` is ``None`` for the
    dense backbone.

    Raises:
        InputError: the counts do not fit the backbone.
    """

    def __init__(self, model: ToFe, counts: TokenCounts | None) -> None:
        super().__init__()
        self.static = _plain_static(model, counts)
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.static(image)[0]
        return logits


@dataclass(frozen=True)
class Subject:
    """One net, the same for every runtime."""

    group: str
    """``"dense"`` or ``"ToFe"``."""
    model: ToFe
    counts: TokenCounts | None
    """Patch tokens kept per stage; ``None`` runs the dense backbone."""
    calibration: tuple[Pixels, ...]
    threads: int
    pinned: bool
    """The process is bound to some of the machine's cores, so that no runtime should choose cores itself."""

    def plain(self) -> PlainToFe:
        """The graph that peers get."""
        return PlainToFe(self.model, self.counts)

    def example(self) -> torch.Tensor:
        """An input of the right shape to trace with: a natural image, no zeros that a tracer could fold."""
        return torch.from_numpy(self.calibration[0])


def exported(subject: Subject, target: Target, precision: str) -> Lowered:
    """What a target makes of a subject, by the pipeline that ``tofe-edge convert`` goes through."""
    host, counts = subject.model.backbone, subject.counts
    header = describe(subject.group, host.spec, host.preprocessing, default_classes(host.spec.classes), counts)
    images = tuple(torch.from_numpy(pixels.copy()) for pixels in subject.calibration)
    request = ConvertRequest(
        header, target, precision, None, f"net{target.suffix}", calibration=Calibration(images, None)
    ).check()
    return export(Build(request, subject.model, host.preprocessing, {DEFAULT_METHOD: counts}, images)).lowered


def plain_graph(_graph: Any, build: Build) -> PlainToFe:
    """A target's ``rewrite``: the graph that peers get, in place of ours."""
    return PlainToFe(build.model, build.budgets[DEFAULT_METHOD])


@dataclass(frozen=True)
class Contender:
    """A net that is built, loaded and ready to run with the subject's number of threads."""

    name: str
    """``"dense, ONNX Runtime fp32"``: unique in a comparison."""
    group: str
    runtime: str
    precision: str
    run: Run
    size_bytes: int
    """Bytes of the model file; of the parameters if a runtime has no file."""
    delegates: int | None = None
    """Subgraphs handed to XNNPACK; ``None`` if the runtime knows no delegates."""


@dataclass(frozen=True)
class Built:
    """What a recipe makes."""

    run: Run
    size_bytes: int
    delegates: int | None = None


@dataclass(frozen=True)
class Recipe:
    """How one runtime builds a subject in one precision."""

    runtime: str
    precision: str
    make: Callable[[Subject], Built]
    modules: Sequence[str] = ()
    """Importable names without which it cannot."""

    def name(self, subject: Subject) -> str:
        """The contender's name."""
        return f"{subject.group}, {self.runtime} {self.precision}"

    def build(self, subject: Subject) -> Contender:
        """Build, load and set the number of threads.

        Raises:
            Unavailable: a library or tool is missing.
        """
        missing = [module for module in self.modules if find_spec(module) is None]
        if missing:
            raise Unavailable(f"{', '.join(missing)} not installed: pip install -c constraints.txt -e '.[{EXTRA}]'")
        built = self.make(subject)
        return Contender(
            self.name(subject),
            subject.group,
            self.runtime,
            self.precision,
            built.run,
            built.size_bytes,
            built.delegates,
        )


def timed_side_by_side(_artifact: object, _request: object) -> NoReturn:
    """The ``time`` of a peer's target: rivals are timed in turns, not alone."""
    raise InputError("peers are timed beside each other: python -m benchmarks.runtimes")

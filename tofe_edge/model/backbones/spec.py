"""The description of a backbone: shapes only, no weights, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, Literal

from tofe_edge.errors import InputError

OVERRIDES = {"image_size": 4096, "depth": 256, "dim": 16384, "heads": 256, "classes": 1_000_000}
"""What may differ from the published net of a name (a smaller net for tests, another resolution or label set), up to which
number: far more than any net has, and what a damaged header says is refused before memory is taken."""


@dataclass(frozen=True)
class Conv:
    """One convolution of the stem: square kernel, channels in and out, output size as a share of the input."""

    kernel: int
    in_channels: int
    out_channels: int
    downsampling: int
    """Input pixels per output pixel along one side, counted from the image."""


Reduction = Literal["paper", "merging"]
"""How tokens are selected, and what frozen ones do.

``"paper"``: a selector looks at each token alone, and frozen tokens are silent until they are thawed.
``"merging"``: a selector sees the mean token beside each one and freezes what resembles a better token; each frozen token is
averaged into the kept token most like it, and receives that token's update when it thaws. See :mod:`tofe_edge.model.merging`.
"""

Pool = Literal["token", "avg", "map"]
"""What the head reads of the last block's tokens.

``"token"``: CLS (and the distillation token). ``"avg"``: the mean of all patch tokens. ``"map"``: all patch tokens, by the
attention of a learned query (SigLIP). The latter two read frozen tokens too, which therefore thaw behind the last block.
"""

Output = Literal["logits", "embedding", "features"]
"""What a net gives.

``"logits"``: class scores ``(B, classes)``. ``"embedding"``: what the head reads, ``(B, D)``. ``"features"``: all patch tokens
behind the last norm, ``(B, N, D)``, in the order of the patches in the image.
"""

FEATURES = 32
"""Channels in which a selector that merges compares tokens."""


@dataclass(frozen=True)
class Backbone:
    """The dense vision transformer that ToFe is put on.

    ``stages`` are 0-based block indices ``(l_1, …, l_S)``; a token selector stands before each of them.
    ``overrides`` are the keyword arguments (depth, image size, …) that make this net differ from the
    published one of the same name; empty for the published one.
    """

    name: str
    image_size: int
    patch_tokens: int
    prefix_tokens: int
    dim: int
    depth: int
    heads: int
    mlp_hidden: int
    """Hidden channels of an MLP of two Linears; of a gated one, which has three, as many as have its multiply-accumulates."""
    classes: int
    stem: tuple[Conv, ...]
    stages: tuple[int, ...]
    aux_head: bool = False
    classifiers: int = 1
    """Linear heads on prefix tokens; the net averages them."""
    overrides: dict[str, int] = field(default_factory=dict, hash=False)
    reduction: Reduction = "paper"
    pool: Pool = "token"
    thaws_last: bool = False
    """Whether one more approximator thaws the tokens that the last stage froze; always, unless ``pool`` is ``"token"``."""

    @property
    def default_output(self) -> Output:
        """``"logits"``, or ``"embedding"`` if there is no head (``classes`` is 0)."""
        return "logits" if self.classes else "embedding"

    def check_output(self, output: Output | None) -> Output:
        """The same output, or the default one. Raises :class:`InputError` for the logits of a net without a head."""
        if output == "logits" and not self.classes:
            raise InputError(f"{self.name} has no classifier head, so no logits; use embedding or features")
        return output or self.default_output

    def reads_patches(self, output: Output) -> bool:
        """Whether this output is made of all patch tokens, so that those frozen in the last stage have to thaw."""
        return output == "features" or self.pool != "token"

    @property
    def merges(self) -> bool:
        """Whether frozen tokens are merged into kept ones."""
        return self.reduction == "merging"

    def stage_lengths(self) -> tuple[int, ...]:
        """Blocks per stage, stage 0 (before the first selector, all tokens) first: S + 1 numbers."""
        edges = (0, *self.stages, self.depth)
        return tuple(end - start for start, end in pairwise(edges))


@dataclass(frozen=True)
class TokenCounts:
    """``(N^1, …, N^S)``: how many patch tokens are kept in each stage. CLS is not counted."""

    kept: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.kept or any(count < 1 for count in self.kept):
            raise InputError(f"token counts {list(self.kept)}: every stage keeps at least one token")

    @classmethod
    def parse(cls, text: str) -> TokenCounts:
        """Read ``"96,49,27"``.

        Raises:
            InputError: it is not a comma-separated list of positive whole numbers.
        """
        try:
            return cls(tuple(int(part) for part in text.split(",")))
        except ValueError as error:
            raise InputError(f"token counts {text!r}: expected whole numbers such as 96,49,27") from error

    def check(self, backbone: Backbone) -> TokenCounts:
        """Return self if the counts fit ``backbone``; raise :class:`InputError` if they do not."""
        if len(self.kept) != len(backbone.stages):
            raise InputError(
                f"token counts {self}: {backbone.name} has {len(backbone.stages)} stages, not {len(self.kept)}"
            )
        if max(self.kept) > backbone.patch_tokens:
            raise InputError(f"token counts {self}: {backbone.name} has only {backbone.patch_tokens} patch tokens")
        return self

    def __str__(self) -> str:
        return ",".join(str(count) for count in self.kept)


def backbone_to_json(backbone: Backbone) -> dict[str, Any]:
    """What a checkpoint header stores to build the same backbone again."""
    document = {"name": backbone.name, "overrides": dict(backbone.overrides), "shape": _shape(backbone)}
    own = {"reduction": backbone.reduction, "thaws_last": backbone.thaws_last}
    return document | {key: value for key, value in own.items() if value not in ("paper", False)}


def _shape(backbone: Backbone) -> dict[str, Any]:
    fields = asdict(backbone)
    for redundant in ("name", "overrides", "stem", "classifiers", "reduction", "pool", "thaws_last"):
        fields.pop(redundant)
    return fields


def activation_of(module: object) -> str | None:
    """The kind of an activation by its class, PyTorch's or timm's; ``None`` if it is not one that can be exported."""
    name = type(module).__name__
    if name == "GELU" and getattr(module, "approximate", "none") == "tanh":
        name = "GELUTanh"
    kinds = {"GELU": "gelu", "GELUTanh": "gelu_tanh", "QuickGELU": "quick_gelu", "SiLU": "silu", "ReLU": "relu"}
    return kinds.get(name)


def default_stages(depth: int) -> tuple[int, int, int]:
    """Blocks before which a selector stands: a quarter, a half and three quarters of the way.

    Gives (3, 6, 9) for DeiT, (4, 8, 12) for LV-ViT-S, (5, 10, 15) for LV-ViT-M, as the paper's baselines.

    Raises:
        InputError: fewer than four blocks.
    """
    if depth < 4:
        raise InputError(f"depth {depth}: ToFe's three stages need at least four blocks")
    return depth // 4, depth // 2, 3 * depth // 4


def check_stages(stages: Sequence[int], depth: int) -> tuple[int, ...]:
    """The same stages, if a net of this depth can have them.

    Raises:
        InputError: a selector would stand before the first block, behind the last one, or two before the same one.
    """
    edges = (0, *stages, depth)
    if len(stages) < 2 or any(end <= start for start, end in pairwise(edges)):
        raise InputError(
            f"selections before blocks {', '.join(map(str, stages)) or 'none'}: need at least two, in ascending order, from 1 to "
            f"{depth - 1}"
        )
    return tuple(stages)


def parse_stages(text: str) -> tuple[int, ...]:
    """Read ``"1,4,8"``. Raises :class:`InputError` if it is not a list of whole numbers."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"selections {text!r}: expected block numbers from 0, such as 3,6,9") from error

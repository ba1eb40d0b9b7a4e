"""A trained net at another input size: more or fewer patch tokens, the same weights."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

from tofe_edge.errors import InputError
from tofe_edge.io.preprocessing import Preprocessing
from tofe_edge.model.backbones import Backbone, TokenCounts
from tofe_edge.model.tofe import ToFe

MAX_IMAGE_SIZE = 1024
"""Attention grows with the fourth power of the side: beyond this a plain vision transformer is the wrong net."""

MIN_SIDE = 2
"""Patches along one side of the smallest input: a single patch leaves nothing to select from."""


@dataclass(frozen=True)
class Resized:
    """A net at another input size, and what goes with it."""

    model: ToFe
    """In eval mode; shares no tensor with the net it was made from."""
    counts: TokenCounts | None
    """Patch tokens kept per stage, the same share of all; ``None`` for a dense backbone."""
    preprocessing: Preprocessing


def at_image_size(model: ToFe, counts: TokenCounts | None, preprocessing: Preprocessing, image_size: int) -> Resized:
    """The same net for inputs ``(B, 3, image_size, image_size)``; ``model`` is left as it is.

    All weights are kept but the position embedding of the patch tokens, which is interpolated (bicubic with
    antialiasing). Each stage keeps the same share of tokens: ``N^s' = round(N^s N' / N)``, see
    :func:`scale_counts`. At the size it has already, the net is a plain copy.

    Args:
        counts: patch tokens kept per stage at the present size; ``None`` for a dense backbone.
        preprocessing: of the present size; nothing but its size changes.
        image_size: side of the square input in pixels.

    Raises:
        InputError: as :func:`check_image_size`, or the counts do not fit the backbone.
    """
    spec = model.backbone.spec
    check_image_size(spec, image_size)
    if counts is not None:
        counts.check(spec)
    if image_size == spec.image_size:
        resized = copy.deepcopy(model)
    else:
        resized = ToFe(model.backbone.resized(image_size))
        # Selectors and approximators work on each token by itself and know no grid.
        resized.selectors.load_state_dict(model.selectors.state_dict())
        resized.approximators.load_state_dict(model.approximators.state_dict())
    if counts is not None:
        counts = scale_counts(counts, spec.patch_tokens, resized.backbone.spec.patch_tokens)
    return Resized(resized.eval(), counts, replace(preprocessing, image_size=image_size))


def check_image_size(backbone: Backbone, image_size: int) -> None:
    """Refuse an input size that the backbone cannot be built for.

    Raises:
        InputError: not a multiple of the patch size, fewer than 2 patches per side, or more than 1024 pixels.
    """
    patch = patch_size(backbone)
    smallest, largest = MIN_SIDE * patch, MAX_IMAGE_SIZE // patch * patch
    if image_size % patch == 0 and smallest <= image_size <= largest:
        return
    below = image_size // patch * patch
    near = sorted({min(max(size, smallest), largest) for size in (below, below + patch)})
    raise InputError(
        f"image size {image_size} does not fit {backbone.name}: it must be a multiple of {patch} "
        f"(the side of a patch) from {smallest} to {largest}; try {' or '.join(map(str, near))}"
    )


def patch_size(backbone: Backbone) -> int:
    """Side of the square of pixels that becomes one patch token."""
    return backbone.stem[-1].downsampling


def scale_counts(counts: TokenCounts, patch_tokens: int, new_patch_tokens: int) -> TokenCounts:
    """The same share of another number of patch tokens: ``max(1, floor(N^s N' / N + 1/2))``.

    Args:
        counts: patch tokens kept per stage, none above ``patch_tokens``; so no result is above ``new_patch_tokens``.
        patch_tokens: N, all patch tokens that the counts are of.
        new_patch_tokens: N', all patch tokens of the other size.
    """
    # Whole numbers throughout: floats would round some halves down.
    return TokenCounts(
        tuple(max(1, (2 * kept * new_patch_tokens + patch_tokens) // (2 * patch_tokens)) for kept in counts.kept)
    )

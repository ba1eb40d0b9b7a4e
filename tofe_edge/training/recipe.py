"""Recipes: how a net is trained, apart from its weights, images and target. Files of them, and ``--set key=value``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from tofe_edge.errors import InputError, did_you_mean, quoted
from tofe_edge.model.backbones.spec import TokenCounts

_SHIPPED = Path(__file__).with_name("recipes")
_POSITIVE = ("epochs", "batch_size", "learning_rate", "backbone_learning_rate", "gradient_clip")
_NOT_NEGATIVE = (
    "cls_weight", "approximation_weight", "budget_weight", "distillation_weight", "weight_decay",
    "fixed_epochs", "gathered_epochs", "crops", "held_out", "final_learning_rate",
)  # fmt: skip
_SHARES = ("crop_scale", "noise_decay_start")


@dataclass(frozen=True)
class Augmentation:
    """What a crop is drawn with."""

    crop_scale: float
    """Least share of an image's area."""
    cutmix: float = 0.0
    """Share of a batch's crops that get a rectangle of another one."""
    crops: int = 0
    """Different ones per image, seen in turns; 0: a fresh one in each epoch."""


@dataclass(frozen=True)
class HyperParameters:
    """What a checkpoint's header records. Defaults follow the paper (Section VI-A); fields say what it leaves open."""

    epochs: float = 30.0
    fixed_epochs: float = 5.0
    """The backbone is fixed for the first of these epochs."""
    batch_size: int = 32
    learning_rate: float = 1e-4
    """The rate of selectors and approximators after warm-up; decays to ``final_learning_rate`` along a cosine."""
    backbone_learning_rate: float = 1e-4
    """The rate of the backbone once it is free (paper: the same; DynamicViT's recipe: a hundredth)."""
    gathered_epochs: float = 0.0
    """The last ones of all epochs, with the token counts fixed: blocks and approximators are trained in the form that is
    exported, frozen tokens left out, at the same learning rates along a second cosine; 0 is the paper's recipe. The budget is met
    already, and a step costs a fraction."""
    token_counts: str | None = None
    """Counts of those epochs, such as ``"118,98,61"``, or several with semicolons between them, for a net that serves several
    budgets: each step then learns at all of them, each image at one. ``None``: those that the start was reduced for, or what the
    selectors have learned to keep."""
    final_learning_rate: float = 2e-6
    weight_decay: float = 0.05
    """Applies to matrices only. Not in the paper; the recipe of the family."""
    cls_weight: float = 1.0
    approximation_weight: float = 2.0
    budget_weight: float = 5.0
    """The weight of a gap in GMACs, squared. A gap in milliseconds weighs as much as the same share of the dense net's GMACs."""
    distillation_weight: float = 0.0
    """The weight of the KL divergence to the dense teacher's logits; 0 is the paper's recipe."""
    budget: Literal["per_sample", "per_batch"] = "per_sample"
    """Eq. 14 squares each sample's gap; ``per_batch`` squares the gap of the batch mean."""
    noise_decay_start: float = 1.0
    """Share of the steps that mask tokens (all before the gathered epochs) after which the Gumbel noise falls linearly to
    zero, reached halfway through what is left of them; 1 keeps it to the end (the paper says nothing). With the noise on
    to the end, selectors of a short run stay undecided: the counts sampled in training and those without noise differ by
    20 tokens, and the net never sees the selection that it will run with."""
    crops: int = 0
    """Different crops per image, seen in turns by the epochs; the teacher's logits for them are kept on disk, see ``logits_dir``. 0 draws
    fresh crops in each epoch."""
    ema: float = 0.0
    """Decay per step of a running mean of the weights, which is what is kept in the end; 0: the last weights are."""
    crop_scale: float = 0.35
    """Least share of an image's area in a random crop."""
    cutmix: float = 0.0
    """Share of the crops that get a rectangle of another one; for distillation alone, as no label fits them."""
    gradient_clip: float = 5.0
    seed: int = 0
    held_out: int = 256
    """Images kept out of training, on which token counts are measured at the end."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise InputError(f"training: {name} must be a finite number, not {value}")
            if name in _POSITIVE and not value > 0:
                raise InputError(f"training: {name} must be greater than 0, not {value}")
            if name in _NOT_NEGATIVE and value < 0:
                raise InputError(f"training: {name} must not be negative, not {value}")
            if name in _SHARES and not 0 < value <= 1:
                raise InputError(f"training: {name} must lie in (0, 1], not {value}")
        if not 0 <= self.seed < 2**31:
            raise InputError(f"training: seed must lie in [0, 2^31), not {self.seed}")
        if not 0 <= self.cutmix <= 1:
            raise InputError(f"training: cutmix must lie in [0, 1], not {self.cutmix}")
        if self.cutmix and self.crops:
            raise InputError("training: crops that come again are not mixed; set cutmix or crops to 0")
        if self.crops and not self.distillation_weight:
            raise InputError("training: crops are for distillation; set distillation_weight, or leave them out")
        if not 0 <= self.ema < 1:
            raise InputError(f"training: ema must lie in [0, 1), not {self.ema}")
        if self.cutmix and self.cls_weight:
            raise InputError("training: no label fits an image that cutmix mixed; set cls_weight to 0 and distil")

    @property
    def augmentation(self) -> Augmentation:
        """The way crops are drawn."""
        return Augmentation(self.crop_scale, self.cutmix, self.crops)


@dataclass(frozen=True)
class Recipe(HyperParameters):
    """Everything that a recipe file or ``--set`` may say: hyper-parameters, and the settings of one run."""

    backbone: str = "deit_tiny_patch16_224"
    """``lvvit_s``, ``lvvit_m`` or a timm vision transformer."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """What to train on."""
    profile: str | None = None
    """The device profile whose latency table holds a target in milliseconds, from ``tofe-edge calibrate``."""
    select_before: str | None = None
    """Blocks before which tokens are selected, from 0, such as ``"1,4,8"``; ``None``: those of the start, or the paper's
    quarter, half and three quarters of the way. Small budgets want earlier ones."""
    start_share: float | None = None
    """Begin at this share of the way from the dense backbone to that of the start, in [0, 1]: undoes what a long run
    learned by heart from few images (WiSE-FT, Wortsman et al. 2022). ``None``: at the start."""
    logits_dir: Path | None = None
    """Folder of the teacher's logits for ``crops``, for several runs; ``None``: beside the checkpoint."""
    workers: int | None = None
    """Processes that decode images beside each one that trains; ``None``: as many as there are cores left, 8 at most."""
    parts: int = 1
    """Parts of a step's batch that a process trains on one after another, for want of memory."""
    autocast: Literal["auto", "bf16", "off"] = "auto"
    """What products are computed in: ``auto`` is bf16 on a GPU for nets that do not merge tokens, else fp32."""
    compile: Literal["off", "blocks"] = "off"
    """Whether blocks are compiled by torch.compile, which takes a while at the start."""
    center_on: Path | None = None
    """Images like those that the net will see, prepared as the validation images are, with labels or without: at the end
    selectors are moved so that instance mode keeps N^s tokens of them on average. ``None``: held-out images."""
    precision: Literal["int8", "fp32"] | None = None
    """Which latency table a target in milliseconds is held by; ``None``: the profile's choice."""
    validation_resize: Literal["short_side", "none"] = "short_side"
    """How validation images are resized, as ``evaluate --resize``."""
    validation_name: str | None = None
    """What the header calls the validation images; ``None``: the folder's name."""
    fine_tune: float | None = None
    """Own classes: epochs of the dense net before it is reduced, kept if it is better on pictures set aside; 0: the head alone learns;
    ``None``: 5 at most, if that takes some minutes and the head alone is not good already."""
    name: str | None = None
    """The checkpoint's name; ``None``: that of its file."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.logits_dir is not None and not self.crops:
            raise InputError(
                "training: logits_dir is where logits of crops are kept; say how many per image with --set crops=N"
            )
        if self.parts < 1 or (self.workers or 0) < 0:
            raise InputError(
                f"training: parts must be at least 1 and workers at least 0, not {self.parts} and {self.workers}"
            )
        if self.fine_tune is not None and not 0 <= self.fine_tune < math.inf:
            raise InputError(f"training: fine_tune must be a number of epochs, not {self.fine_tune}")
        if self.start_share is not None and not 0 <= self.start_share <= 1:
            raise InputError(f"training: start_share must lie in [0, 1], not {self.start_share}")

    def hyper_parameters(self) -> dict[str, Any]:
        """Return the fields of :class:`HyperParameters`."""
        return {field.name: getattr(self, field.name) for field in fields(HyperParameters)}


KEYS: dict[str, Any] = {field.name: field.default for field in fields(Recipe)}
"""Every key of a recipe and its default."""


def shipped_recipes() -> list[str]:
    """Return the names of the recipes that come with the program."""
    return sorted(path.stem for path in _SHIPPED.glob("*.yaml"))


def read_recipe(name: str | None = None, settings: Sequence[str] = ()) -> Recipe:
    """Return a shipped recipe or a file, with ``settings`` (``"key=value"``, the last one counts) in place of its own values.

    Args:
        name: a shipped name or the path of a YAML file; ``None``: the defaults.

    Raises:
        InputError: there is no such recipe, or a key or value is not one of a recipe's.

    >>> read_recipe("reduced", ["epochs=2", "seed=7"]).epochs
    2.0
    """
    values: dict[str, Any] = {}
    if name is not None:
        path = _SHIPPED / f"{name}.yaml" if name in shipped_recipes() else Path(name)
        values = _load(path)
        _check(values, path)
    own: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise InputError(f"--set {setting}: expected key=value, such as --set epochs=3")
        own[key] = value or None
    return _check({**values, **own}, "--set")


def _load(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        names = " or ".join(shipped_recipes())
        raise InputError(
            f"--recipe {path}: cannot be read ({error.strerror or error}); give {names}, or a YAML file"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is not YAML ({' '.join(str(error).split())[:120]})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a mapping of recipe keys to values, such as epochs: 3")
    return content


def _check(values: Mapping[str, Any], source: Path | str) -> Recipe:
    """Return a recipe from plain values. Raises :class:`InputError` naming the source and the key."""
    for key, value in values.items():
        if isinstance(value, bool):  # which Python takes for a number
            raise InputError(f"{source}: {key}: expected a number or a text, not {str(value).lower()}")
    try:
        return TypeAdapter(Recipe).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0]) if first["loc"] else "recipe"
        if key not in KEYS:
            raise InputError(f"{source}: {key}: not a key of a recipe{did_you_mean(key, KEYS)}") from error
        raise InputError(f"{source}: {key}: {first['msg']}, not {quoted(str(first['input']))}") from error


_TARGETS = ("target_gmacs", "target_ms")


@dataclass(frozen=True)
class TrainingConfig(HyperParameters):
    """Hyper-parameters and what they are to reach."""

    target_gmacs: float | None = None
    """Whole-net budget, in 1e9 multiply-accumulates. Either this or the next."""
    target_ms: float | None = None
    """Whole-net budget, in milliseconds that a device's latency table predicts."""
    latency_table: str | None = None
    """Which table that is: its fingerprint, so that a run does not go on with another one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        targets = {name: getattr(self, name) for name in _TARGETS if getattr(self, name) is not None}
        if len(targets) != 1:
            raise InputError("training: a run has one target, either target_gmacs or target_ms")
        for name, target in targets.items():
            if not 0 < target < float("inf"):
                raise InputError(f"training: {name} must be a finite number greater than 0, not {target}")
        if self.latency_table is not None and self.target_ms is None:
            raise InputError("training: latency_table is for a target in milliseconds, and this one is in GMACs")
        if self.budgets() and not self.gathered_epochs:
            raise InputError("training: token_counts are for gathered epochs, and there are none")

    def budgets(self) -> tuple[TokenCounts, ...]:
        """The token counts that are set, the main ones first; none: they are learned. Raises :class:`InputError` if they are not counts."""
        return tuple(map(TokenCounts.parse, self.token_counts.split(";"))) if self.token_counts else ()

    def to_json(self) -> dict[str, Any]:
        """Return all fields that are set, for the checkpoint's header: the target first."""
        values = asdict(self)
        first = {name: values.pop(name) for name in (*_TARGETS, "latency_table")}
        return {name: value for name, value in {**first, **values}.items() if value is not None}

"""A whole training run: dense weights and images in, a checkpoint with measured counts and accuracy out."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tofe_edge.budget.cost import Cost, FittedCounts, GmacsCost, LatencyCost, latency_cost
from tofe_edge.errors import InputError, require
from tofe_edge.evaluation.preprocessing_look import look_at_preprocessing
from tofe_edge.evaluation.reference import gpu_failures, pick_device
from tofe_edge.io.files import staging_dir
from tofe_edge.model.backbones import Backbone, TokenCounts
from tofe_edge.model.backbones.spec import parse_stages
from tofe_edge.model.checkpoint import Checkpoint, check_output, describe, load_model, save
from tofe_edge.model.choices import NO_CHOICES, Choices
from tofe_edge.model.dense import DenseNet, open_dense
from tofe_edge.model.tofe import ToFe
from tofe_edge.profiles import DeviceProfile
from tofe_edge.training.accuracy import Examined, Validation, accuracy_record
from tofe_edge.training.batches import Source, TrainingSet
from tofe_edge.training.counts import (
    MeasuredCounts,
    center_selectors,
    fit_measured,
    measure_counts,
    read_images,
    typical_samples,
)
from tofe_edge.training.losses import distillation_loss
from tofe_edge.training.recipe import Recipe, TrainingConfig
from tofe_edge.training.running import ALONE, Processes, Running
from tofe_edge.training.schedule import Schedule
from tofe_edge.training.state import check_state
from tofe_edge.training.trainer import TrainingResult, train

_GIVEN_TOLERANCE = 0.02
"""Share of the target by which the cost of given counts may miss it."""

_BATCH = 16

_COUNT_TOLERANCE = 2.0
"""Tokens by which sampled and noise-free means may differ before a warning is recorded."""


_PAPER = Recipe()


@dataclass(frozen=True)
class TrainingRequest:
    """A training run: what it starts from, learns from, is to reach, and writes; see :func:`tofe_edge.workflows.train.train`."""

    data: tuple[str, ...]
    out: Path
    target_gmacs: float | None = None
    target_ms: float | None = None
    profile: DeviceProfile | None = None
    weights: Path | None = None
    pretrained: bool = False
    start: Checkpoint | None = None
    validation: Path | None = None
    recipe: Recipe = _PAPER
    choices: Choices = NO_CHOICES
    allow_empty: bool = False

    @property
    def has_budget(self) -> bool:
        """Whether tokens are to be reduced."""
        return self.target_gmacs is not None or self.target_ms is not None


def train_checkpoint(request: TrainingRequest, processes: Processes = ALONE) -> Checkpoint:
    """Train, measure token counts and accuracy, and write the checkpoint.

    An interrupted run goes on where it was when called again. Of several processes the first one measures accuracy and
    writes; the others return the header without.

    Raises:
        InputError: weights or images are unfit, or the output cannot be written.
        DeviceError: another process of the run has ended.
    """
    # 1. What can be refused is refused before hours are spent
    check_request(request)
    if request.start is not None and request.start.token_counts is not None and not request.has_budget:
        request = replace(request, target_gmacs=request.start.gmacs)
    recipe, state = request.recipe, request.out.with_suffix(".state")
    require(
        request.has_budget,
        "train needs a budget, --target-gmacs or --target-ms, as the images are of classes that the net has already",
    )
    config = _config(request)
    device = pick_device(recipe.device)
    # 2. Teacher, student, images
    # The seed is for weights of new modules; batches and noise have their own numbers, from (seed, step).
    torch.manual_seed(config.seed)
    stages = parse_stages(recipe.select_before) if recipe.select_before else None
    dense_net = open_net(request, stages)
    adapter, classes = dense_net.adapter, dense_net.header.classes
    require(classes.ids, f"{dense_net.header.name}: has no head, and training learns from one")
    cost = budget_of(request, adapter.spec)
    for counts in config.budgets():
        counts.check(adapter.spec)
    for counts in config.budgets()[:1]:
        _check_given(counts, cost)
    if isinstance(cost, LatencyCost):
        config = replace(config, latency_table=cost.fingerprint)
    teacher = ToFe(adapter)
    model = _student(request, teacher)
    data = TrainingSet.find(
        tuple(Source.parse(text) for text in request.data),
        classes.ids if config.cls_weight else None,
        config.held_out,
        config.seed,
        request.allow_empty,
    )
    _check_learned(request, config, data)
    remark = look_at_preprocessing(teacher, adapter.preprocessing, data.train)
    if state.exists():
        check_state(state, config)
    validation = None
    if request.validation is not None:
        resize, allow_empty = recipe.validation_resize, request.allow_empty
        validation = Validation.find(request.validation, classes.ids, resize, recipe.validation_name, allow_empty)
    to_center_on = typical_samples(recipe.center_on, classes.ids, config.seed) if recipe.center_on else None
    # 3. Train
    dense = validation.examine(teacher, None, "dense") if validation and processes.is_first else None
    running = Running.of(recipe, model, device, request.out, processes)
    running.share(config.batch_size)
    with gpu_failures(device, f"with batch_size {config.batch_size}"):
        result = train(model, data, config, cost, request.out, running, teacher)
    name = recipe.name or request.out.stem
    if not processes.is_first:
        return describe(name, adapter.spec, adapter.preprocessing, classes, result.counts)
    # 4. Measure token counts and set the selectors' thresholds
    images = read_images(data.counted, adapter.preprocessing)
    learned = measure_counts(model, images, config.seed)
    fitted, with_noise = (FittedCounts(result.counts, 1.0), False) if result.counts else fit_measured(learned, cost)
    as_validated = replace(adapter.preprocessing, resize=recipe.validation_resize)
    typical = read_images(to_center_on, as_validated) if to_center_on else images
    center_selectors(model, fitted.counts, typical)
    # 5. Record, measure accuracy, write
    record = {
        "budget": cost.to_json(fitted.counts.kept),
        **_record(request, config, data, result, learned),
        "counts_scaled_by": None if result.counts else round(fitted.factor, 3),
        "mean_kept_centred": [round(mean, 3) for mean in measure_counts(model, typical, config.seed).means],
        "centred_on": f"{recipe.center_on.resolve().name}, {len(typical)} images"
        if recipe.center_on
        else "held-out images",
    }
    record["warnings"] += [*dense_net.header.remarks, *([remark] if remark else []), *data.remarks]
    record["warnings"] += validation.remarks if validation else ()
    before = (request.start.training or {}).get("reduced") if request.start and request.start.budgets else None
    if before or len(config.budgets()) > 1:
        budgets = config.budgets() or (fitted.counts,)
        record["reduced"] = {**(before or {}), "outcomes": _outcomes(model, teacher, budgets, cost, images)}
    if with_noise:
        record["warnings"].append(
            "without noise the selectors keep too little or too much for any scaling to meet the target: "
            "the counts are the means with noise"
        )
    unreadable = len(dense.evaluation.unreadable) if dense else 0
    if unreadable:
        record["warnings"].append(f"{unreadable} validation images could not be read and are not counted")
    header = describe(name, adapter.spec, adapter.preprocessing, classes, fitted.counts, None, record)
    header = replace(header, sources=dense_net.header.sources)
    if validation is not None and dense is not None:
        header = replace(header, accuracy=measure_accuracy(request.out, model, header, validation, dense))
    return save(request.out, model, header)


def open_net(request: TrainingRequest, stages: tuple[int, ...] | None = None) -> DenseNet:
    """Return the dense net to learn from. Raises as :func:`tofe_edge.model.dense.open_dense`."""
    return open_dense(
        request.weights,
        request.recipe.backbone,
        request.choices,
        pretrained=request.pretrained,
        stages=stages or (request.start.stages if request.start else None),
        reduction=request.start.reduction if request.start else "paper",
    )


def check_request(request: TrainingRequest) -> None:
    """Raise :class:`InputError` if parts of the request do not belong together, or ``out`` is one of its inputs."""
    recipe, milliseconds = request.recipe, request.target_ms is not None
    wrong = {
        "profile says where --target-ms is held; --target-gmacs holds everywhere": request.profile is not None
        and not milliseconds,
        "precision is that of the latency table of --target-ms": recipe.precision is not None and not milliseconds,
        "--target-ms is held by a device's latency table; say which with --set profile=PROFILE": request.profile is None
        and milliseconds,
        "start_share is a share of the way to --start; say which": recipe.start_share is not None
        and request.start is None,
        "train needs dense weights to start from: --weights FILE, or --pretrained for timm's": request.weights is None
        and not request.pretrained,
    }
    for message, applies in wrong.items():
        require(not applies, message)
    check_output(request.out, (request.weights, request.start.path if request.start else None), "run")


def as_stored(out: Path, model: ToFe, header: Checkpoint) -> ToFe:
    """The net with the weights as they are stored, in half precision: those of a draft, which stays at ``out`` should what
    follows be interrupted.

    What an earlier call has left at ``out`` is not replaced by it, though.
    """
    with staging_dir(out.parent) as folder:
        return load_model(save(folder / out.name if out.exists() else out, model, header))


def measure_accuracy(
    out: Path, model: ToFe, header: Checkpoint, validation: Validation, dense: Examined
) -> dict[str, Any]:
    """Measure the accuracy of a net in both modes beside the dense net's, with weights :func:`as_stored`."""
    stored = as_stored(out, model, header)
    batch = validation.examine(stored, header.token_counts, "batch")
    instance = validation.examine(stored, header.token_counts, "instance")
    return accuracy_record(dense, batch, instance, validation.name)


def _config(request: TrainingRequest) -> TrainingConfig:
    """The hyper-parameters of a run. A net that `tofe-edge reduce` made knows its counts: all of its epochs are gathered, unless
    the recipe says how many."""
    values = request.recipe.hyper_parameters()
    start = request.start
    if start is not None and start.budgets and not values["gathered_epochs"]:
        values |= {"gathered_epochs": values["epochs"], "fixed_epochs": 0.0}
        if values["token_counts"] is None:
            own = [",".join(map(str, budget.counts)) for budget in start.budgets]
            values["token_counts"] = ";".join(sorted(own, key=lambda counts: counts != str(start.token_counts)))
    return TrainingConfig(**values, target_gmacs=request.target_gmacs, target_ms=request.target_ms)


def _check_learned(request: TrainingRequest, config: TrainingConfig, data: TrainingSet) -> None:
    """Raise :class:`InputError` if selections would be those of selectors that have learned nothing."""
    require(
        request.start is not None or Schedule.of(config, len(data.train)).selecting,
        "training: in gathered epochs selectors do not learn; give --start, or fewer gathered_epochs",
    )


def _check_given(counts: TokenCounts, cost: Cost) -> None:
    """Raise :class:`InputError` if given counts miss the target."""
    reached = cost.of_counts(counts.kept)
    if abs(reached / cost.target - 1) > _GIVEN_TOLERANCE:
        raise InputError(f"token_counts {counts}: cost {reached:.3g} {cost.unit}, and the target is {cost.target:g}")


def _student(request: TrainingRequest, teacher: ToFe) -> ToFe:
    """Return the net to train: the teacher's copy, or the one to start from. Raises :class:`InputError` if that is another."""
    if request.start is None:
        return copy.deepcopy(teacher)
    if request.start.token_counts is None:
        raise InputError(f"--start {request.start.name}: is a dense model; give its weights with --weights")
    student = load_model(request.start)
    own, expected = student.backbone.spec, teacher.backbone.spec
    if replace(own, stages=expected.stages) != expected:
        raise InputError(
            f"--start {request.start.name}: is a {own.name} with {own.image_size} px and {own.classes} classes, "
            "not the backbone to train"
        )
    if len(own.stages) != len(expected.stages):
        raise InputError(
            f"--start {request.start.name}: selects {len(own.stages)} times; select_before asks for {len(expected.stages)}"
        )
    begun = copy.deepcopy(teacher)
    begun.load_state_dict(student.state_dict())
    share = request.recipe.start_share
    if share is not None and share < 1:
        with torch.no_grad():
            for mine, dense in zip(begun.backbone.parameters(), teacher.backbone.parameters(), strict=True):
                mine.copy_(torch.lerp(dense, mine, share))
    return begun


@torch.no_grad()
def _outcomes(
    model: ToFe, teacher: ToFe, budgets: Sequence[TokenCounts], cost: Cost, images: Tensor
) -> list[dict[str, Any]]:
    """How far the trained net is from the dense one at each budget on images it was not trained on, as `tofe-edge reduce` says it."""
    parts = images.split(_BATCH)
    dense = torch.cat([teacher.to("cpu").forward_dense(part) for part in parts])
    outcomes = []
    for counts in budgets:
        logits = torch.cat([model.forward_batch(part, counts).logits for part in parts])
        outcomes.append(
            {
                "target": cost.target if counts == budgets[0] else round(cost.of_counts(counts.kept), 6),
                "cost": round(cost.of_counts(counts.kept), 6),
                "counts": list(counts.kept),
                "divergence": float(distillation_loss(logits, dense)),
                "agreement": 100 * float((logits.argmax(dim=1) == dense.argmax(dim=1)).float().mean()),
            }
        )
    return outcomes


def budget_of(request: TrainingRequest, backbone: Backbone) -> Cost:
    """Return what is trained to. Raises :class:`InputError` if it is out of reach, or the profile cannot tell."""
    cost: Cost
    if request.target_ms is not None:
        assert request.profile is not None, "check_request has seen to it"
        cost = latency_cost(backbone, request.target_ms, request.profile, request.recipe.precision)
    else:
        assert request.target_gmacs is not None, "a configuration has one of both"
        cost = GmacsCost(backbone, request.target_gmacs)
    cost.check()
    return cost


def _record(
    request: TrainingRequest,
    config: TrainingConfig,
    data: TrainingSet,
    result: TrainingResult,
    measured: MeasuredCounts,
) -> dict[str, Any]:
    """Return the training record of a checkpoint's header: names of folders, never paths of the machine."""
    share = request.recipe.start_share
    gaps = [abs(a - b) for a, b in zip(measured.means, measured.sampled_means)]
    warnings = []
    if result.counts is None and max(gaps) > _COUNT_TOLERANCE:
        warnings.append(
            f"sampled and noise-free token counts differ by up to {max(gaps):.1f} tokens: the selectors are not decided everywhere"
        )
    if result.unreadable:
        warnings.append(f"{result.unreadable} times an image could not be read and was left out of its batch")
    return {
        "hyper_parameters": config.to_json(),
        "start": request.start.name if request.start else start_name(request),
        **({"start_share": share} if share is not None and share < 1 else {}),
        **({"start_record": request.start.training} if request.start and request.start.training else {}),
        "teacher": start_name(request),
        "data": [Source.parse(text).folder.resolve().name + f" x{Source.parse(text).repeats}" for text in request.data],
        "images_per_epoch": len(data.train),
        "held_out_images": measured.images,
        "steps": result.steps,
        "mean_kept": [round(mean, 3) for mean in measured.means],
        "mean_kept_sampled": [round(mean, 3) for mean in measured.sampled_means],
        "device": pick_device(request.recipe.device).type,
        "torch": str(torch.__version__),
        "warnings": warnings,
    }


def start_name(request: TrainingRequest) -> str:
    """What the dense weights are called in a header."""
    return request.weights.name if request.weights else f"timm {request.recipe.backbone}"

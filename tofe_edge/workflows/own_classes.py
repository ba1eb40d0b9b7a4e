"""A net for the classes of one's own folders: a new head, fine-tuning, reduction, and training of the reduced net."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tofe_edge.errors import require
from tofe_edge.evaluation.reference import gpu_failures, pick_device
from tofe_edge.io.dataset import Sample, sample_evenly
from tofe_edge.io.labels import Classes
from tofe_edge.io.listing import merged
from tofe_edge.model.backbones import BackboneAdapter, TokenCounts
from tofe_edge.model.checkpoint import Checkpoint, check_output, describe, save
from tofe_edge.model.choices import imagenet
from tofe_edge.model.dense import DenseNet
from tofe_edge.model.macs import dense_macs, gmacs
from tofe_edge.model.tofe import ToFe
from tofe_edge.reduction.fitting import reduced_net
from tofe_edge.reduction.reduce import FEWEST_IMAGES, MOST_IMAGES, reduce_net
from tofe_edge.training.accuracy import Examined, Validation, dense_record
from tofe_edge.training.batches import Source, TrainingSet
from tofe_edge.training.counts import center_selectors, read_images
from tofe_edge.training.fine_tuning import fine_tune
from tofe_edge.training.head import Embedded, embed, fit_head, with_head
from tofe_edge.training.losses import classification_loss
from tofe_edge.training.pictures import find_pictures
from tofe_edge.training.recipe import Recipe, TrainingConfig
from tofe_edge.training.run import TrainingRequest, as_stored, budget_of, measure_accuracy, start_name
from tofe_edge.training.running import Running
from tofe_edge.training.trainer import train

_BATCH = 16
_COMPARED_ON = 512
_CENTER_ON = 256
_FINE_TUNE_EPOCHS = 5.0
_GOOD_ENOUGH = 0.05
"""Cross entropy of a head, in nats, that fine-tuning is not tried to improve without being asked."""

_QUICK_GMACS = {"cpu": 6000.0, "cuda": 300000.0}
"""What fine-tuning without being asked may take, in 1e9 multiply-accumulates of the dense net's forward: some minutes."""


@dataclass(frozen=True)
class _Data:
    """Pictures that can be used, in three parts, and what the dense net makes of the first two."""

    train: Embedded
    aside: Embedded
    held_out: Validation
    remarks: tuple[str, ...]

    @property
    def warnings(self) -> list[str]:
        """What was left out."""
        unusable = merged((*self.train.left_out, *self.aside.left_out))
        return [*self.remarks, *map(str, unusable), *self.held_out.remarks]


def train_own_classes(request: TrainingRequest, opened: DenseNet, names: tuple[str, ...]) -> Checkpoint:
    """Give a dense net a head for these classes; with a budget, reduce it too and train what comes out.

    The dense net is written in either case: beside ``out`` if that is the reduced one.

    Raises:
        InputError: pictures or options are unfit, or the output cannot be written.
    """
    # 1. What can be refused is refused first.
    recipe, out, dense = request.recipe, request.out, opened.adapter
    device = pick_device(recipe.device)
    dense_out = out.with_name(f"{out.stem}_dense.safetensors") if request.has_budget else out
    for path in {dense_out, out}:
        check_output(path, [request.weights], "run")
    require(
        dense.spec.classes != len(imagenet().ids) or not set(names) <= set(imagenet().ids),
        f"{request.data[0]}: has folders of ImageNet's classes, and the weights do not say that theirs are; add --labels imagenet",
    )
    if request.has_budget:
        budget_of(request, replace(dense.spec, classes=len(names)))
    torch.manual_seed(recipe.seed)
    # 2. Pictures, and a net for their classes.
    data = _look(request, dense, names, device)
    net, learned = _learn(recipe, dense, data, len(names), device)
    record = {
        "start": start_name(request),
        "data": [Source.parse(text).folder.resolve().name for text in request.data],
        "own_classes": learned,
        "seed": recipe.seed,
        "device": device.type,
        "torch": str(torch.__version__),
        "warnings": [*_remarks(opened, len(names)), *data.warnings],
    }
    # 3. What it is worth.
    name = recipe.name or out.stem
    header = describe(
        f"{name}_dense" if request.has_budget else name,
        net.spec, net.preprocessing, Classes(names, names), None, None, record,
    )  # fmt: skip
    sources = {**opened.header.sources, "classes": "the names of the folders"}
    header = replace(header, sources=sources)
    examined = data.held_out.examine(as_stored(dense_out, ToFe(net), header), None, "dense")
    header = replace(header, accuracy=dense_record(examined, data.held_out.name))
    saved = save(dense_out, ToFe(net), header)
    # 4. The same reduced.
    return _reduce(request, net, data, examined, saved, device) if request.has_budget else saved


def _remarks(opened: DenseNet, classes: int) -> list[str]:
    """What was decided about the weights, but that nobody named the classes of a head that is replaced."""
    remarks = [remark for remark in opened.header.remarks if "does not name its" not in remark]
    if opened.adapter.spec.classes == classes:
        remarks.append(
            f"the weights have {classes} outputs, as many as there are folders; keep that head with --labels FOLDER"
        )
    return remarks


def _look(request: TrainingRequest, dense: BackboneAdapter, names: tuple[str, ...], device: torch.device) -> _Data:
    """Find the pictures and run the dense net on those that are learned from."""
    sources = [Source.parse(text) for text in request.data]
    require(all(one.repeats == 1 for one in sources), "--data DIR:REPEATS is not for own classes; leave REPEATS out")
    folders, recipe = [one.folder for one in sources], request.recipe
    pictures = find_pictures(folders, names, request.validation is None, request.allow_empty)
    if request.has_budget:
        learned_from = len(pictures.train) + len(pictures.aside)
        require(
            learned_from >= FEWEST_IMAGES,
            f"{folders[0]}: {learned_from} pictures to learn from; a reduction needs at least {FEWEST_IMAGES}, better 1000",
        )
    if request.validation is None:
        title = recipe.validation_name or f"held-out part of {folders[0].resolve().name}"
        held_out = Validation(folders[0], pictures.held_out, recipe.validation_resize, title)
    else:
        resize, name = recipe.validation_resize, recipe.validation_name
        held_out = Validation.find(request.validation, names, resize, name, request.allow_empty)
    dense.to(device)
    with gpu_failures(device, "with the dense net alone"):
        train, aside = (embed(dense, part, device) for part in (pictures.train, pictures.aside))
    dense.to("cpu")
    for label, class_name in enumerate(names):
        require(bool((train.labels == label).any()), f"{folders[0] / class_name}: none of its pictures can be used")
    return _Data(train, aside, held_out, pictures.remarks)


def _learn(
    recipe: Recipe, dense: BackboneAdapter, data: _Data, classes: int, device: torch.device
) -> tuple[BackboneAdapter, dict[str, Any]]:
    """The dense net with a head for the classes, fine-tuned if that is better on the pictures set aside; and the record."""
    head = fit_head(data.train, data.aside, classes)
    net = with_head(dense, head)
    record: dict[str, Any] = {
        "trained_on": len(data.train.samples),
        "set_aside": len(data.aside.samples),
        "held_out": len(data.held_out.samples),
        "head_weight_decay": head.decay,
        "loss_of_head": round(head.loss(data.aside.vectors, data.aside.labels), 4),
        "fine_tuned": None,
    }
    epochs = recipe.fine_tune
    if epochs is None:
        seen = _QUICK_GMACS[device.type] / gmacs(dense_macs(net.spec))
        epochs = min(_FINE_TUNE_EPOCHS, round(seen / len(data.train.samples), 2))
        if epochs < 1 or record["loss_of_head"] < _GOOD_ENOUGH:
            epochs = 0
    if not epochs:
        return net, record
    with gpu_failures(device, f"with batch_size {recipe.batch_size}"):
        tuned = fine_tune(net, data.train.samples, epochs, recipe, device)
    nets = [ToFe(one).forward_dense for one in (net, tuned)]
    before, after = _losses(nets, data.aside.samples, net)
    record["fine_tuned"] = {"epochs": epochs, "loss_before": before, "loss": after, "kept": after < before}
    return (tuned if after < before else net), record


def _reduce(
    request: TrainingRequest,
    net: BackboneAdapter,
    data: _Data,
    examined: Examined,
    dense: Checkpoint,
    device: torch.device,
) -> Checkpoint:
    """Reduce the net to the budget, train it if that is better on the pictures set aside, and write it."""
    recipe, out = request.recipe, request.out
    cost = budget_of(request, net.spec)
    pictures = sample_evenly([*data.train.samples, *data.aside.samples], MOST_IMAGES, recipe.seed)
    model, counts, report = reduce_net(net, read_images(pictures, net.preprocessing), cost, (), recipe.seed)
    spec = model.backbone.spec
    cost = replace(cost, backbone=spec)
    config = _config(recipe, request, counts)
    training = TrainingSet(data.train.samples, data.aside.samples)
    trained, teacher = copy.deepcopy(model).requires_grad_(True), reduced_net(net, spec.stages)
    with gpu_failures(device, f"with batch_size {recipe.batch_size}"):
        result = train(trained, training, config, cost, out, Running.of(recipe, trained, device, out), teacher)
    trained.eval()
    nets = [_in_batch_mode(one, counts) for one in (model, trained)]
    before, after = _losses(nets, data.aside.samples, net)
    if after < before:
        model = trained
    center_selectors(model, counts, read_images(sample_evenly(pictures, _CENTER_ON), net.preprocessing))
    record = {
        **(dense.training or {}),
        "dense": dense.path.name,
        "reduced": report.to_json(),
        "budget": cost.to_json(counts.kept),
        "hyper_parameters": config.to_json(),
        "steps": result.steps,
        "trained": {"loss_before": before, "loss": after, "kept": after < before},
    }
    header = describe(recipe.name or out.stem, spec, net.preprocessing, dense.classes, counts, None, record)
    header = replace(header, sources=dense.sources)
    header = replace(header, accuracy=measure_accuracy(out, model, header, data.held_out, examined))
    return save(out, model, header)


def _config(recipe: Recipe, request: TrainingRequest, counts: TokenCounts) -> TrainingConfig:
    """All epochs gathered, at the counts of the reduction."""
    values = recipe.hyper_parameters()
    values |= {"gathered_epochs": recipe.epochs, "fixed_epochs": 0.0, "token_counts": str(counts)}
    return TrainingConfig(**values, target_gmacs=request.target_gmacs, target_ms=request.target_ms)


def _in_batch_mode(model: ToFe, counts: TokenCounts) -> Callable[[Tensor], Tensor]:
    return lambda images: model.forward_batch(images, counts).output


@torch.no_grad()
def _losses(
    nets: Sequence[Callable[[Tensor], Tensor]], samples: tuple[Sample, ...], like: BackboneAdapter
) -> list[float]:
    """Mean cross entropies on the same pictures."""
    some = sample_evenly(samples, _COMPARED_ON)
    labels = torch.tensor([sample.label for sample in some])
    images = read_images(some, like.preprocessing)
    logits = [torch.cat([net(part) for part in images.split(_BATCH)]) for net in nets]
    return [round(float(classification_loss(one, labels)), 4) for one in logits]

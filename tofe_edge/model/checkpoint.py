"""Checkpoints: one safetensors file with everything needed to build, judge and feed the net in its header."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from tofe_edge.errors import InputError, naming, require
from tofe_edge.io.documents import Flag, Int, Number, Text, digest_of, parse_json, signed, validate, verified
from tofe_edge.io.files import sha256_of, staging_dir, write_atomically
from tofe_edge.io.labels import Classes
from tofe_edge.io.preprocessing import Preprocessing
from tofe_edge.io.progress import warn_once
from tofe_edge.io.tensors import must_be_finite, read_metadata, read_state_dict, read_tensors
from tofe_edge.model.backbones import Backbone, BackboneAdapter, Reduction, TokenCounts, create_backbone
from tofe_edge.model.backbones.spec import backbone_to_json
from tofe_edge.model.backbones.state_dict import fit_weights, read_weights
from tofe_edge.model.backbones.weights import load_strictly
from tofe_edge.model.digests import SHIPPED, digest_of_tensors
from tofe_edge.model.macs import dense_macs, gmacs, tofe_macs
from tofe_edge.model.tofe import ToFe

SCHEMA = 2
HEADER_KEY = "tofe_edge"


@dataclass(frozen=True)
class ReducedBudget:
    """A budget that a net was reduced for, and how far its outputs are from the dense net's there."""

    counts: tuple[Int, ...]
    divergence: Number
    """In nats, or as one less the cosine of embeddings."""
    agreement: Number
    """Percentage of images."""


@dataclass(frozen=True)
class Checkpoint:
    """The header of a checkpoint. The weights stay in the file until :func:`load_model`."""

    name: str
    backbone_name: str
    overrides: dict[str, int]
    token_counts: TokenCounts | None
    """``None``: a dense backbone without selectors."""
    gmacs: float
    dense_gmacs: float
    preprocessing: Preprocessing
    classes: Classes
    accuracy: dict[str, Any] | None
    """``top1``, ``top5`` (percent), ``dense_top1``, ``images``, ``dataset``, as measured after training."""
    training: dict[str, Any] | None
    """Every hyper-parameter, the data, the measured counts; of a reduced net under ``reduced`` what the reduction found."""
    path: Path = Path()
    plain: bool = False
    """The file holds a dense backbone's weights in its own key names, without our header."""
    stages: tuple[int, ...] | None = None
    """Blocks before which tokens are selected, from 0; ``None``: the paper's."""
    reduction: Reduction = "paper"
    thaws_last: bool = False
    """Whether tokens frozen in the last stage thaw by an approximator of their own."""
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Where ``weights``, ``classes`` and ``preprocessing`` are from if not from the header."""
    remarks: tuple[str, ...] = field(default=(), compare=False)
    """What was decided about plain weights without being asked, a line each."""

    weights_sha256: str | None = field(default=None, compare=False)
    """The digest of its weights; ``None``: earlier versions wrote none, and plain weights have none."""

    @property
    def top1(self) -> float:
        """Measured top-1 in percent; -1 if it was never measured, so that it loses every comparison."""
        return float(self.accuracy["top1"]) if self.accuracy else -1.0

    @property
    def budgets(self) -> tuple[ReducedBudget, ...]:
        """The budgets that `tofe-edge reduce` made it for, the default one first; none if it was trained."""
        record = (self.training or {}).get("reduced")
        outcomes = record.get("outcomes", []) if isinstance(record, dict) else []
        return validate(tuple[ReducedBudget, ...], outcomes, "tofe-edge header", "the file is damaged")

    def sha256(self) -> str:
        """Checksum of the file."""
        return sha256_of(self.path)


def describe(
    name: str,
    spec: Backbone,
    preprocessing: Preprocessing,
    classes: Classes,
    token_counts: TokenCounts | None,
    accuracy: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
) -> Checkpoint:
    """The header of a net, GMACs counted."""
    macs = dense_macs(spec) if token_counts is None else tofe_macs(spec, token_counts.check(spec).kept)
    return Checkpoint(
        name=name,
        backbone_name=spec.name,
        overrides=dict(spec.overrides),
        token_counts=token_counts,
        gmacs=gmacs(macs),
        dense_gmacs=gmacs(dense_macs(spec)),
        preprocessing=preprocessing,
        classes=classes,
        accuracy=accuracy,
        training=training,
        stages=spec.stages,
        reduction=spec.reduction,
        thaws_last=spec.thaws_last,
    )


def backbone_of(checkpoint: Checkpoint) -> BackboneAdapter:
    """The checkpoint's backbone, with random weights. Raises :class:`InputError` if there is none such."""
    return create_backbone(
        checkpoint.backbone_name,
        checkpoint.overrides,
        stages=checkpoint.stages,
        reduction=checkpoint.reduction,
        thaws_last=checkpoint.thaws_last,
    )


def check_output(path: Path, starts: Iterable[Path | None], what: str) -> None:
    """Refuse a place for a checkpoint before hours are spent on it: another suffix, or a file that the work starts from.

    Args:
        what: the work, for messages: ``run``.

    Raises:
        InputError: it is refused, or its folder cannot be written to.
    """
    require(path.suffix == ".safetensors", f"{path}: a checkpoint's file name ends in .safetensors")
    for start in starts:
        overwrites = start is not None and start.exists() and path.exists() and path.samefile(start)
        require(not overwrites, f"--out {path}: is what the {what} starts from; choose another name")
    with staging_dir(path.parent):
        pass  # the folder can be written to


def save(path: Path, model: ToFe, header: Checkpoint, half: bool = True) -> Checkpoint:
    """Write weights and header atomically; ``half`` stores fp16 (loaded back as fp32), but for tensors beyond its range.

    Raises:
        InputError: the file cannot be written.
    """
    tensors = {
        key: _stored(value.detach().cpu(), half).contiguous()
        for key, value in model.state_dict().items()
        if header.token_counts is not None or key.startswith("backbone.")
    }
    weights = digest_of_tensors(tensors)
    document = {
        "name": header.name,
        "backbone": backbone_to_json(model.backbone.spec),
        "token_counts": list(header.token_counts.kept) if header.token_counts else None,
        "gmacs": round(header.gmacs, 6),
        "dense_gmacs": round(header.dense_gmacs, 6),
        "preprocessing": header.preprocessing.to_json(),
        "classes": {"ids": list(header.classes.ids), "names": list(header.classes.names)},
        "accuracy": header.accuracy,
        "training": header.training,
        "weights_sha256": weights,
    }
    metadata = {HEADER_KEY: json.dumps(signed(SCHEMA, document), sort_keys=True)}
    write_atomically(path, lambda temporary: _write_tensors(tensors, temporary, metadata))
    return replace(header, path=path, weights_sha256=weights)


def _stored(value: Tensor, half: bool) -> Tensor:
    if not value.is_floating_point():
        return value
    fits = not value.numel() or float(value.abs().max()) <= torch.finfo(torch.float16).max
    return value.to(torch.float16 if half and fits else torch.float32)


def _write_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    try:
        save_file(tensors, str(path), metadata)
    except SafetensorError as error:  # what safetensors makes of a full disk
        raise OSError(str(error)) from error


@dataclass(frozen=True)
class _Shape:
    stages: tuple[Int, ...]


@dataclass(frozen=True)
class _Net:
    name: Text
    overrides: dict[Text, Int]
    shape: _Shape
    reduction: Reduction = "paper"
    thaws_last: Flag = False


@dataclass(frozen=True)
class _Accuracy:
    top1: Number


@dataclass(frozen=True)
class _Header:
    """The keys of a header that are read; others are left alone."""

    name: Text
    backbone: _Net
    token_counts: tuple[Int, ...] | None
    gmacs: Number
    dense_gmacs: Number
    preprocessing: Annotated[Preprocessing, BeforeValidator(Preprocessing.from_json)]
    classes: Classes
    accuracy: _Accuracy | None
    training: dict[Text, Any] | None
    weights_sha256: Text | None = None


def read_header(path: Path) -> Checkpoint:
    """Read and check a checkpoint's header without loading its weights.

    Raises:
        InputError: the file is missing, truncated, not a safetensors file, or its header is not ours or damaged.
    """
    metadata = read_metadata(path)
    if HEADER_KEY not in metadata:
        raise InputError(
            f"{path}: has no tofe-edge header, it holds plain weights, not a checkpoint of tofe-edge, as train and reduce write them"
        )
    try:
        document = parse_json(metadata[HEADER_KEY])
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: the tofe-edge header is not JSON ({error})") from error
    with naming(path):
        content = verified(document, SCHEMA, "checkpoint", "this version of tofe-edge cannot read it")
        header = validate(_Header, content, "tofe-edge header", "the file is damaged or was not written by tofe-edge")
        return Checkpoint(
            name=header.name,
            backbone_name=header.backbone.name,
            overrides=header.backbone.overrides,
            token_counts=None if header.token_counts is None else TokenCounts(header.token_counts),
            gmacs=header.gmacs,
            dense_gmacs=header.dense_gmacs,
            preprocessing=header.preprocessing,
            classes=header.classes,
            accuracy=content["accuracy"],
            training=header.training,
            path=path,
            stages=header.backbone.shape.stages,
            reduction=header.backbone.reduction,
            thaws_last=header.backbone.thaws_last,
            weights_sha256=header.weights_sha256 or SHIPPED.get(digest_of(document)),
        )


def load_model(checkpoint: Checkpoint) -> ToFe:
    """Build the net and load its weights, in fp32 on the CPU, in eval mode.

    Raises:
        InputError: weights and header do not fit each other, or the weights are damaged or not finite.
    """
    with naming(checkpoint.path):
        if checkpoint.plain:
            named = read_weights(read_state_dict(checkpoint.path))
            model = ToFe(backbone_of(checkpoint))
            _check_classes(checkpoint, model)
            model.backbone.load_dense(fit_weights(named, model.backbone.spec))
            return model.eval()
        weights = read_tensors(checkpoint.path)
        _check_weights(checkpoint, weights)
        if checkpoint.weights_sha256 not in SHIPPED.values():
            # A header may state any size: memory is taken once the shapes are those of the weights.
            with torch.device("meta"):
                _load(ToFe(backbone_of(checkpoint)), checkpoint, weights)
        model = ToFe(backbone_of(checkpoint))
        _load(model, checkpoint, weights)
        return model.eval()


def _load(model: ToFe, checkpoint: Checkpoint, weights: Mapping[str, Tensor]) -> None:
    """Load the weights of a file with our header. Raises :class:`InputError` if they and the header do not fit each other."""
    _check_classes(checkpoint, model)
    if checkpoint.token_counts is None:
        # Selectors are never run: a dense checkpoint has none, the dense form of another one leaves its own.
        dense = {key.removeprefix("backbone."): value for key, value in weights.items() if not _is_of_tofe(key)}
        load_strictly(model.backbone, dense, checkpoint.backbone_name)
    else:
        checkpoint.token_counts.check(model.backbone.spec)
        load_strictly(model, weights, f"{checkpoint.backbone_name} with ToFe")


def _check_classes(checkpoint: Checkpoint, model: ToFe) -> None:
    named, classes = checkpoint.classes, model.backbone.spec.classes
    if not len(named.ids) == len(named.names) == classes:
        raise InputError(f"{len(named.ids)} class ids and {len(named.names)} class names for {classes} classes")


def _check_weights(checkpoint: Checkpoint, weights: Mapping[str, Tensor]) -> None:
    """Refuse weights that are not those that were stored, or not finite."""
    if checkpoint.weights_sha256 is not None:
        if digest_of_tensors(weights) != checkpoint.weights_sha256:
            raise InputError("its weights are not those that were stored: the file is damaged; copy it again")
    else:
        advice = "damage is not noticed; train or reduce again, or compare the file with its origin"
        warn_once(f"{checkpoint.path}: is of an earlier version and has no digest of its weights, so {advice}")
    must_be_finite(weights)


def _is_of_tofe(key: str) -> bool:
    return key.startswith(("selectors.", "approximators."))


def dense_form(checkpoint: Checkpoint) -> Checkpoint:
    """The same weights without token reduction, to compare with. What was measured of the checkpoint is left out."""
    accuracy = checkpoint.accuracy if checkpoint.token_counts is None else None
    return replace(
        checkpoint,
        name=checkpoint.name if checkpoint.token_counts is None else f"{checkpoint.name}_dense",
        token_counts=None,
        gmacs=checkpoint.dense_gmacs,
        accuracy=accuracy,
    )

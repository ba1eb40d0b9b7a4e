"""Reducing a dense net: weights, unlabelled images and a budget in, a ToFe checkpoint out, in minutes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tofe_edge.budget.cost import Cost, GmacsCost, latency_cost
from tofe_edge.errors import InputError, require
from tofe_edge.evaluation.preprocessing_look import look_at_preprocessing
from tofe_edge.io.listing import Tally
from tofe_edge.model.backbones import Backbone
from tofe_edge.model.checkpoint import Checkpoint, check_output, describe, save
from tofe_edge.model.dense import open_dense
from tofe_edge.model.macs import dense_macs, gmacs
from tofe_edge.model.tofe import ToFe
from tofe_edge.profiles import DeviceProfile
from tofe_edge.reduction.reduce import MOST_IMAGES, Report, reduce_net
from tofe_edge.training.counts import read_images, typical_samples
from tofe_edge.workflows.sources import StrPath, choices_of, open_profile


@dataclass(frozen=True)
class Reduced:
    """A checkpoint, and how far it is from the dense net."""

    checkpoint: Checkpoint
    report: Report


def reduce(
    weights: StrPath | None,
    images: StrPath,
    out: StrPath,
    *,
    backbone: str | None = None,
    pretrained: bool = False,
    labels: StrPath | None = None,
    preprocessing: StrPath | None = None,
    image_size: int | None = None,
    target_gmacs: float | None = None,
    share: float | None = None,
    profile: StrPath | DeviceProfile | None = None,
    max_latency_ms: float | None = None,
    precision: str | None = None,
    elastic: Sequence[float] = (),
    name: str | None = None,
    seed: int = 0,
) -> Reduced:
    """Make a ToFe checkpoint of a dense net, in minutes and without labels.

    Args:
        weights: dense weights, as safetensors or PyTorch wrote them; ``None`` with ``pretrained``.
        images: a folder (of any depth), CSV or tar shards of 64 to 2000 images; of more, 2000 are drawn.
        out: the checkpoint to write.
        backbone: the net of the weights; ``None``: the config beside them names it, or their shapes tell.
        pretrained: take timm's published weights.
        labels: class names: a file, a folder of class folders, or ``imagenet``.
        preprocessing: ``imagenet``, ``inception``, ``clip`` or a file.
        image_size: side of the input in pixels; the weights' own if not given.
        target_gmacs: the budget in 1e9 multiply-accumulates, or
        share: as a share of the dense net's, or
        max_latency_ms: in milliseconds that the latency table of ``profile`` predicts.
        precision: of the latency table; the profile's if not given.
        elastic: further budgets in the same unit, for ``convert --elastic``.
        name: the checkpoint's; that of the file if not given.
        seed: of the draw of images and of the selectors. Equal inputs give equal checkpoints.

    Raises:
        InputError: weights or images are unfit, the budget is out of reach, or the output cannot be written.

    Example::

        reduced = te.reduce("vit.safetensors", "photos/", "small.safetensors", share=0.5)
        print(reduced.report.outcomes[0].agreement)
    """
    path = Path(out)
    # 1. What can be refused is refused before minutes are spent.
    check_output(path, [None if weights is None else Path(weights)], "reduction")
    require((weights is None) == pretrained, "reduce needs dense weights: --weights FILE, or --pretrained for timm's")
    choices = choices_of(labels, preprocessing, image_size)
    net = open_dense(None if weights is None else Path(weights), backbone, choices, pretrained=pretrained)
    dense, classes = net.adapter, net.header.classes
    require(
        len(classes.ids) != 1,
        f"{net.header.name}: has one output, of which the softmax is always 1, so nothing tells how far a reduced net is from it",
    )
    known = None if profile is None else open_profile(profile)
    cost = _cost(dense.spec, target_gmacs, share, known, max_latency_ms, precision)
    for target in (cost.target, *elastic):
        replace(cost, target=target).check()
    require(len({cost.target, *elastic}) == 1 + len(elastic), "--elastic: each budget once, and not the main one again")
    # 2. Reduce.
    samples = typical_samples(Path(images), classes.ids, seed, MOST_IMAGES)
    tally = Tally()
    pixels = read_images(samples, dense.preprocessing, tally)
    remark = look_at_preprocessing(ToFe(dense), dense.preprocessing, samples)
    model, counts, report = reduce_net(dense, pixels, cost, tuple(elastic), seed)
    # 3. Record and write.
    spec = model.backbone.spec
    record = {
        "start": f"timm {spec.name}" if weights is None else Path(weights).name,
        "data": [Path(images).resolve().name],
        "reduced": report.to_json(),
        "budget": replace(cost, backbone=spec).to_json(counts.kept),
        "warnings": [
            *net.header.remarks,
            *([remark] if remark else []),
            *samples.coverage.without(tally.left_out).remarks,
        ],
    }
    header = describe(name or path.stem, spec, dense.preprocessing, classes, counts, None, record)
    header = replace(header, sources=net.header.sources)
    return Reduced(save(path, model, header), report)


def _cost(
    spec: Backbone,
    target_gmacs: float | None,
    share: float | None,
    profile: DeviceProfile | None,
    max_latency_ms: float | None,
    precision: str | None,
) -> Cost:
    """The one budget that is asked for."""
    given = [budget for budget in (target_gmacs, share, max_latency_ms) if budget is not None]
    require(
        len(given) == 1,
        "reduce needs one budget: --target-gmacs, --share of the dense net's, or --profile with --max-latency-ms",
    )
    if max_latency_ms is not None:
        if profile is None:
            raise InputError("--max-latency-ms is held by a device's latency table; say which with --profile")
        return latency_cost(spec, max_latency_ms, profile, precision)
    require(profile is None, "--profile says where --max-latency-ms is held; a budget in GMACs holds everywhere")
    return GmacsCost(spec, target_gmacs if share is None else share * gmacs(dense_macs(spec)))  # type: ignore[arg-type]

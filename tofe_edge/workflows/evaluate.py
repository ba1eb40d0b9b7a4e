"""Accuracy of a checkpoint in eager PyTorch, and how many tokens it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tofe_edge.evaluation.evaluate import Evaluation, evaluate_samples
from tofe_edge.evaluation.image_tokens import Extremes
from tofe_edge.evaluation.prediction import CountDistribution, distributions
from tofe_edge.evaluation.preprocessing_look import look_at_preprocessing
from tofe_edge.evaluation.reference import Mode, load_reference
from tofe_edge.io.dataset import find_samples, refuse_lost, sample_evenly
from tofe_edge.io.listing import Coverage
from tofe_edge.model.checkpoint import Checkpoint
from tofe_edge.workflows.sources import StrPath, open_checkpoint, resized


@dataclass(frozen=True)
class EvaluationReport:
    """Accuracy of a checkpoint, and what it was measured with.

    Attributes:
        mode: how tokens were counted: ``batch``, ``instance`` or ``dense``.
        device: where it ran: ``cpu`` or ``cuda``.
        distribution: of token counts, one per selection; empty unless they differ from image to image.
        extremes: the images with the fewest and the most tokens, if they were asked for.
        coverage: how much of the data was used.
    """

    checkpoint: Checkpoint
    mode: str
    device: str
    evaluation: Evaluation
    distribution: tuple[CountDistribution, ...]
    extremes: Extremes | None
    coverage: Coverage

    @property
    def shipped_counts(self) -> Sequence[int]:
        """The checkpoint's own token counts, one per selection."""
        return self.checkpoint.token_counts.kept if self.checkpoint.token_counts else ()


def evaluate(
    checkpoint: StrPath | Checkpoint,
    data: StrPath,
    *,
    backbone: str | None = None,
    labels: StrPath | None = None,
    preprocessing: StrPath | None = None,
    mode: Mode | None = None,
    device: str = "auto",
    limit: int | None = None,
    resize: str | None = None,
    extremes: int = 0,
    allow_empty: bool = False,
) -> EvaluationReport:
    """Measure top-1 and top-5 of a checkpoint on labelled images, in PyTorch.

    Args:
        checkpoint: a shipped checkpoint's name, a file, or an opened checkpoint.
        data: ``DIR/<class id>/<image>``, a .csv of path,label, or a .tar or folder of .tar.
        backbone: the net, if the file has plain dense weights.
        labels: class names in place of the checkpoint's: a file, a folder of class folders, or ``imagenet``.
        preprocessing: in place of the checkpoint's: ``imagenet``, ``inception``, ``clip`` or a file.
        mode: ``batch`` for the checkpoint's token counts, ``instance`` for counts that differ from image to image,
            ``dense`` for all tokens; ``dense`` for a dense model, else ``batch`` if not given.
        device: ``auto``, ``cpu`` or ``cuda``.
        limit: use so many images, spread evenly over the classes.
        resize: ``none`` if images are stored at crop size already.
        extremes: keep so many images with the fewest tokens, and with the most.
        allow_empty: go on without classes of which there is a folder, but no image that can be read.

    Raises:
        InputError: the checkpoint or the data cannot be used.

    Example:
        >>> import tofe_edge as te
        >>> report = te.evaluate(checkpoint, "val/", device="cpu")
        >>> report.evaluation.images, report.evaluation.mean_kept
        (6, (9.0, 5.0, 3.0))
    """
    opened = open_checkpoint(checkpoint, backbone, labels, preprocessing)
    reference = load_reference(opened, mode, device)
    spec = resized(opened.preprocessing, resize)
    found = find_samples(Path(data), opened.classes.ids, allow_empty)
    samples = sample_evenly(found, limit)
    if opened.plain and (remark := look_at_preprocessing(reference.model, spec, samples)):
        opened = replace(opened, remarks=(*opened.remarks, remark))
    patch_tokens = reference.model.backbone.spec.patch_tokens
    kept = Extremes(extremes, opened.classes.names, patch_tokens, spec) if extremes else None
    result = evaluate_samples(reference, Path(data), samples, spec, witness=None if kept is None else kept.see)
    if limit is None and not allow_empty:
        refuse_lost(Path(data), result.lost, opened.classes.ids, result.left_out)
    return EvaluationReport(
        checkpoint=opened,
        mode=reference.mode,
        device=reference.device.type,
        evaluation=result,
        distribution=distributions(result.kept_counts) if reference.mode == "instance" else (),
        extremes=kept,
        coverage=found.coverage.without(result.left_out),
    )

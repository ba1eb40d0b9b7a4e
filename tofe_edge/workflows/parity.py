"""Running an artifact and its reference on the same images: what ``convert`` and ``parity`` share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from tofe_edge.errors import InputError, naming, quoted, require
from tofe_edge.evaluation.parity import GateResult, Parity, gates_against
from tofe_edge.evaluation.prediction import Prediction
from tofe_edge.evaluation.reference import Reference, load_reference
from tofe_edge.evaluation.statistics import CONFIDENCE, Accuracy, Analysis, analyse
from tofe_edge.evaluation.vectors import compare_outputs
from tofe_edge.io.artifact import DEFAULT_METHOD, Artifact, Manifest, words_for
from tofe_edge.io.dataset import UNLABELLED, Sample, find_samples, refuse_lost, sample_evenly
from tofe_edge.io.documents import read_json
from tofe_edge.io.inputs import Inputs, load_photographs, none_usable
from tofe_edge.io.labels import Classes
from tofe_edge.io.listing import EVERYTHING, Coverage, Found, Tally, list_images
from tofe_edge.io.preprocessing import Preprocessing, preprocess
from tofe_edge.io.progress import progress_bar
from tofe_edge.io.targets import Gates, gates_of
from tofe_edge.model.backbones import TokenCounts
from tofe_edge.model.backbones.spec import Output
from tofe_edge.model.checkpoint import Checkpoint
from tofe_edge.model.zoo import find_by_checksum
from tofe_edge.runtimes.loading import Model as LoadedModel
from tofe_edge.runtimes.loading import open_model
from tofe_edge.workflows.run import Model, artifact_of
from tofe_edge.workflows.sources import StrPath, is_plain, open_checkpoint, resized

_THUMBNAIL = 160
"""Longest side in pixels."""

_BATCH = 16
"""Images that the reference takes at once; no more are in memory."""


@dataclass(frozen=True)
class Picture:
    """One image as each side wants it: prepared by the artifact's manifest, and by the checkpoint."""

    name: str
    label: int | None
    for_artifact: npt.NDArray[np.float32]
    for_reference: npt.NDArray[np.float32]


class InMemory:
    """Inputs that are prepared already: both sides get the same."""

    def __init__(self, inputs: Inputs) -> None:
        self._inputs = inputs
        self.source = inputs.source
        self.unreadable: list[Path] = []
        self.coverage = inputs.coverage

    def __len__(self) -> int:
        return len(self._inputs.pixels)

    def read(self, artifact: Preprocessing, reference: Preprocessing) -> Iterator[Picture]:
        """As they are."""
        labels = self._inputs.labels or (None,) * len(self)
        for number, (pixels, label) in enumerate(zip(self._inputs.pixels, labels)):
            yield Picture(f"{self.source} {number}", label, pixels, pixels)

    def thumbnail(self, name: str) -> None:
        """``None``: the crops are not files."""


class Streamed:
    """Samples of a data source, read one after the other."""

    def __init__(
        self, source: str, samples: Sequence[Sample], resize: str | None, coverage: Coverage = EVERYTHING
    ) -> None:
        self._by_name = {str(sample.location): sample for sample in samples}
        self._samples, self._resize, self._listed = samples, resize, coverage
        self._lost, self._tally = {sample.label for sample in samples}, Tally()
        self.source = source
        self.unreadable: list[Path] = []

    def __len__(self) -> int:
        return len(self._samples)

    def read(self, artifact: Preprocessing, reference: Preprocessing) -> Iterator[Picture]:
        """Each image that can be read.

        Raises:
            InputError: none can be read.
        """
        artifact, reference = resized(artifact, self._resize), resized(reference, self._resize)
        reason = ""
        for sample in self._samples:
            try:
                image = sample.read()
                ours = preprocess(image, artifact)
                theirs = ours if artifact == reference else preprocess(image, reference)
            except InputError as error:
                reason = reason or str(error)
                self.unreadable.append(sample.location)
                self._tally.add_unreadable(sample.location, str(error))
                continue
            self._lost.discard(sample.label)
            label = None if sample.label == UNLABELLED else sample.label
            yield Picture(str(sample.location), label, ours, theirs)
        if len(self.unreadable) == len(self._samples):
            raise none_usable(Path(self.source), len(self), reason)

    @property
    def coverage(self) -> Coverage:
        """How much of the data was used, once it is read."""
        return self._listed.without(self._tally.left_out)

    @property
    def lost(self) -> tuple[int, ...]:
        """Classes of which no image could be read."""
        return tuple(sorted(self._lost))

    def thumbnail(self, name: str) -> bytes:
        """A small JPEG of the image of this name."""
        image = self._by_name[name].read()
        image.thumbnail((_THUMBNAIL, _THUMBNAIL))
        stored = BytesIO()
        image.save(stored, "JPEG", quality=80)
        return stored.getvalue()


Pictures = InMemory | Streamed
"""Images to compare on. ``unreadable`` fills up while they are read."""


@dataclass(frozen=True)
class Checked:
    """A comparison and what it was made of, image by image."""

    parity: Parity
    names: tuple[str, ...]
    labels: tuple[int, ...] | None
    reference: tuple[Prediction, ...]
    artifact: tuple[Prediction, ...]
    device: str
    """The kind of device that the reference ran on."""


def check(
    artifact: Artifact,
    checkpoint: Checkpoint,
    pictures: Pictures,
    *,
    device: str = "auto",
    threads: int = 1,
    method: str = DEFAULT_METHOD,
    provider: str | None = None,
    adjust: Callable[[Gates], Gates] = lambda gates: gates,
) -> Checked:
    """Run artifact and reference on the same images and compare them with the gates of the artifact's precision.

    Args:
        adjust: makes other gates of those.

    Raises:
        InputError: the images cannot be used, or the artifact is not of this checkpoint.
        DeviceError: a runtime fails.
    """
    manifest = artifact.manifest
    model = open_model(artifact, threads, method, provider)
    kept = model.method.token_counts
    reference = load_reference(
        checkpoint,
        "dense" if kept is None else "batch",
        device,
        counts=None if kept is None else TokenCounts(tuple(kept)),
        image_size=manifest.preprocessing.image_size,
        output=cast(Output, manifest.output),
        normalize=manifest.normalized,
    )
    stream = pictures.read(manifest.preprocessing, reference.preprocessing)
    rows = list(_predict_both(model, reference, stream, len(pictures)))
    names, labels, expected, actual = zip(*rows)
    known = None if None in labels else labels
    parity = compare_outputs(manifest.output, expected, actual, known, adjust(gates_of(manifest)))
    parity = replace(parity, gates=(*parity.gates, *_class_gate(artifact, checkpoint)))
    return Checked(parity, names, known, expected, actual, reference.device.type)


def _predict_both(
    model: LoadedModel, reference: Reference, pictures: Iterable[Picture], total: int
) -> Iterator[tuple[str, int | None, Prediction, Prediction]]:
    """Both sides at the same time, a batch of images at once."""
    stream = iter(pictures)
    with ThreadPoolExecutor(1) as pool, progress_bar("parity", total=total, unit="image") as bar:
        while batch := list(islice(stream, _BATCH)):
            expected = pool.submit(reference.predict, np.concatenate([picture.for_reference for picture in batch]))
            actual = [model(picture.for_artifact) for picture in batch]
            bar.update(len(batch))
            for picture, one, other in zip(batch, expected.result(), actual):
                yield picture.name, picture.label, one, other


def _class_gate(artifact: Artifact, checkpoint: Checkpoint) -> list[GateResult]:
    """A gate that fails if the artifact gives its logits other names than the checkpoint."""
    if not artifact.manifest.classifies:
        return []
    ours = list(zip(artifact.manifest.class_ids, artifact.manifest.class_names))
    theirs = list(zip(checkpoint.classes.ids, checkpoint.classes.names))
    if ours == theirs:
        return []
    wrong = next(
        (index for index, pair in enumerate(zip(ours, theirs)) if pair[0] != pair[1]), min(len(ours), len(theirs))
    )
    named, other = (quoted(" ".join(pairs[wrong])) if wrong < len(pairs) else "missing" for pairs in (ours, theirs))
    return [GateResult("classes", f"class {wrong} is {named} here and {other} in the checkpoint", False)]


@dataclass(frozen=True)
class ParityReport:
    """Whether a model predicts what its reference predicts, and how sure that is.

    Attributes:
        pictures: what it was compared on.
        analysis: a classifier's statistics and worst images; ``None`` if an output is not finite, or of vectors.
    """

    artifact: Artifact
    pictures: Pictures
    checked: Checked
    analysis: Analysis | None

    @property
    def parity(self) -> Parity:
        """The figures and the gates."""
        return self.checked.parity

    @property
    def passed(self) -> bool:
        """Whether every gate passed."""
        return self.checked.parity.passed


def parity(
    model: StrPath | Model | Artifact,
    data: StrPath | None = None,
    *,
    checkpoint: StrPath | Checkpoint | None = None,
    backbone: str | None = None,
    labels: StrPath | None = None,
    preprocessing: StrPath | None = None,
    method: str = DEFAULT_METHOD,
    device: str = "auto",
    threads: int = 1,
    provider: str | None = None,
    limit: int | None = None,
    resize: str | None = None,
    min_agreement: float | None = None,
    max_drop: float | None = None,
    confidence: float | None = None,
    baseline: StrPath | None = None,
    allow_empty: bool = False,
) -> ParityReport:
    """Compare a converted model with the PyTorch reference, image by image.

    Args:
        data: labelled images, as for :func:`evaluate`; crops of two photographs if not given.
        checkpoint: what the model was made from; found by its checksum if it is a shipped one.
        backbone: the net, if the checkpoint has plain dense weights.
        labels: class names, if not those of the model's manifest: a file, a folder of class folders, or ``imagenet``.
        preprocessing: how the reference prepares images: ``imagenet``, ``inception``, ``clip`` or a file.
        method: which budget of an elastic model.
        device: where the reference runs: ``auto``, ``cpu`` or ``cuda``.
        threads: of the model's runtime.
        provider: ONNX Runtime's execution provider, of those that are installed; its CPU if not given.
        limit: use so many images, spread evenly over the classes.
        resize: ``none`` if images are stored at crop size already.
        min_agreement: the least share of images with the same top-1 class (the same nearest neighbour, of an embedding),
            however few the images.
        max_drop: the most points of top-1 that may be lost; needs ``data``.
        confidence: in (0, 1): with ``max_drop``, the end of the interval of the drop must be within it, too.
        baseline: the document of ``parity --json`` of an earlier model, which this one must equal.
        allow_empty: go on without classes of which there is a folder, but no image that can be read.

    Raises:
        InputError: the checkpoint is another one, or the images cannot be used.
        DeviceError: a runtime fails.

    Example:
        >>> import tofe_edge as te
        >>> report = te.parity(artifact, data="val/", checkpoint=checkpoint, device="cpu")
        >>> report.passed, report.parity.top1_agreement
        (True, 1.0)
    """
    require(confidence is None or max_drop is not None, "--confidence is that of --max-drop; give both")
    require(confidence is None or 0 < confidence < 1, "--confidence: no number of images gives 100 %; take 95 or 99")
    earlier = None if baseline is None else read_json(Path(baseline), "give a document of `tofe-edge parity --json`")
    opened = artifact_of(model)
    source, output = find_reference(opened, checkpoint, backbone, labels, preprocessing), opened.manifest.output
    require(
        max_drop is None or output == "logits",
        f"--max-drop: {opened.path} gives {words_for(output)}, no classes; leave it out",
    )
    require(
        min_agreement is None or output != "features",
        f"--min-agreement: {opened.path} gives features, which have neither class nor neighbour; leave it out",
    )

    def adjusted(gates: Gates) -> Gates:
        if min_agreement is not None:
            # Whoever names a rate wants it gated, however few the images.
            gates = replace(
                gates,
                min_top1_agreement=min_agreement,
                min_neighbour_agreement=min_agreement,
                min_images_for_rate=1,
            )
        return gates if max_drop is None else replace(gates, max_drop=max_drop)

    pictures: Pictures
    if data is None:
        pictures = InMemory(load_photographs(resized(opened.manifest.preprocessing, resize)))
    else:
        # Labels by the checkpoint's classes: those of the manifest are among the things that are checked.
        found = _find(Path(data), source, opened.manifest, allow_empty)
        pictures = Streamed(str(data), sample_evenly(found, limit), resize, found.coverage)
    checked = check(
        opened, source, pictures, device=device, threads=threads, method=method, provider=provider, adjust=adjusted
    )
    if isinstance(pictures, Streamed) and opened.manifest.classifies and limit is None and not allow_empty:
        refuse_lost(Path(pictures.source), pictures.lost, source.classes.ids, pictures.coverage.left_out)
    analysis = None
    if checked.parity.finite and opened.manifest.classifies:
        analysis = analyse(
            checked.reference, checked.artifact, checked.labels, checked.names, confidence=confidence or CONFIDENCE
        )
    further: list[GateResult] = []
    if confidence is not None and max_drop is not None and analysis and analysis.accuracy:
        further.append(_interval_gate(analysis.accuracy, max_drop))
    if earlier is not None:
        with naming(baseline):
            further += gates_against(earlier, checked.parity)
    checked = replace(checked, parity=replace(checked.parity, gates=(*checked.parity.gates, *further)))
    return ParityReport(opened, pictures, checked, analysis)


def _interval_gate(accuracy: Accuracy, max_drop: float) -> GateResult:
    """Whether the end of the interval of the drop is within what is allowed: with few images it is not."""
    end, interval = accuracy.largest_drop, accuracy.difference
    message = f"top-1 drop {0 - interval.estimate:.2f} points, with {interval.confidence:.0%} at most {end:.2f}, "
    passed = end <= max_drop
    advice = (
        "" if passed or -interval.estimate > max_drop else f": {accuracy.mcnemar.images} images are too few to say less"
    )
    return GateResult(
        "end of the top-1 drop", f"{message}is {'within' if passed else 'over'} {max_drop:g}{advice}", passed
    )


def _find(data: Path, checkpoint: Checkpoint, manifest: Manifest, allow_empty: bool) -> Found[Sample]:
    """Labelled images; for vectors any image of a folder."""
    if manifest.classifies:
        return find_samples(data, checkpoint.classes.ids, allow_empty)
    require(data.is_dir(), f"{data}: is not a folder; {manifest.output} are compared on a folder of images")
    found = list_images(data)
    return Found((Sample(path, UNLABELLED) for path in found), found.coverage)


def find_reference(
    artifact: Artifact,
    source: StrPath | Checkpoint | None = None,
    backbone: str | None = None,
    labels: StrPath | Classes | None = None,
    preprocessing: StrPath | Preprocessing | None = None,
) -> Checkpoint:
    """The checkpoint an artifact was made from: a shipped one by checksum, or the one given.

    Raises:
        InputError: it is not a shipped one and none is given, or the one given is another.
    """
    manifest = artifact.manifest
    if source is None:
        shipped = find_by_checksum(manifest.checkpoint_sha256)
        if shipped is None:
            raise InputError(
                f"{artifact.path}: was made from {manifest.checkpoint!r}, which is not shipped; name its file with --checkpoint"
            )
        return shipped
    if not isinstance(source, Checkpoint) and is_plain(Path(source)):
        # Plain weights say less of themselves than what was made of them.
        backbone = backbone or manifest.backbone
        labels = labels or Classes(tuple(manifest.class_ids), tuple(manifest.class_names))
        preprocessing = preprocessing or manifest.preprocessing
    checkpoint = open_checkpoint(source, backbone, labels, preprocessing)
    if checkpoint.sha256() != manifest.checkpoint_sha256:
        raise InputError(
            f"{checkpoint.path}: is not the checkpoint that {artifact.path} was made from ({manifest.checkpoint!r})"
        )
    return checkpoint

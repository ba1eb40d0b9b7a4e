"""Running an artifact and its reference on the same images: what ``convert`` and ``parity`` share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import islice
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from tofe_edge.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from tofe_edge.evaluation.parity import GateResult, Gates, Parity
    from tofe_edge.evaluation.prediction import Prediction
    from tofe_edge.evaluation.reference import Reference
    from tofe_edge.io.artifact import Artifact
    from tofe_edge.io.dataset import Sample
    from tofe_edge.io.inputs import Inputs
    from tofe_edge.io.preprocessing import Preprocessing
    from tofe_edge.model.checkpoint import Checkpoint
    from tofe_edge.runtimes.loading import Model

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


class Pictures(Protocol):
    """Images to compare on."""

    source: str

    def __len__(self) -> int:
        """How many there are, those that cannot be read included."""
        ...

    def read(self, artifact: Preprocessing, reference: Preprocessing) -> Iterator[Picture]:
        """Those that can be read, prepared both ways."""
        ...


class InMemory:
    """Inputs that are prepared already: both sides get the same."""

    def __init__(self, inputs: Inputs) -> None:
        self._inputs = inputs
        self.source = inputs.source

    def __len__(self) -> int:
        return len(self._inputs.pixels)

    def read(self, artifact: Preprocessing, reference: Preprocessing) -> Iterator[Picture]:
        """As they are."""
        labels = self._inputs.labels or (None,) * len(self)
        for number, (pixels, label) in enumerate(zip(self._inputs.pixels, labels)):
            yield Picture(f"{self.source} {number}", label, pixels, pixels)


class Streamed:
    """Samples of a data source, read one after the other; ``unreadable`` fills up on the way."""

    def __init__(self, source: str, samples: Sequence[Sample], resize: str | None) -> None:
        self._by_name = {str(sample.location): sample for sample in samples}
        self._samples, self._resize = samples, resize
        self.source = source
        self.unreadable: list[Path] = []

    def __len__(self) -> int:
        return len(self._samples)

    def read(self, artifact: Preprocessing, reference: Preprocessing) -> Iterator[Picture]:
        """Each image that can be read.

        Raises:
            InputError: none can be read.
        """
        from tofe_edge.io.preprocessing import preprocess

        if self._resize is not None:
            artifact, reference = (replace(spec, resize=self._resize) for spec in (artifact, reference))
        reason = ""
        for sample in self._samples:
            try:
                image = sample.read()
                ours = preprocess(image, artifact)
                theirs = ours if artifact == reference else preprocess(image, reference)
            except InputError as error:
                reason = reason or str(error)
                self.unreadable.append(sample.location)
                continue
            yield Picture(str(sample.location), sample.label, ours, theirs)
        if len(self.unreadable) == len(self._samples):
            raise InputError(f"{self.source}: none of its {len(self)} images can be used (first: {reason})")

    def thumbnail(self, name: str) -> bytes:
        """A small JPEG of the image of this name."""
        image = self._by_name[name].read()
        image.thumbnail((_THUMBNAIL, _THUMBNAIL))
        stored = BytesIO()
        image.save(stored, "JPEG", quality=80)
        return stored.getvalue()


@dataclass(frozen=True)
class Checked:
    """A comparison and what it was made of, image by image."""

    parity: Parity
    names: tuple[str, ...]
    labels: tuple[int, ...] | None
    reference: tuple[Prediction, ...]
    artifact: tuple[Prediction, ...]
    device: str
    """Where the reference ran."""


def check(
    artifact: Artifact,
    checkpoint: Checkpoint,
    pictures: Pictures,
    *,
    device: str = "auto",
    threads: int = 1,
    method: str = "forward",
    adjust: Callable[[Gates], Gates] = lambda gates: gates,
) -> Checked:
    """Run artifact and reference on the same images and compare them with the gates of the artifact's precision.

    Args:
        adjust: makes other gates of those.

    Raises:
        InputError: the images cannot be used, or the artifact is not of this checkpoint.
        DeviceError: a runtime fails.
    """
    from tofe_edge.evaluation.parity import GATES, compare
    from tofe_edge.evaluation.reference import load_reference
    from tofe_edge.model.backbones import TokenCounts
    from tofe_edge.runtimes.loading import load_model

    manifest = artifact.manifest
    model = load_model(artifact, threads, method)
    kept = model.method.token_counts
    reference = load_reference(
        checkpoint,
        "dense" if kept is None else "batch",
        device,
        counts=None if kept is None else TokenCounts(tuple(kept)),
        image_size=manifest.preprocessing.image_size,
    )
    stream = pictures.read(manifest.preprocessing, reference.preprocessing)
    rows = list(_predict_both(model, reference, stream, len(pictures)))
    names, labels, wanted, found = zip(*rows)
    known = None if None in labels else labels
    parity = compare(wanted, found, known, adjust(GATES[manifest.precision]))
    parity = replace(parity, gates=(*parity.gates, *_class_gate(artifact, checkpoint)))
    return Checked(parity, names, known, wanted, found, reference.device.type)


def _predict_both(
    model: Model, reference: Reference, pictures: Iterable[Picture], total: int
) -> Iterator[tuple[str, int | None, Prediction, Prediction]]:
    """Both sides at the same time, a batch of images at once."""
    from tofe_edge.io.progress import progress_bar

    stream = iter(pictures)
    with ThreadPoolExecutor(1) as pool, progress_bar("parity", total=total, unit="image") as bar:
        while batch := list(islice(stream, _BATCH)):
            wanted = pool.submit(reference.predict, np.concatenate([picture.for_reference for picture in batch]))
            found = [model(picture.for_artifact) for picture in batch]
            bar.update(len(batch))
            for picture, one, other in zip(batch, wanted.result(), found):
                yield picture.name, picture.label, one, other


def _class_gate(artifact: Artifact, checkpoint: Checkpoint) -> list[GateResult]:
    """A gate that fails where the artifact gives its logits other names than the checkpoint."""
    from tofe_edge.evaluation.parity import GateResult

    ours = list(zip(artifact.manifest.class_ids, artifact.manifest.class_names))
    theirs = list(zip(checkpoint.classes.ids, checkpoint.classes.names))
    if ours == theirs:
        return []
    wrong = next(
        (index for index, pair in enumerate(zip(ours, theirs)) if pair[0] != pair[1]), min(len(ours), len(theirs))
    )
    return [GateResult("classes", f"class {wrong} has another name or identifier than in the checkpoint", False)]

"""What the student learns from the dense net: its logits, and if wanted its tokens; logits of crops that come again are kept.

Kept logits are rows of a sparse file, zeros until they are known: any number of runs, and of processes of a run, fill and
read it. A dense DeiT-Tiny takes 38 % of the CPU time of a step at 0.63 GMACs (37 of 97 ms per image on one core), and a row
2 kB. Tokens take 150 kB, and are computed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tofe_edge.errors import InputError
from tofe_edge.io.dataset import Sample
from tofe_edge.model.digests import digest_of_tensors
from tofe_edge.model.tofe import ToFe
from tofe_edge.training.batches import Crop
from tofe_edge.training.recipe import HyperParameters


@dataclass(frozen=True)
class TeacherView:
    """What the student learns from the dense model on one batch."""

    logits: Tensor
    """``(B, classes)``"""
    stem: Tensor | None = None
    """Tokens ``(B, P + N, D)`` at the input of block l_1; ``None``: not looked at."""
    stages: tuple[Tensor, ...] = ()
    """Patch tokens ``(B, N, D)`` at the input of blocks l_2 … l_S, and behind the last one if the net thaws them there; none:
    not looked at."""

    def of(self, some: Tensor) -> TeacherView:
        """The part of it that is about some images ``(b,)``."""
        stem = None if self.stem is None else self.stem[some]
        return TeacherView(self.logits[some], stem, tuple(stage[some] for stage in self.stages))


class KeptLogits:
    """Logits of an image's crops, in a file of half-precision rows; a row that ends in zero is not known, or was cut short.

    Raises:
        InputError: the file cannot be read or written to.
    """

    def __init__(self, path: Path, classes: int, crops: int) -> None:
        self._path, self._classes, self._crops = path, classes, crops
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            self._file = path.open("r+b", buffering=0)
        except OSError as error:
            raise self._refusal(error) from error

    def read(self, crops: Sequence[Crop]) -> npt.NDArray[np.float16]:
        """Rows ``(B, classes)``."""
        rows = np.zeros((len(crops), self._classes), np.float16)
        try:
            for row, crop in zip(rows, crops, strict=True):
                self._seek(crop)
                self._file.readinto(row.data.cast("B"))  # behind the end: stays zeros
        except OSError as error:
            raise self._refusal(error) from error
        return rows

    def write(self, crops: Sequence[Crop], rows: npt.NDArray[np.float16]) -> None:
        """Keep rows ``(B, classes)``."""
        try:
            for row, crop in zip(rows, crops, strict=True):
                self._seek(crop)
                self._file.write(row.tobytes())
        except OSError as error:
            raise self._refusal(error) from error

    def _seek(self, crop: Crop) -> None:
        self._file.seek((crop.image * self._crops + crop.number) * self._classes * 2)

    def _refusal(self, error: OSError) -> InputError:
        return InputError(
            f"{self._path}: logits cannot be kept there ({error.strerror or error}); free some space, or give another logits_dir"
        )


def kept_logits(folder: Path, net: ToFe, samples: Sequence[Sample], config: HyperParameters) -> KeptLogits:
    """Logits of this net for these images and crops, of whichever run. Raises :class:`InputError` as :class:`KeptLogits`."""
    spec = net.backbone.spec
    parts = (
        digest_of_tensors(net.backbone.state_dict()),
        samples_digest(samples),
        spec.image_size,
        config.seed,
        config.crop_scale,
        config.crops,
    )
    name = hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:16]
    return KeptLogits(folder / f"{name}.logits", spec.classes, config.crops)


@dataclass(frozen=True)
class Teacher:
    """A dense net to learn from."""

    net: ToFe
    looks_at_tokens: bool
    kept: KeptLogits | None = None

    @torch.no_grad()
    def view(self, images: Tensor, crops: Sequence[Crop]) -> TeacherView:
        """What it makes of these images. Raises :class:`InputError` as :class:`KeptLogits`."""
        if self.looks_at_tokens:
            return teacher_targets(self.net, images)
        if self.kept is None:
            return TeacherView(self.net.forward_dense(images))
        rows = self.kept.read(crops)
        unknown = np.flatnonzero(rows[:, -1] == 0)
        if len(unknown):
            rows[unknown] = self.net.forward_dense(images[unknown]).float().cpu().numpy()
            self.kept.write([crops[position] for position in unknown.tolist()], rows[unknown])
        return TeacherView(torch.from_numpy(rows).to(images.device).float())


@torch.no_grad()
def teacher_targets(teacher: ToFe, images: Tensor) -> TeacherView:
    """Run the dense teacher and note its residual stream at the points at which the student is compared with it."""
    spec, backbone = teacher.backbone.spec, teacher.backbone
    tokens = stem = teacher.stem(images)
    stages = []
    for stage, (first, end) in enumerate(pairwise((*spec.stages, spec.depth)), start=1):
        for index in range(first, end):
            tokens = backbone.block(index, tokens)
        if stage < len(spec.stages) or spec.thaws_last:
            stages.append(tokens[:, spec.prefix_tokens :])
    return TeacherView(backbone.logits(tokens), stem, tuple(stages))


def samples_digest(samples: Sequence[Sample]) -> str:
    """Return the SHA-256 of the names and labels of the images, in order; not of what is in them."""
    digest = hashlib.sha256()
    for sample in samples:
        name = f"{sample.location.parent.name}/{sample.location.name}\0{sample.label}\n"
        digest.update(name.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()

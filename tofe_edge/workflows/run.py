"""Running a converted model: what it gives for images, their likeliest classes, and the self-test on its golden vectors."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tofe_edge.errors import InputError, require
from tofe_edge.evaluation.golden import golden_path_of, read_golden, replay
from tofe_edge.evaluation.parity import Parity
from tofe_edge.evaluation.prediction import Prediction, RankedClass, top_classes
from tofe_edge.io.artifact import DEFAULT_METHOD, Artifact, Manifest, open_artifact, words_for
from tofe_edge.io.inputs import load_image
from tofe_edge.io.targets import target_of
from tofe_edge.runtimes.deadline import ElasticModel, load_elastic
from tofe_edge.runtimes.loading import open_model
from tofe_edge.workflows.sources import StrPath


@dataclass(frozen=True)
class ImageOutput:
    """What a model gives for one image, how many patch tokens each stage kept, and what it took."""

    image: Path
    values: npt.NDArray[np.float32]
    """Logits ``(classes,)``, an embedding ``(D,)``, or features ``(N, D)`` of all patches, row by row from the top left."""
    kept: tuple[int, ...]
    method: str
    """The budget that the model ran with."""
    latency_ms: float = field(compare=False)

    @property
    def length(self) -> float:
        """Of the vector; of features the mean of theirs."""
        return float(np.linalg.norm(self.values.astype(np.float64), axis=-1).mean())


@dataclass(frozen=True)
class Unreadable:
    """An image that cannot be read, and the one line that says why."""

    image: Path
    reason: str


@dataclass(frozen=True)
class Classification:
    """The five likeliest classes of one image, best first, how many patch tokens each stage kept, and what it took."""

    image: Path
    top5: tuple[RankedClass, ...]
    kept: tuple[int, ...]
    method: str
    """The budget that the model ran with."""
    latency_ms: float = field(compare=False)


@dataclass(frozen=True)
class SelfTest:
    """Whether a model computes here what it computed where it was converted, for each of its methods."""

    methods: Mapping[str, Parity]

    @property
    def passed(self) -> bool:
        """Whether every method passed its gates."""
        return all(parity.passed for parity in self.methods.values())


@dataclass(frozen=True)
class Model:
    """A converted model whose file agrees with its manifest.

    Example:
        >>> import tofe_edge as te
        >>> model = te.load(artifact)
        >>> model.manifest.precision
        'fp32'
        >>> (result,) = model.run("photo.jpg")
        >>> len(result.top5), result.kept
        (5, (9, 5, 3))
    """

    artifact: Artifact

    @property
    def path(self) -> Path:
        """The model file; its manifest is beside it."""
        return self.artifact.path

    @property
    def manifest(self) -> Manifest:
        """What the model is, how it was made and what it takes."""
        return self.artifact.manifest

    def run(
        self,
        *images: StrPath,
        threads: int = 1,
        method: str | None = None,
        deadline_ms: float | None = None,
        provider: str | None = None,
    ) -> list[Classification]:
        """Classify image files, none unless all can be read; :meth:`stream` gives one after the other, whatever the others are.

        Args:
            threads: of the runtime; Core ML has its own.
            method: which budget of an elastic model; the default one if not given.
            deadline_ms: let the measured latency choose the budget, image by image.
            provider: ONNX Runtime's execution provider, of those that are installed; its CPU if not given.

        Raises:
            InputError: an image cannot be read, the model has no such method, or it gives no classes.
            DeviceError: the runtime fails.
        """
        outputs = self.outputs(*images, threads=threads, method=method, deadline_ms=deadline_ms, provider=provider)
        return [self.classify(one) for one in outputs]

    def classify(self, output: ImageOutput) -> Classification:
        """The likeliest classes by the logits of an image. Raises :class:`InputError` if the model gives no logits."""
        require(
            self.manifest.classifies,
            f"{self.path}: gives {words_for(self.manifest.output)}, no classes; use Model.outputs",
        )
        best = tuple(top_classes(output.values, self.manifest.class_names))
        return Classification(output.image, best, output.kept, output.method, output.latency_ms)

    def outputs(
        self,
        *images: StrPath,
        threads: int = 1,
        method: str | None = None,
        deadline_ms: float | None = None,
        provider: str | None = None,
    ) -> list[ImageOutput]:
        """Run on image files, none unless all can be read; arguments and errors are those of :meth:`run`."""
        outputs = []
        for one in self.stream(images, threads=threads, method=method, deadline_ms=deadline_ms, provider=provider):
            if isinstance(one, Unreadable):
                raise InputError(one.reason)
            outputs.append(one)
        return outputs

    def stream(
        self,
        images: Iterable[StrPath],
        *,
        threads: int = 1,
        method: str | None = None,
        deadline_ms: float | None = None,
        provider: str | None = None,
    ) -> Iterator[ImageOutput | Unreadable]:
        """Run on image files as they come, with one at a time in memory; those that cannot be read come with the reason.

        Arguments and errors are those of :meth:`run`, but that no image is an error.
        """
        predict: Callable[[npt.NDArray[np.float32]], Prediction] | None = None
        for image in images:
            try:
                pixels = load_image(Path(image), self.manifest.preprocessing)
            except InputError as error:
                yield Unreadable(Path(image), str(error))
                continue
            # Not before there is something to run on: loading takes longer than naming a file that is not there.
            predict = predict or self._predictor(threads, method, deadline_ms, provider)
            current = predict.policy.method if isinstance(predict, ElasticModel) else method or DEFAULT_METHOD
            begun = time.perf_counter()
            prediction = predict(pixels)
            latency_ms = (time.perf_counter() - begun) * 1e3
            kept = tuple(map(len, prediction.kept))
            yield ImageOutput(Path(image), prediction.output, kept, current, round(latency_ms, 3))

    def _predictor(
        self, threads: int, method: str | None, deadline_ms: float | None, provider: str | None
    ) -> Callable[[npt.NDArray[np.float32]], Prediction]:
        if deadline_ms is None:
            return open_model(self.artifact, threads, method or DEFAULT_METHOD, provider)
        require(provider is None, "--deadline-ms is for .pte models, and --provider for .onnx models; leave one out")
        require(method in (None, DEFAULT_METHOD), "--deadline-ms chooses the method itself; leave --method out")
        require(
            target_of(self.manifest).native_runner,
            f"{self.path}: --deadline-ms is for models that XNNPACK runs; choose a budget with --method",
        )
        return load_elastic(self.artifact, threads, deadline_ms)

    def self_test(
        self, *, threads: int = 1, methods: Sequence[str] | None = None, provider: str | None = None
    ) -> SelfTest:
        """Replay the golden vectors beside the model.

        Args:
            methods: every method if not given.
            provider: as for :meth:`run`.

        Raises:
            InputError: there are no golden vectors, they are damaged, or the model has no such method.
            DeviceError: the runtime fails.
        """
        names = [self.manifest.method(name).name for name in methods or self.manifest.methods]
        golden = read_golden(golden_path_of(self.path), self.artifact)
        return SelfTest(
            {name: replay(golden, open_model(self.artifact, threads, name, provider), name) for name in names}
        )


def load(path: StrPath) -> Model:
    """Open a converted model: check the file against the manifest beside it.

    Raises:
        InputError: the file or its manifest is missing or damaged, or they do not belong together.

    Example:
        >>> import tofe_edge as te
        >>> te.load(artifact).manifest.token_counts
        [9, 5, 3]
    """
    return Model(open_artifact(Path(path)))


def artifact_of(model: StrPath | Model | Artifact) -> Artifact:
    """The checked artifact of a model, opened if it is given by its path. Raises :class:`InputError`."""
    if isinstance(model, Model):
        return model.artifact
    return model if isinstance(model, Artifact) else open_artifact(Path(model))

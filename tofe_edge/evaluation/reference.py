"""The reference: the net in eager PyTorch, fp32, on a GPU or the CPU. What every artifact is compared with."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from tofe_edge.errors import DeviceError, InputError, first_line
from tofe_edge.evaluation.prediction import Prediction
from tofe_edge.io.preprocessing import Preprocessing
from tofe_edge.model.backbones import TokenCounts
from tofe_edge.model.backbones.spec import Output
from tofe_edge.model.checkpoint import Checkpoint, load_model
from tofe_edge.model.resolution import at_image_size
from tofe_edge.model.tofe import Inference, ToFe

Mode = Literal["batch", "instance", "dense"]
Array = npt.NDArray[np.float32]

_SHORTEST = 1e-6
"""Length of an embedding that is not made longer: a vector of zeros stays what it is."""


@dataclass(frozen=True)
class Reference:
    """A net ready to predict. ``mode``: batch- or instance-adaptive token counts, or the dense backbone."""

    model: ToFe
    counts: TokenCounts | None
    mode: Mode
    device: torch.device
    preprocessing: Preprocessing
    """How the checkpoint says that its inputs are made."""
    output: Output | None = None
    """What it gives; ``None``: the net's default."""
    normalize: bool = False
    """Give an embedding the length 1."""

    def predict(self, pixels: Array) -> list[Prediction]:
        """Predict a batch ``(B, 3, H, W)`` float32.

        Raises:
            DeviceError: the GPU has too little memory, or fails.
        """
        with torch.inference_mode(), gpu_failures(self.device, f"with {len(pixels)} images"):
            images = torch.from_numpy(pixels).to(self.device)
            if self.mode == "dense":
                given = self._finished(self.model.forward_dense(images, self.output).cpu().numpy())
                return [Prediction(row, ()) for row in given]
            if self.mode == "instance":
                return [_split(self.model.forward_instance(image[None]))[0] for image in images]
            assert self.counts is not None
            predictions = _split(self.model.forward_batch(images, self.counts, self.output))
            return [replace(one, output=self._finished(one.output)) for one in predictions]

    def _finished(self, given: Array) -> Array:
        """Outputs as the artifact has them: an embedding of the length 1 if that is asked for."""
        if not self.normalize:
            return given
        lengths: Array = np.linalg.norm(given.astype(np.float64), axis=-1, keepdims=True)
        return (given / np.maximum(lengths, _SHORTEST)).astype(np.float32)

    def __call__(self, pixels: Array) -> Prediction:
        """Predict one image ``(1, 3, H, W)``."""
        return self.predict(pixels)[0]

    def predict_all(self, inputs: Sequence[Array], batch: int = 16) -> Iterator[Prediction]:
        """Predict many single images ``(1, 3, H, W)``, ``batch`` at a time."""
        for start in range(0, len(inputs), batch):
            yield from self.predict(np.concatenate(inputs[start : start + batch]))


def load_reference(
    checkpoint: Checkpoint,
    mode: Mode | None = None,
    device: str = "auto",
    counts: TokenCounts | None = None,
    image_size: int | None = None,
    output: Output | None = None,
    normalize: bool = False,
) -> Reference:
    """Load a checkpoint as the reference.

    Args:
        mode: default: batch-adaptive if the checkpoint has token counts, else dense.
        device: ``auto`` (CUDA if there is one), ``cuda`` or ``cpu``.
        counts: token counts in place of the checkpoint's, at the size below.
        image_size: side of the input in place of the checkpoint's.
        output: what it gives; ``None``: logits, or the embedding of a net without head.
        normalize: gives an embedding the length 1.

    Raises:
        InputError: the checkpoint has no selectors for the mode, there is no CUDA device, or the counts or size do
            not fit.
        DeviceError: the net does not fit the GPU, or it fails.
    """
    if mode is None:
        mode = "batch" if checkpoint.token_counts else "dense"
    if mode != "dense" and checkpoint.token_counts is None:
        raise InputError(f"{checkpoint.name}: is a dense model without token selectors; use --mode dense")
    target = pick_device(device)
    forbid_tf32()
    model, own_counts, preprocessing = load_model(checkpoint), checkpoint.token_counts, checkpoint.preprocessing
    if image_size is not None and image_size != checkpoint.preprocessing.image_size:
        resized = at_image_size(model, own_counts, checkpoint.preprocessing, image_size)
        model, own_counts, preprocessing = resized.model, resized.counts, resized.preprocessing
    if counts is not None:
        own_counts = counts.check(model.backbone.spec)
    with gpu_failures(target, "with the net alone"):
        return Reference(model.to(target), own_counts, mode, target, preprocessing, output, normalize)


def pick_device(name: str) -> torch.device:
    """``auto``, ``cuda`` or ``cpu`` to a device.

    Raises:
        InputError: CUDA was asked for and is not there, or the name is unknown.
    """
    if name not in ("auto", "cuda", "cpu"):
        raise InputError(f"device {name!r} is not one of auto, cuda, cpu")
    reason = None if name == "cpu" else why_no_cuda()
    if name == "cuda" and reason:
        raise InputError(f"device cuda: {reason}; use --device cpu")
    return torch.device("cpu" if name == "cpu" or reason else "cuda")


def why_no_cuda() -> str | None:
    """Why PyTorch can use no CUDA device here; ``None`` if it can."""
    with warnings.catch_warnings(record=True) as said:
        # An old driver is told of in a warning, which is the reason and not a second message.
        warnings.simplefilter("always")
        if torch.cuda.is_available():
            return None
    if torch.version.cuda is None and torch.version.hip is None:
        return f"PyTorch {torch.__version__} is built without CUDA"
    because = "".join(f" ({first_line(warning.message)})" for warning in said[:1])
    return f"PyTorch finds no CUDA device here{because}"


def forbid_tf32() -> None:
    """Keep CUDA from rounding the factors of fp32 products to TF32, in this whole process.

    TF32 has a mantissa of 10 bits: enough to move a token across the cut.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


@contextmanager
def gpu_failures(device: torch.device, when: str) -> Iterator[None]:
    """Errors of a GPU as one line; what else goes wrong is a defect and passes through.

    Raises:
        DeviceError: it has too little memory, or fails.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceError(f"device {device}: out of memory {when}; free some of it, or use --device cpu") from error
    except torch.AcceleratorError as error:
        raise DeviceError(f"device {device}: {first_line(error)} {when}; use --device cpu") from error


def _split(inference: Inference) -> list[Prediction]:
    given = inference.output.float().cpu().numpy()
    kept = [index.cpu().numpy() for index in inference.kept]
    margins = torch.stack([margin.float().cpu() for margin in inference.margins], dim=1).tolist()
    return [
        Prediction(row, tuple(index[number] for index in kept), tuple(margins[number]))
        for number, row in enumerate(given)
    ]

"""What an app reads of a Core ML package: the names, which Xcode makes Swift properties of, and checks of the rest."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tofe_edge.errors import DeviceError, InputError, quoted
from tofe_edge.evaluation.prediction import probabilities as softmax
from tofe_edge.io.artifact import DEFAULT_METHOD, Artifact, Manifest, Method

if TYPE_CHECKING:
    from tofe_edge.runtimes.mil import Feature, Function, MlPackage


IMAGE = "image"
LABEL = "classLabel"
PROBABILITIES = "classLabel_probs"
"""Of all classes, by label."""
LOGITS = "logits"


def token_order(stage: int) -> str:
    """The output with the selection of a stage, counted from 1."""
    return f"tokenOrder{stage}"


def function_name(method: str) -> str:
    """The function of a method: Core ML calls the one that runs by default ``main``."""
    return "main" if method == DEFAULT_METHOD else method


_PROBABILITY_ERROR = 2e-2
_ROUNDING = 2.0**-9
"""Of a half-precision number, relative, twice: logits nearer to each other may change places."""


def class_labels(package: MlPackage, function: Function) -> tuple[object, ...] | None:
    """The labels that a package gives the classes, in their order; ``None`` if it is not a classifier.

    Raises:
        InputError: it does not say them.
    """
    from tofe_edge.runtimes.mil.package import function_block
    from tofe_edge.runtimes.mil.values import read_value

    block = function_block(package.spec.mlProgram.functions[function.name], function.name, package.path)
    constants = {result.name: each for each in block.operations if each.type == "const" for result in each.outputs}
    for operation in block.operations:
        if operation.type != "classify":
            continue
        arguments = operation.inputs["classes"].arguments if "classes" in operation.inputs else []
        values = [
            constants[argument.name].attributes["val"] if argument.name in constants else argument.value
            for argument in arguments
        ]
        read = [read_value(value, package.weights) for value in values if value.HasField("type")]
        labels = read[0] if len(read) == 1 else None
        if not isinstance(labels, list):
            raise InputError(f"{package.path}: its classes have no list of labels; convert the model again")
        return tuple(labels)
    return None


def order_sizes(manifest: Manifest, method: Method) -> list[int]:
    """How many tokens each selection lists: all patches, and the last one those that are kept."""
    kept = method.token_counts or []
    return [manifest.patch_tokens] * (len(kept) - 1) + kept[-1:]


def check_interface(artifact: Artifact, method: Method, loaded: Loaded) -> None:
    """Compare inputs, outputs and labels of a function with the manifest; what it gives is called what the manifest calls it.

    Raises:
        InputError: they differ.
    """
    manifest = artifact.manifest
    as_image, size = manifest.io == "image", manifest.preprocessing.image_size
    expected = f"{IMAGE}: {'RGB image' if as_image else 'tensor'} {[1, 3, size, size]}"
    actual = ", ".join(_described(feature) for feature in loaded.function.inputs)
    if actual != expected:
        raise _differ(artifact, f"it takes {quoted(actual)}, not {quoted(expected)}")
    shapes = {manifest.output: manifest.shape}
    shapes.update({token_order(stage): (count,) for stage, count in enumerate(order_sizes(manifest, method), 1)})
    classifies_image = as_image and manifest.classifies
    outputs = {each.name: each for each in loaded.function.outputs}
    names = {*shapes, *((LABEL, PROBABILITIES) if classifies_image else ())}
    if outputs.keys() != names:
        odd = min(outputs.keys() ^ names)
        raise _differ(artifact, f"{'it has the' if odd in outputs else 'it lacks the'} output {quoted(odd)}")
    for name, expected_shape in shapes.items():
        shape = outputs[name].shape
        # Leading ones are no difference.
        same = math.prod(shape) == math.prod(expected_shape) and tuple(shape[-len(expected_shape) :]) == expected_shape
        if outputs[name].kind != "tensor" or not same:
            raise _differ(artifact, f"{name} has the shape {quoted(list(shape))}, not {[1, *expected_shape]}")
    if classifies_image:
        _check_labels(artifact, loaded.labels or ())


def _described(feature: Feature) -> str:
    return f"{feature.name}: {'RGB image' if feature.kind == 'image' else feature.kind} {list(feature.shape)}"


def _check_labels(artifact: Artifact, labels: Sequence[object]) -> None:
    """Each label is the name of its class, with the class identifier behind it if several have that name."""
    names, identifiers = artifact.manifest.class_names, artifact.manifest.class_ids
    if len(labels) != len(names):
        raise _differ(artifact, f"it has {len(labels)} labels, not {len(names)}")
    seen: set[object] = set()
    for number, (label, name, identifier) in enumerate(zip(labels, names, identifiers)):
        if label not in (name, f"{name} ({identifier})"):
            raise _differ(artifact, f"it calls class {number} {quoted(label)}, not {quoted(name)}")
        if label in seen:
            raise _differ(artifact, f"it calls class {number} {quoted(label)}, as it does another one")
        seen.add(label)


def read_orders(
    artifact: Artifact, method: Method, outputs: Mapping[str, Any]
) -> list[npt.NDArray[np.floating[Any] | np.signedinteger[Any]]]:
    """The selections of one run.

    Raises:
        InputError: one lists what is not a patch.
        DeviceError: one is missing.
    """
    orders = []
    for stage, size in enumerate(order_sizes(artifact.manifest, method), 1):
        name, tokens = token_order(stage), artifact.manifest.patch_tokens
        order = np.rint(np.asarray(_output(artifact, outputs, name)).reshape(-1))
        if order.size != size or not bool(((order >= 0) & (order < tokens)).all()):
            raise InputError(
                f"{artifact.path}: {name} does not list {size} of the {tokens} patches; convert the model again"
            )
        orders.append(order)
    return orders


def read_values(artifact: Artifact, outputs: Mapping[str, Any]) -> npt.NDArray[np.float32]:
    """The logits, embedding or features of one run. Raises :class:`DeviceError` if they are missing or of another size."""
    manifest = artifact.manifest
    values = np.asarray(_output(artifact, outputs, manifest.output), dtype=np.float32)
    if values.size != math.prod(manifest.shape):
        what = manifest.output if manifest.classifies else f"numbers of the {manifest.output}"
        raise DeviceError(f"{artifact.path}: gave {values.size} {what}; restart, or update the system")
    return values.reshape(manifest.shape)


def check_classification(
    artifact: Artifact, labels: Sequence[object], logits: npt.NDArray[np.float32], outputs: Mapping[str, Any]
) -> None:
    """Compare the class and the probabilities that an app reads with the logits. If those overflow, nothing is known.

    Raises:
        InputError: they differ.
        DeviceError: they are missing.
    """
    label, by_label = _output(artifact, outputs, LABEL), _output(artifact, outputs, PROBABILITIES)
    if not np.isfinite(logits).all():
        return
    names = artifact.manifest.class_names
    expected = softmax(logits)
    probabilities = np.array([by_label.get(each, np.nan) for each in labels], np.float64)
    for number in np.flatnonzero(~(np.abs(probabilities - expected) <= _PROBABILITY_ERROR))[:1]:
        raise _contradicts(
            artifact,
            f"{PROBABILITIES} gives class {number} {quoted(names[number])} {probabilities[number]:.3g}, "
            f"but its logits {expected[number]:.3g}",
        )
    best, named = int(logits.argmax()), labels.index(label) if label in labels else None
    near = _ROUNDING * (1 + float(np.abs(logits).max()))
    if (
        named is None
        or logits[best] - logits[named] > near
        or probabilities[named] < probabilities.max() * (1 - _ROUNDING)
    ):
        raise _contradicts(
            artifact, f"{LABEL} is {quoted(label)}, but its logits are best for class {best} {quoted(names[best])}"
        )


def _output(artifact: Artifact, outputs: Mapping[str, Any], name: str) -> Any:
    if name not in outputs:
        raise DeviceError(f"{artifact.path}: gave no {name}; restart, or update the system")
    return outputs[name]


def _differ(artifact: Artifact, what: str) -> InputError:
    return InputError(f"{artifact.path}: its manifest and the package differ ({what}); convert the model again")


def _contradicts(artifact: Artifact, what: str) -> InputError:
    return InputError(f"{artifact.path}: contradicts itself ({what}); convert the model again")


Engine = Callable[[npt.NDArray[np.float32]], Mapping[str, Any]]
"""Runs a function of a package: the input ``(1, 3, H, W)`` that it takes to outputs by name."""


@dataclass(frozen=True)
class Loaded:
    """An engine, and what the package says of the function that it runs.

    Attributes:
        engine: runs it.
        function: its inputs and outputs.
        labels: of its classes, in their order; ``None`` if it has none.
    """

    engine: Engine
    function: Function
    labels: tuple[object, ...] | None

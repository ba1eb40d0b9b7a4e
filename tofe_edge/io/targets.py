"""Targets: what a checkpoint can be exported to.

A target is one value of :class:`Target`, the ``TARGET`` of a module of its own; ``_MODULES`` lists them, and nothing else
in the program decides anything by a target's name. Those modules import light things alone at their top, so that names,
options and help cost no time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

from tofe_edge.errors import InputError
from tofe_edge.io.files import Content

_MODULES = {
    "executorch": "tofe_edge.converters.targets.xnnpack",
    "coreml": "tofe_edge.converters.targets.coreml",
    "onnx": "tofe_edge.converters.targets.onnx",
}


@dataclass(frozen=True)
class LoweredMethod:
    """What lowering tells about one method of a program."""

    delegates: int
    """Parts that run outside the runtime's own interpreter: XNNPACK subgraphs, one per stage; one for Core ML."""
    fallback_ops: dict[str, int]
    """Operators outside them, with their numbers."""
    planned_memory_bytes: int | None
    """``None`` if the device plans it when it loads the model."""


@dataclass(frozen=True)
class Lowered:
    """An exported model and what lowering tells about its methods."""

    content: Content
    methods: dict[str, LoweredMethod]

    @property
    def program(self) -> bytes:
        """The content of a model that is one file."""
        assert isinstance(self.content, bytes), "a package is a folder"
        return self.content


MIN_IMAGES_FOR_RATE = 100
"""Below this agreement is reported and not gated: a few borderline images would decide it. On 32 crops of two
photographs the shipped int8 model agrees on 75 %, on 200 validation images on 96.5 %, with the same SNR. A small sample
shows whether a program is right (SNR, kept tokens); how often int8 changes a class takes a real one (--data)."""


@dataclass(frozen=True)
class Gates:
    """Thresholds that an artifact of one precision must reach."""

    min_snr_db: float
    min_top1_agreement: float
    min_kept_overlap: float
    min_psnr_db: float = -math.inf
    max_drop: float | None = None
    """Points of top-1 accuracy that the artifact may have less than the reference; ``None`` is not gated."""
    min_images_for_rate: int = MIN_IMAGES_FOR_RATE
    """Fewer images do not gate agreement."""
    skips_near_ties: bool = False
    """Leave out images on which the reference holds two tokens at the cut less than a near tie apart."""
    min_cosine: float = 0.0
    """Mean cosine of embeddings, or of feature vectors, with the reference's."""
    min_worst_cosine: float = 0.0
    """The least cosine of an embedding; of features the lowest 5 % of the tokens."""
    min_neighbour_agreement: float = 0.0
    """Share of images, of those with a clearly nearest neighbour among all others, that have the same one by the artifact's
    embeddings."""
    min_token_snr_db: float = -math.inf
    """The median of the tokens of features."""


FP32_GATES = Gates(
    min_snr_db=60.0,
    min_top1_agreement=1.0,
    min_kept_overlap=1.0,
    skips_near_ties=True,
    min_cosine=0.99999,
    min_worst_cosine=0.9999,
    min_neighbour_agreement=1.0,
    min_token_snr_db=60.0,
)
"""Same arithmetic in another order: about 1e-6 of the logits, never another token or class but by a near tie."""

FP16_GATES = Gates(
    min_snr_db=20.0,
    min_psnr_db=35.0,
    min_top1_agreement=0.99,
    min_kept_overlap=0.98,
    min_cosine=0.995,
    min_worst_cosine=0.95,
    min_neighbour_agreement=0.99,
    min_token_snr_db=20.0,
)
"""35 dB is the PSNR gate of Apple's own converters of diffusion models. A token near the cut that fp16 swaps moves the logits
more than its arithmetic does: the shipped net has 29.7 dB of SNR with some swapped, and 53.8 with fp32's tokens forced."""

INT8_GATES = Gates(
    min_snr_db=10.0,
    min_top1_agreement=0.95,
    min_kept_overlap=0.85,
    min_cosine=0.95,
    min_worst_cosine=0.8,
    min_neighbour_agreement=0.95,
    min_token_snr_db=10.0,
)
"""Post-training int8 costs a vision transformer half a point of accuracy when done well; borderline images change sides,
one in twenty at most. Tokens near the cut change sides too, and move the logits more than rounding does: the shipped
net keeps 98, 96 and 93 % of its tokens in dynamic int8 at 16 dB. Below 10 dB or 85 % something is broken, not rounded."""


@dataclass(frozen=True)
class Precision:
    """How a target stores weights.

    Attributes:
        gates: what an artifact has to reach against its reference.
        int8_modes: ranges of activations that int8 may have, the default first; empty: it is not int8.
        quantizes_outputs: static int8 computes between two quantizers, not behind one.
        symmetric: static int8 has no zero points.
        by_token: dynamic int8 has a range per token, not one of all.
        palette_bits: weights are numbers of this many bits into a palette per layer.
    """

    gates: Gates
    int8_modes: tuple[str, ...] = ()
    quantizes_outputs: bool = True
    symmetric: bool = False
    by_token: bool = True
    palette_bits: int | None = None

    @property
    def quantizes(self) -> bool:
        """Whether the pipeline stores weights in less than 16 bits."""
        return bool(self.int8_modes) or self.palette_bits is not None


@dataclass(frozen=True)
class TargetOption:
    """An option that one target has, given as ``--option name=value``."""

    name: str
    help: str
    choices: tuple[str, ...] = ()


def _same(value: Any, _build: Any) -> Any:
    return value


def _no_options(_given: Mapping[str, str], _profile: Any) -> None:
    return None


@dataclass(frozen=True)
class Target:
    """One kind of model file and everything that depends on it.

    A *request* is a :class:`tofe_edge.converters.request.ConvertRequest`; a *build* is that with the net it is made from,
    a :class:`tofe_edge.converters.request.Build`; *options* are what ``read_options`` returned, the target's own.

    Attributes:
        name: as in ``--target`` and manifests.
        backend: what computes, as in manifests.
        title: for people.
        libraries: packages whose versions the manifest records, besides those that build the graph.
        precisions: by name, as in ``--precision``.
        selections: ways of putting tokens in order that can be lowered.
        options: those given as ``--option name=value``.
        deployment_targets: oldest systems to choose from, the oldest first; empty: it does not depend on the system.
        platforms: what ``tofe-edge package`` makes bundles for.
        native_runner: ``tofe_runner`` and the benches (this machine, ssh, adb) run it, so latency tables are of it.
        runtime_options: those of ``tofe-edge profile`` that ``time`` reads beside ``--method`` and ``--runs``; without
            ``provider`` among them ``open`` is given ``None``.
        check: raise :class:`InputError` if a request asks for what the target does not have.
        read_options: the frozen options, from ``--option`` and a device profile (or ``None``).
        name_suffix: what the options add to a file's name if they differ from the profile's.
        default_selection: for a device profile (or ``None``).
        manifest_fields: manifest keys that the options decide.
        prepare_images: calibration inputs, from normalised ones, as the rewritten graph takes them.
        rewrite: the fp32 graph as it is to be quantized.
        lower: one model with all methods, from graphs by method name.
        open: load one method of an artifact: ``(artifact, threads, method, provider) -> Model``.
        time: measure an artifact as ``tofe-edge profile`` is asked to: ``(artifact, request) -> report``, with a
            :class:`tofe_edge.runtimes.reports.ProfileRequest`.
    """

    name: str
    backend: str
    title: str
    suffix: str
    is_folder: bool
    libraries: tuple[str, ...]
    precisions: Mapping[str, Precision]
    lower: Callable[[Mapping[str, Any], Any], Lowered]
    open: Callable[[Any, int, str, str | None], Any]
    time: Callable[[Any, Any], Any]
    check: Callable[[Any], None]
    rewrite: Callable[[Any, Any], Any] = _same
    prepare_images: Callable[[Any, Any], Any] = _same
    selections: tuple[str, ...] = ("topk", "rank")
    default_selection: Callable[[Any], str] = lambda _profile: "topk"
    options: tuple[TargetOption, ...] = ()
    read_options: Callable[[Mapping[str, str], Any], Any] = _no_options
    name_suffix: Callable[[Any, Any], tuple[str, ...]] = lambda _options, _profile: ()
    manifest_fields: Callable[[Any], Mapping[str, Any]] = lambda _options: {}
    deployment_targets: tuple[str, ...] = ()
    platforms: tuple[str, ...] = ()
    native_runner: bool = False
    runtime_options: tuple[str, ...] = ()
    precision_hint: str = ""
    """Why other precisions are not there; the beginning of an error."""

    def check_runtime_option(self, name: str, model: object) -> None:
        """Raise :class:`InputError` if an option that was given for a model is one of other targets' runtimes."""
        if name not in self.runtime_options:
            owners = [one.suffix for one in map(find_target, target_names()) if name in one.runtime_options]
            raise InputError(f"--{name.replace('_', '-')} is for {' and '.join(owners)} models, not for {model}")

    def options_from(self, given: Mapping[str, str], profile: Any = None) -> Any:
        """The target's frozen options.

        Raises:
            InputError: one is not an option of this target, or has a value that it cannot have.
        """
        known = {option.name: option for option in self.options}
        for name, value in given.items():
            if name not in known:
                owners = [one for one in target_names() if name in {option.name for option in find_target(one).options}]
                hint = f"it is for --target {owners[0]}" if owners else f"it has {', '.join(known) or 'none'}"
                raise InputError(f"--option {name} is not an option of target {self.name}; {hint}")
            choices = known[name].choices
            if choices and value not in choices:
                raise InputError(f"--option {name}={value}: {name} is one of {', '.join(choices)}")
        return self.read_options(given, profile)


def target_names() -> tuple[str, ...]:
    """The names of all targets, the default first."""
    return tuple(_MODULES)


@cache
def find_target(name: str) -> Target:
    """The target of this name. Raises :class:`InputError`, listing the names, if there is none."""
    if name not in _MODULES:
        raise InputError(f"target {name!r} is not one of {', '.join(_MODULES)}")
    target = import_module(_MODULES[name]).TARGET
    assert isinstance(target, Target)
    return target


def targets_for(platform: str) -> tuple[str, ...]:
    """The names of the targets that ``tofe-edge package`` makes bundles of for a platform."""
    return tuple(name for name in _MODULES if platform in find_target(name).platforms)


def runs_on(manifest: Any, platform: str) -> bool:
    """Whether ``tofe-edge package`` makes bundles of an artifact for a platform."""
    return manifest.target in targets_for(platform) and manifest.backend == find_target(manifest.target).backend


def target_of(manifest: Any) -> Target:
    """The target that made an artifact.

    Raises:
        InputError: there is no such target, or not with the manifest's backend.
    """
    target = find_target(manifest.target)
    if manifest.backend != target.backend:
        raise InputError(
            f"{manifest.artifact}: is a model for {manifest.target} with {manifest.backend}, which this version no longer "
            "has; convert it again"
        )
    return target


def gates_of(manifest: Any) -> Gates:
    """The parity gates of an artifact: those that its target has for its precision.

    Raises:
        InputError: as :func:`target_of`, or the target does not have the precision.
    """
    precision = target_of(manifest).precisions.get(manifest.precision)
    if precision is None:
        raise InputError(
            f"{manifest.artifact}: {manifest.target} has no precision {manifest.precision}; convert it again"
        )
    return precision.gates

"""Classes and preprocessing of a net: what a user says about them comes before what files do, and who said it is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tofe_edge.errors import InputError, require
from tofe_edge.io.configs import Config, describe_preprocessing, read_preprocessing
from tofe_edge.io.labels import Classes, default_classes, read_labels
from tofe_edge.io.preprocessing import Preprocessing
from tofe_edge.model.backbones.timm_vit import imagenet_classes
from tofe_edge.model.checkpoint import Checkpoint


@dataclass(frozen=True)
class Choices:
    """What a user says about weights; ``None``: the file, what stands beside it, or the backbone's name tells.

    Attributes:
        labels: a file or folder of class names, ``imagenet``, or classes.
        preprocessing: ``imagenet``, ``inception``, ``clip``, a file, or a value whose image size does not count.
        image_size: side of the input in pixels; the position embedding is interpolated to it.
    """

    labels: str | Classes | None = None
    preprocessing: str | Preprocessing | None = None
    image_size: int | None = None


NO_CHOICES = Choices()


def chosen(checkpoint: Checkpoint, choices: Choices) -> Checkpoint:
    """A checkpoint with other class names or preprocessing than its header says, if they are chosen.

    Raises:
        InputError: a choice does not fit.
    """
    sources, remarks = dict(checkpoint.sources), list(checkpoint.remarks)
    if choices.labels is not None:
        classes, sources["classes"] = labelled(choices.labels, len(checkpoint.classes.ids), checkpoint.name)
        checkpoint = replace(checkpoint, classes=classes)
    if choices.preprocessing is not None:
        preprocessing, sources["preprocessing"] = choose_preprocessing(
            checkpoint.preprocessing, choices.preprocessing, Config(), checkpoint.backbone_name, remarks
        )
        checkpoint = replace(checkpoint, preprocessing=preprocessing)
    return replace(checkpoint, sources=sources, remarks=tuple(remarks))


def choose_classes(
    count: int, labels: str | Classes | None, config: Config, what: str, remarks: list[str]
) -> tuple[Classes, str]:
    """Classes of a net with so many outputs, and where they are from. What should be said is added to the remarks."""
    if labels is not None:
        return labelled(labels, count, what)
    if count == 0:
        return Classes((), ()), "no head"
    if config.classes is not None:
        if len(config.classes.ids) == count:
            return as_imagenet(config.classes), config.classes_file
        remarks.append(
            f"{config.classes_file} names {len(config.classes.ids)} classes, {what} has {count} outputs; the names are not used"
        )
    remarks.append(
        f"{what} does not name its {count} classes: they are called class 0 to class {count - 1}, by number; name them with "
        "--labels FILE, a folder of class folders, or imagenet"
    )
    return default_classes(count), "their numbers, as nothing names them"


def labelled(labels: str | Classes, count: int, what: str) -> tuple[Classes, str]:
    """The classes that ``--labels`` gives, and its name. Raises :class:`InputError` if they are not as many as the outputs."""
    if isinstance(labels, Classes):
        require(len(labels.ids) == count, f"{len(labels.ids)} class names for the {count} outputs of {what}")
        return labels, "the caller"
    require(count > 0, f"--labels {labels}: {what} has no head, so it has no classes")
    classes = (
        imagenet() if labels == "imagenet" and not Path(labels).exists() else as_imagenet(read_labels(Path(labels)))
    )
    if len(classes.ids) != count:
        raise InputError(f"--labels {labels}: names {len(classes.ids)} classes, the head of {what} has {count} outputs")
    return classes, f"--labels {labels}"


def imagenet() -> Classes:
    """ImageNet's 1000 classes: WordNet ids and names."""
    ids, names = imagenet_classes()
    return Classes(tuple(ids), tuple(names))


def as_imagenet(classes: Classes) -> Classes:
    """The same classes, with WordNet ids if they are ImageNet's by id or by first name."""
    if len(classes.ids) != 1000:
        return classes
    known = imagenet()
    first = tuple(name.split(",")[0].strip().lower() for name in classes.names)
    same = classes.ids == known.ids or first == tuple(name.lower() for name in known.names)
    return known if same else classes


def choose_preprocessing(
    base: Preprocessing, choice: str | Preprocessing | None, config: Config, name: str, remarks: list[str]
) -> tuple[Preprocessing, str]:
    """How images are made into inputs, and who says so.

    Args:
        base: what the net of this name takes.
    """
    if isinstance(choice, Preprocessing):
        return replace(choice, image_size=base.image_size), "the caller"
    if choice is not None:
        keys, notes = read_preprocessing(choice)
        source = f"--preprocessing {choice}"
    elif config.preprocessing:
        keys, notes = dict(config.preprocessing), config.notes
        source = config.preprocessing_file
    else:
        return base, f"the name {name}"
    remarks += [f"{source}: {text}" for text in notes]
    return replace(base, **keys), source


def source_facts(checkpoint: Checkpoint) -> list[tuple[str, str]]:
    """Rows for a summary: weights, preprocessing, classes, and where each is from."""
    sources, count = checkpoint.sources, len(checkpoint.classes.ids)
    rows = [("weights", sources["weights"])] if "weights" in sources else []
    of = sources.get("preprocessing", "the checkpoint")
    rows.append(("preprocessing", f"{describe_preprocessing(checkpoint.preprocessing)} (from {of})"))
    if "classes" in sources and count:
        first = ", ".join(checkpoint.classes.names[:3])
        rows.append(("classes", f"{count}: {first}{', …' if count > 3 else ''} (from {sources['classes']})"))
    return [*rows, *(("warning", remark) for remark in checkpoint.remarks)]


def source_json(checkpoint: Checkpoint, remarks: Sequence[str] = ()) -> dict[str, Any]:
    """The same for a document: ``preprocessing``, ``sources`` and ``warnings``, among them remarks on something else."""
    return {
        "preprocessing": checkpoint.preprocessing.to_json(),
        "sources": dict(checkpoint.sources),
        "warnings": [*checkpoint.remarks, *(checkpoint.training or {}).get("warnings", []), *remarks],
    }

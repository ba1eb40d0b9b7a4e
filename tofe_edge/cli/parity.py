"""``tofe-edge parity``: does a converted model predict what the reference predicts?"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tofe_edge.cli.options import add_checkpoint, add_data, add_method, open_checkpoint, positive_int, preprocessing_for
from tofe_edge.cli.output import emit, facts
from tofe_edge.errors import InputError

if TYPE_CHECKING:
    from tofe_edge.artifact import Artifact
    from tofe_edge.checkpoint import Checkpoint
    from tofe_edge.inputs import Inputs
    from tofe_edge.parity import Parity


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Declare the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "parity", help="compare a converted model with the PyTorch reference"
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="a .pte or .mlpackage with its manifest beside it")
    parser.add_argument(
        "--device", choices=("auto", "cuda", "cpu"), default="auto", help="where the reference runs (default: auto)"
    )
    parser.add_argument(
        "--threads", type=positive_int, default=1, metavar="N", help="threads of the artifact (default: 1)"
    )
    add_method(parser)
    add_checkpoint(parser)
    add_data(parser, "labelled images: DIR/<class id>/<image> (default: crops of two sample photographs)")
    return parser


def run(args: argparse.Namespace) -> int:
    """Compare and print; exit code 1 where a gate fails."""
    from tofe_edge.artifact import open_artifact
    from tofe_edge.inputs import load_folder, load_photographs

    artifact = open_artifact(args.model)
    checkpoint = find_reference(artifact, args.checkpoint, args.backbone)
    spec = preprocessing_for(artifact.manifest.preprocessing, args)
    if args.data is not None:
        inputs = load_folder(args.data, artifact.manifest.class_ids, spec, args.limit)
    else:
        inputs = load_photographs(spec)
    result = check(artifact, checkpoint, inputs, args.device, args.threads, args.method)
    document = {
        **result.to_json(),
        "model": str(args.model),
        "source": inputs.source,
        "unreadable": [str(p) for p in inputs.unreadable],
    }
    emit(args.json, document, describe(result, inputs))
    return 0 if result.passed else 1


def find_reference(artifact: Artifact, name: str | None, backbone: str | None) -> Checkpoint:
    """The checkpoint an artifact was made from: a shipped one by checksum, or the one named.

    Raises:
        InputError: it is not a shipped one and none is named, or the one named is another.
    """
    from tofe_edge.zoo import find_by_checksum

    manifest = artifact.manifest
    if name is None:
        found = find_by_checksum(manifest.checkpoint_sha256)
        if found is None:
            raise InputError(
                f"{artifact.path}: was made from {manifest.checkpoint!r}, which is not shipped; name its file with --checkpoint"
            )
        return found
    checkpoint = open_checkpoint(name, backbone)
    if checkpoint.sha256() != manifest.checkpoint_sha256:
        raise InputError(
            f"{checkpoint.path}: is not the checkpoint that {artifact.path} was made from ({manifest.checkpoint!r})"
        )
    return checkpoint


def check(
    artifact: Artifact,
    checkpoint: Checkpoint,
    inputs: Inputs,
    device: str = "auto",
    threads: int = 1,
    method: str = "forward",
) -> Parity:
    """Run artifact and reference on the same inputs and compare them with the gates of the artifact's precision."""
    from runtimes.loading import load_model
    from tofe_edge.backbones import TokenCounts
    from tofe_edge.parity import GATES, compare
    from tofe_edge.progress import progress_bar
    from tofe_edge.reference import load_reference

    model = load_model(artifact, threads, method)
    kept = model.method.token_counts
    reference = load_reference(
        checkpoint,
        "dense" if kept is None else "batch",
        device,
        counts=None if kept is None else TokenCounts(tuple(kept)),
        image_size=artifact.manifest.preprocessing.image_size,
    )
    with progress_bar("parity", total=2 * len(inputs.pixels), unit="image") as bar:
        found = []
        for pixels in inputs.pixels:
            found.append(model(pixels))
            bar.update(1)
        wanted = []
        for prediction in reference.predict_all(inputs.pixels):
            wanted.append(prediction)
            bar.update(1)
    return compare(wanted, found, inputs.labels, GATES[artifact.manifest.precision])


def describe(result: Parity, inputs: Inputs) -> str:
    """Facts for people, the verdict last."""
    unreadable = f" ({len(inputs.unreadable)} unreadable left out)" if inputs.unreadable else ""
    ties = f", {result.near_ties} with tied tokens not gated" if result.near_ties else ""
    rows = [
        ("images", f"{result.images} from {inputs.source}{unreadable}{ties}"),
        (
            "top-1 agreement",
            f"{result.top1_agreement:.1%} (on {result.decided_images} decided images {result.decided_agreement:.1%})",
        ),
        ("logits SNR", f"{result.snr_db:.1f} dB"),
    ]
    if result.kept_overlap:
        rows.append(("kept tokens", "overlap a stage: " + ", ".join(f"{value:.1%}" for value in result.kept_overlap)))
    if result.top1_reference is not None and result.top1_artifact is not None:
        rows.append(("top-1", f"{result.top1_artifact:.1%}, reference {result.top1_reference:.1%}"))
    rows.append(("gates", "passed" if result.passed else "FAILED: " + "; ".join(result.failures)))
    return facts(rows)

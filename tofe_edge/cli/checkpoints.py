"""``tofe-edge checkpoints``: the shipped checkpoints, or the whole header of one."""

from __future__ import annotations

import argparse
from typing import Any

from tofe_edge.budget.gmacs import accuracy_of
from tofe_edge.cli.options import add_backbone
from tofe_edge.cli.output import emit, facts, table, tree
from tofe_edge.model.checkpoint import Checkpoint
from tofe_edge.model.choices import source_facts
from tofe_edge.model.zoo import shipped_checkpoints
from tofe_edge.workflows.sources import open_checkpoint


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="a shipped checkpoint or a file: show its header")
    add_backbone(parser)


def run(args: argparse.Namespace) -> int:
    """Print the list or one header."""
    if args.name:
        checkpoint = open_checkpoint(args.name, args.backbone)
        emit(args.json, _to_json(checkpoint), _describe(checkpoint))
        return 0
    shipped = shipped_checkpoints()
    rows = [[c.name, c.backbone_name, f"{c.gmacs:.3f}", str(c.token_counts or "dense"), _accuracy(c)] for c in shipped]
    listed = table(rows, ["checkpoint", "backbone", "GMACs", "tokens kept", "top-1"])
    data = ", ".join(dict.fromkeys(c.accuracy.get("dataset", "unnamed data") for c in shipped if c.accuracy))
    emit(args.json, [_to_json(c) for c in shipped], f"{listed}\n\nTop-1 on {data}" if data else listed)
    return 0


def _accuracy(checkpoint: Checkpoint) -> str:
    accuracy = checkpoint.accuracy
    if not accuracy:
        return accuracy_of(checkpoint)
    return f"{accuracy['top1']:.1f} %"


def _to_json(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "name": checkpoint.name,
        "backbone": checkpoint.backbone_name,
        "overrides": checkpoint.overrides,
        "selects_before": list(checkpoint.stages) if checkpoint.stages and checkpoint.token_counts else None,
        "reduction": checkpoint.reduction if checkpoint.token_counts else None,
        "token_counts": list(checkpoint.token_counts.kept) if checkpoint.token_counts else None,
        "gmacs": checkpoint.gmacs,
        "dense_gmacs": checkpoint.dense_gmacs,
        "preprocessing": checkpoint.preprocessing.to_json(),
        "accuracy": checkpoint.accuracy,
        "training": checkpoint.training,
        "path": str(checkpoint.path),
        "sha256": checkpoint.sha256(),
    }


def _describe(checkpoint: Checkpoint) -> str:
    measure = (checkpoint.training or {}).get("reduced", {}).get("measure", "nats") if checkpoint.budgets else None
    rows = source_facts(checkpoint) if checkpoint.plain else []
    for budget in checkpoint.budgets:
        counts = ", ".join(map(str, budget.counts))
        rows.append(("divergence", f"{budget.divergence:.3f} {measure} from the dense net if {counts} tokens are kept"))
        rows.append(
            ("agreement", f"{budget.agreement:.1f} % of images with the dense net's best class or nearest neighbour")
        )
    return "\n".join([tree(_to_json(checkpoint)), *([facts(rows)] if rows else [])])

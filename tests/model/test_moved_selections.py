"""A net whose selections stand before other blocks than the paper's goes all the way."""

from pathlib import Path

import pytest
import torch
from conftest import TINY, Program, document_of

from tofe_edge.model.backbones import TokenCounts, create_backbone
from tofe_edge.model.checkpoint import default_classes, describe, read_header, save
from tofe_edge.model.resolution import at_image_size
from tofe_edge.model.tofe import ToFe


def early_net(name: str = "deit_tiny_patch16_224") -> ToFe:
    """Six blocks, selections before blocks 1, 2 and 5, in eval mode."""
    torch.manual_seed(0)
    model = ToFe(create_backbone(name, {**TINY, "depth": 6}, stages=(1, 2, 5))).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter.data, std=0.1)
    return model


@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "lvvit_s"])
def test_it_selects_there_at_another_image_size_too(name: str) -> None:
    model = early_net(name)
    resized = at_image_size(model, TokenCounts((9, 6, 3)), model.backbone.preprocessing, 96).model
    assert resized.backbone.spec.stages == model.backbone.spec.stages


def test_it_is_converted_within_its_gates_and_profiled_by_its_own_stages(program: Program, tmp_path: Path) -> None:
    model = early_net()
    host = model.backbone
    counts = TokenCounts((9, 6, 3))
    path = tmp_path / "early.safetensors"
    save(path, model, describe("early", host.spec, host.preprocessing, default_classes(10), counts))
    options = ("--profile", "jetson_orin", "--precision", "fp32")
    written = document_of(program, "convert", "--checkpoint", path, *options, "--out", tmp_path)
    assert (written["token_counts"], written["gmacs"]) == ([9, 6, 3], read_header(path).gmacs)
    document = document_of(program, "profile", written["artifact"], "--runs", "2")
    names = [stage["name"] for stage in document["stages"] if not stage["name"].startswith("selection")]
    assert names == [
        "stem, block 1, selector 1",
        "block 2, approximator 1, selector 2",
        "blocks 3-5, approximator 2, selector 3",
        "block 6, head",
    ]

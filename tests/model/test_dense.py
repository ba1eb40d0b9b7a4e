"""Weights of one's own: size, classes and preprocessing are the file's, and what was decided is said."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY, refused, tiny_tofe
from safetensors.torch import save_file
from torch import Tensor

from tofe_edge.errors import InputError
from tofe_edge.io.labels import Classes
from tofe_edge.model import dense
from tofe_edge.model.backbones import create_backbone
from tofe_edge.model.checkpoint import Checkpoint, load_model
from tofe_edge.model.choices import Choices, chosen, imagenet, source_facts
from tofe_edge.model.dense import describe_dense, open_dense
from tofe_edge.workflows.sources import open_checkpoint

DEIT = "deit_tiny_patch16_224"


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Published names stand for tiny nets."""

    def tiny(name: str, overrides: Mapping[str, int] | None = None, *rest: Any, **keywords: Any) -> Any:
        return create_backbone(name, {**TINY, **(overrides or {})}, *rest, **keywords)

    monkeypatch.setattr(dense, "create_backbone", tiny)


def weights_of(**overrides: int) -> dict[str, Tensor]:
    return {
        key.removeprefix("vit."): value for key, value in tiny_tofe(DEIT, **overrides).backbone.state_dict().items()
    }


def written(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize("overrides", [{}, {"classes": 37}, {"image_size": 96}, {"classes": 3, "image_size": 32}])
def test_size_and_classes_are_those_of_the_tensors(tmp_path: Path, overrides: dict[str, int]) -> None:
    header = describe_dense(written(tmp_path / "own.ckpt", {"state_dict": weights_of(**overrides)}), DEIT)
    spec = load_model(header).backbone.spec
    assert (spec.classes, spec.image_size) == (overrides.get("classes", 10), overrides.get("image_size", 64))
    assert header.preprocessing.image_size == spec.image_size and len(header.classes.ids) == spec.classes
    size = overrides.get("image_size", 64)
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        expected, actual = (net.forward_dense(images) for net in (tiny_tofe(DEIT, **overrides), load_model(header)))
    assert torch.equal(expected, actual)


def test_another_image_size_interpolates_positions(tmp_path: Path) -> None:
    path = written(tmp_path / "own.pth", weights_of())
    net = open_dense(path, DEIT, Choices(image_size=96))
    assert net.adapter.spec.patch_tokens == 36 and net.header.overrides["image_size"] == 96
    assert net.header.preprocessing.image_size == net.adapter.preprocessing.image_size == 96
    assert load_model(net.header).backbone.spec.patch_tokens == 36
    assert "must be a multiple of 16" in refused(path, lambda: open_dense(path, DEIT, Choices(image_size=100)))
    with pytest.raises(InputError, match=r"image size 100 does not fit .* must be a multiple of 16"):
        open_dense(None, DEIT, Choices(image_size=100))


def test_averaged_weights_are_taken_and_said(tmp_path: Path) -> None:
    zeros = {key: value * 0 for key, value in weights_of().items()}
    header = describe_dense(written(tmp_path / "run.pth", {"model": zeros, "model_ema": weights_of()}), DEIT)
    assert any("averaged weights (model_ema) are used, not those under model" in remark for remark in header.remarks)
    assert ("weights", "run.pth, key model_ema") in source_facts(header)
    assert float(load_model(header).backbone.state_dict()["vit.norm.weight"].abs().max()) > 0


LABELS: dict[str, Callable[[Path], str]] = {
    "file": lambda at: str(put(at / "names.txt", "\n".join(f"kind {n}" for n in range(10)))),
    "folders": lambda at: str(folders(at / "pictures", [f"kind {n}" for n in range(10)])),
}


def put(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def folders(at: Path, names: list[str]) -> Path:
    for name in names:
        (at / name).mkdir(parents=True)
    return at


@pytest.mark.parametrize("kind", LABELS)
def test_labels_name_the_classes(tmp_path: Path, kind: str) -> None:
    labels = LABELS[kind](tmp_path)
    header = describe_dense(written(tmp_path / "own.pth", weights_of()), DEIT, Choices(labels=labels))
    assert header.classes.ids == header.classes.names == tuple(f"kind {n}" for n in range(10))
    assert header.sources["classes"] == f"--labels {labels}" and not header.remarks


def test_without_names_they_are_numbers_and_that_is_said(tmp_path: Path) -> None:
    header = describe_dense(written(tmp_path / "own.pth", weights_of()), DEIT)
    assert header.classes.ids[3] == "3" and header.classes.names[3] == "class 3"
    (remark,) = header.remarks
    assert "own.pth does not name its 10 classes" in remark and "--labels" in remark


def test_a_thousand_outputs_are_not_imagenets_unless_somebody_says_so(tmp_path: Path) -> None:
    path = written(tmp_path / "own.pth", weights_of(classes=1000))
    assert describe_dense(path, DEIT).classes.names[0] == "class 0"
    assert describe_dense(path, DEIT, Choices(labels="imagenet")).classes == imagenet()
    names = [*imagenet().names]
    (tmp_path / "config.json").write_text(
        json.dumps({"id2label": {str(n): f"{name}, x" for n, name in enumerate(names)}})
    )
    assert describe_dense(path, DEIT).classes.ids[0] == "n01440764"


def test_what_stands_beside_the_weights_counts(tmp_path: Path) -> None:
    path = written(tmp_path / "own.pth", weights_of(classes=2))
    config = {
        "architecture": f"{DEIT}.fb_in1k",
        "label_names": ["cat", "dog"],
        "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    header = describe_dense(path)
    assert (header.backbone_name, header.classes.names, header.preprocessing.mean) == (
        DEIT,
        ("cat", "dog"),
        (0.5, 0.5, 0.5),
    )
    assert (header.sources["classes"], header.sources["preprocessing"]) == ("config.json", "config.json")
    other = describe_dense(path, choices=Choices(preprocessing="imagenet"))
    assert other.sources["preprocessing"] == "--preprocessing imagenet" and other.preprocessing.mean[0] == 0.485
    config["label_names"] = ["cat", "dog", "cow"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert any("names 3 classes, own.pth has 2 outputs" in remark for remark in describe_dense(path).remarks)


def test_a_folder_of_the_hub_is_its_weights(tmp_path: Path) -> None:
    folder = tmp_path / "my-vit"
    folder.mkdir()
    save_file(weights_of(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"architecture": DEIT}))
    opened = open_checkpoint(folder)
    assert (opened.path, opened.backbone_name, opened.name) == (folder / "model.safetensors", DEIT, "my-vit")
    assert "is not a file" in refused(tmp_path, lambda: describe_dense(tmp_path, DEIT))


def test_heads_of_attention_are_not_in_the_shapes(tmp_path: Path) -> None:
    path = written(tmp_path / "own.pth", weights_of())
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit", "num_attention_heads": 4}))
    assert "config.json says 4 heads of attention" in refused(path, lambda: describe_dense(path, DEIT))


def test_a_dense_form_of_our_own_checkpoints_keeps_what_their_headers_say(tiny_checkpoint: Checkpoint) -> None:
    net = open_dense(tiny_checkpoint.path)
    assert net.header.backbone_name == DEIT and net.header.classes == tiny_checkpoint.classes
    assert net.header.preprocessing == tiny_checkpoint.preprocessing and not net.header.remarks
    assert net.header.sources["preprocessing"] == "its header"


def test_choices_hold_for_checkpoints_too(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    names = put(tmp_path / "names.txt", "\n".join(f"kind {n}" for n in range(10)))
    opened = open_checkpoint(tiny_checkpoint.path, labels=names, preprocessing="clip")
    assert opened.classes.names[9] == "kind 9" and opened.preprocessing.mean[0] == pytest.approx(0.4814, abs=1e-3)
    facts = dict(source_facts(opened))
    assert "CLIP's mean and std (from --preprocessing clip)" in facts["preprocessing"]
    assert "(from the checkpoint)" in dict(source_facts(tiny_checkpoint))["preprocessing"]
    assert chosen(opened, Choices()) == opened


def test_plain_weights_need_no_backbone_if_shapes_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "own.bin", weights_of())
    assert "no net of timm is known for 4 blocks of 48 channels" in refused(path, lambda: open_checkpoint(path))
    monkeypatch.setattr(dense, "guess_architecture", lambda *_: (DEIT,))
    opened = open_checkpoint(path)
    assert opened.plain and any("by the shapes of its tensors" in remark for remark in opened.remarks)
    monkeypatch.setattr(dense, "guess_architecture", lambda *_: (DEIT, "deit_small_patch16_224"))
    assert f"may be of {DEIT} or deit_small_patch16_224" in refused(path, lambda: open_checkpoint(path))


def nan(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    weights["blocks.1.mlp.fc2.weight"][0, 0] = torch.nan
    return weights


def grey(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**weights, "patch_embed.proj.weight": weights["patch_embed.proj.weight"][:, :1]}


FAULTS: dict[str, tuple[Callable[[dict[str, Tensor]], dict[str, Tensor]], Choices, str]] = {
    "labels of another head": (dict, Choices(labels="imagenet"), "names 1000 classes, the head of own.pth has 10 outputs"),
    "missing labels": (dict, Choices(labels="absent.txt"), "no such file or folder of labels"),
    "unknown preprocessing": (dict, Choices(preprocessing="imagnet"), "is not a file or one of imagenet"),
    "classes of another number": (dict, Choices(labels=Classes(("a",), ("a",))), "1 class names for the 10 outputs"),
    "NaN": (nan, Choices(), "blocks.1.mlp.fc2.weight holds NaN"),
    "grey pictures": (grey, Choices(), "they have 1 image channels, it has 3"),
    "pooling": (lambda w: {**w, "fc_norm.weight": w["norm.weight"]}, Choices(), "averages the patches"),
    "LayerScale": (lambda w: {**w, "blocks.0.ls1.gamma": torch.ones(48)}, Choices(), "they have LayerScale"),
    "registers": (lambda w: {**w, "reg_token": torch.ones(1, 4, 48)}, Choices(), "they have register tokens"),
    "blocks": (lambda w: {k: v for k, v in w.items() if "blocks.3" not in k}, Choices(), "they have 3 blocks, it has 4"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_fit_names_the_cause_in_one_line(fault: str, tmp_path: Path) -> None:
    damage, choices, message = FAULTS[fault]
    path = tmp_path / "own.pth"
    save_file({key: value.contiguous().clone() for key, value in damage(weights_of()).items()}, path)
    assert re.search(message, refused(path, lambda: describe_dense(path, DEIT, choices)))

"""Checkpoints come back as they were written, and nothing else comes in."""

import errno
import json
import math
import operator
import random
import re
import resource
from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from conftest import (
    JSON_VALUES,
    TINY,
    TINY_COUNTS,
    Program,
    document_of,
    fine_or_refused,
    refused,
    signed_again,
    tiny_tofe,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from tofe_edge.errors import InputError
from tofe_edge.io.labels import default_classes
from tofe_edge.io.tensors import read_tensors
from tofe_edge.model.backbones import TokenCounts, create_backbone
from tofe_edge.model.checkpoint import (
    Checkpoint,
    describe,
    load_model,
    read_header,
    save,
)
from tofe_edge.model.dense import describe_dense
from tofe_edge.model.macs import dense_macs, gmacs, tofe_macs
from tofe_edge.model.resolution import at_image_size
from tofe_edge.model.tofe import ToFe

DEIT = "deit_tiny_patch16_224"
KEY = "tofe_edge"


def parts(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with safe_open(str(path), framework="pt") as handle:
        return {key: handle.get_tensor(key) for key in handle.keys()}, json.loads(handle.metadata()[KEY])  # noqa: SIM118


def rewritten(source: Checkpoint, path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of a checkpoint with its header changed."""
    tensors, document = parts(source.path)
    change(document)
    save_file(tensors, str(path), {KEY: json.dumps(signed_again(document))})
    return path


def images() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_what_half_precision_cannot_hold_is_stored_in_single(tmp_path: Path) -> None:
    model = tiny_tofe()
    with torch.no_grad():
        model.state_dict()["approximators.0.fc2.weight"].fill_(1e6)
    spec, preprocessing = model.backbone.spec, model.backbone.preprocessing
    header = describe("net", spec, preprocessing, default_classes(spec.classes), TINY_COUNTS)
    written = save(tmp_path / "net.safetensors", model, header)
    weights, _ = parts(written.path)
    single = [key for key, value in weights.items() if value.dtype == torch.float32]
    assert single == ["approximators.0.fc2.weight"]
    assert bool((load_model(written).state_dict()[single[0]] == 1e6).all())


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("name", [DEIT, "lvvit_s"])
def test_header_and_logits_come_back(tmp_path: Path, name: str, half: bool) -> None:
    model, counts = tiny_tofe(name), TokenCounts((9, 5, 3))
    spec = model.backbone.spec
    header = describe("net", spec, model.backbone.preprocessing, default_classes(10), counts, {"top1": 1.5}, {"a": [1]})
    written = save(tmp_path / "net.safetensors", model, header, half)
    read = read_header(tmp_path / "net.safetensors")
    assert replace(read, gmacs=0, dense_gmacs=0) == replace(written, gmacs=0, dense_gmacs=0)
    assert read.gmacs == pytest.approx(gmacs(tofe_macs(spec, counts.kept)), abs=1e-6)
    assert read.dense_gmacs == pytest.approx(gmacs(dense_macs(spec)), abs=1e-6)
    loaded = load_model(read)
    assert not loaded.training
    assert all(parameter.dtype == torch.float32 for parameter in loaded.parameters())
    with torch.no_grad():
        wanted, found = (net.forward_dense(images()) for net in (model, loaded))
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-2 if half else 0)
    assert half != torch.equal(found, wanted)


def test_the_places_of_selections_come_back(tmp_path: Path) -> None:
    host = create_backbone("deit_tiny_patch16_224", {**TINY, "depth": 6}, stages=(1, 2, 5))
    model, counts = ToFe(host).eval(), TokenCounts((9, 6, 3))
    header = describe("early", host.spec, host.preprocessing, default_classes(10), counts)
    save(tmp_path / "early.safetensors", model, header, half=False)
    read = read_header(tmp_path / "early.safetensors")
    assert read.stages == (1, 2, 5)
    images = torch.randn(2, 3, host.spec.image_size, host.spec.image_size)
    with torch.no_grad():
        wanted, found = (net.forward_batch(images, counts).logits for net in (model, load_model(read)))
    assert torch.equal(wanted, found)


def test_saving_twice_gives_the_same_bytes(tmp_path: Path, tiny_checkpoint: Checkpoint) -> None:
    again = save(tmp_path / "again.safetensors", tiny_tofe(), tiny_checkpoint)
    assert again.sha256() == tiny_checkpoint.sha256()


def test_a_dense_checkpoint_holds_no_selectors_and_gives_the_dense_logits(tiny_dense_checkpoint: Checkpoint) -> None:
    read = read_header(tiny_dense_checkpoint.path)
    assert read.token_counts is None
    assert read.gmacs == read.dense_gmacs
    assert all(key.startswith("backbone.") for key in read_tensors(read.path))
    with torch.no_grad():
        wanted, found = (net.forward_dense(images()) for net in (tiny_tofe(), load_model(read)))
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-2)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_plain_dense_weights_are_a_dense_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    monkeypatch.setattr(
        "tofe_edge.model.dense.create_backbone",
        lambda name, overrides=None, **rest: create_backbone(name, {**TINY, **(overrides or {})}, **rest),
    )
    model, path = tiny_tofe(), tmp_path / f"plain{suffix}"
    weights = {key.removeprefix("vit."): value for key, value in model.backbone.state_dict().items()}
    save_file(weights, str(path)) if suffix == ".safetensors" else torch.save(weights, path)
    header = describe_dense(path, DEIT)
    assert (header.name, header.token_counts, header.plain, header.top1) == ("plain", None, True, -1.0)
    assert header.classes.ids == tuple("0123456789")
    with torch.no_grad():
        assert torch.equal(load_model(header).forward_dense(images()), model.forward_dense(images()))


def test_describe_dense_needs_the_file_and_a_fit_backbone(tmp_path: Path, weights: Path) -> None:
    assert "no such checkpoint" in refused(tmp_path / "no.pth", lambda: describe_dense(tmp_path / "no.pth", DEIT))
    with pytest.raises(InputError, match="cannot carry ToFe"):
        describe_dense(weights, "resnet18")


def test_a_file_without_our_header_says_what_has_one(tmp_path: Path) -> None:
    path = tmp_path / "plain.safetensors"
    save_file({"x": torch.zeros(1)}, str(path))
    assert "as train and reduce write them" in refused(path, lambda: read_header(path))


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    missing = tmp_path / "no.safetensors"
    assert "no such checkpoint" in refused(missing, lambda: read_header(missing))
    assert "is not a file" in refused(tmp_path, lambda: read_header(tmp_path))
    assert "no such checkpoint" in refused(missing, lambda: read_tensors(missing))


def test_an_unreadable_file_is_refused(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "open", mock.Mock(side_effect=PermissionError(errno.EACCES, "Permission denied")))
    path = weights
    assert "cannot be read (Permission denied)" in refused(path, lambda: read_header(path))


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.001, 0.01, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("read", [read_header, read_tensors])
def test_a_file_cut_short_anywhere_is_refused(
    tmp_path: Path, weights: Path, share: float, read: Callable[[Path], object]
) -> None:
    content, path = weights.read_bytes(), tmp_path / "cut.safetensors"
    for wrong in (content[: int(share * len(content))], content[:-1], content + b"\0"):
        path.write_bytes(wrong)
        assert "damaged or cut short" in refused(path, lambda: read(path))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_random_bytes_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "random.safetensors"
    path.write_bytes(content)
    refused(path, lambda: read_header(path))
    refused(path, lambda: read_tensors(path))
    path = tmp_path / "random.pth"
    path.write_bytes(content)
    refused(path, lambda: read_tensors(path))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_under_the_name_of_a_checkpoint_is_called_one(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "pickle.safetensors"
    torch.save({"x": torch.zeros(1)}, path, _use_new_zipfile_serialization=zipped)
    assert "is a PyTorch pickle" in refused(path, lambda: read_header(path))


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        *((text, "header is not JSON") for text in ("", "{not json", "[" * 100_000, '{"schema": ' + "1" * 5000 + "}")),
        *((text, "schema") for text in ("[]", "null", "1", '"text"', "{}", '{"schema": 3}', '{"schema": "1"}')),
    ],
)
def test_a_header_that_is_not_json_or_of_another_schema_is_refused(tmp_path: Path, header: str, reason: str) -> None:
    path = tmp_path / "bad.safetensors"
    save_file({"x": torch.zeros(1)}, str(path), {KEY: header})
    assert reason in refused(path, lambda: read_header(path))


REQUIRED = [
    "name", "backbone", "token_counts", "gmacs", "dense_gmacs", "preprocessing", "classes", "accuracy", "training",
]  # fmt: skip


@pytest.mark.parametrize("key", REQUIRED)
def test_a_header_without_one_of_its_keys_is_refused(tmp_path: Path, tiny_checkpoint: Checkpoint, key: str) -> None:
    path = rewritten(tiny_checkpoint, tmp_path / "bad.safetensors", lambda document: document.pop(key))
    assert repr(key) in refused(path, lambda: read_header(path))


@pytest.mark.parametrize(
    "change",
    [{"token_counts": counts} for counts in ([0, 1, 1], [], ["a", 5, 3], "9,5,3", 9, [9, None, 3], [math.inf, 5, 3])]
    + [{"gmacs": 10**400}, {"gmacs": "many"}, {"accuracy": {}}, {"accuracy": {"top1": "high"}}, {"classes": {"ids": []}}],
)  # fmt: skip
def test_malformed_values_are_refused(tmp_path: Path, tiny_checkpoint: Checkpoint, change: dict[str, Any]) -> None:
    path = rewritten(tiny_checkpoint, tmp_path / "bad.safetensors", lambda document: document.update(change))
    refused(path, lambda: read_header(path))


# A key, in the whole header or in a part of it, a value, and the reason.
MISFITS: list[tuple[str, Any, str]] = [
    *(("token_counts", counts, "token counts") for counts in ([9, 5], [17, 5, 3], [9, 5, 3, 1])),
    ("classes", {"ids": ["0"], "names": ["nought"]}, "1 class ids and 1 class names for 10 classes"),
    ("backbone/name", "lvvit_s", "weights do not fit lvvit_s"),
    ("backbone/name", "deit_tny_patch16_224", "is unknown; did you mean"),
    ("backbone/name", "resnet18", "backbone 'resnet18'"),
    *(
        ("backbone/shape/stages", stages, "selections before blocks|stages")
        for stages in ([], [0, 2, 3], [2, 1, 3], [1, 2, 9], [1, 2])
    ),
]


@pytest.mark.parametrize(("key", "value", "reason"), MISFITS)
def test_headers_of_other_nets_fail_on_loading(
    tmp_path: Path, tiny_checkpoint: Checkpoint, key: str, value: Any, reason: str
) -> None:
    *place, last = key.split("/")
    path = rewritten(
        tiny_checkpoint,
        tmp_path / "bad.safetensors",
        lambda document: reduce(operator.getitem, place, document).update({last: value}),
    )
    header = read_header(path)
    assert re.search(reason, refused(path, lambda: load_model(header)))


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ({"depth": 10**9}, "depth=1000000000 is more than 256"),
        ({"image_size": 131072}, "image_size=131072 is more than 4096"),
        ({"classes": 10**9}, "classes=1000000000 is more than 1000000"),
        ({"dim": 16384, "depth": 256, "heads": 4}, "they have 4 blocks, it has 256"),
        ({"dim": 16384, "heads": 4}, "they have 48 channels, it has 16384"),
        ({"image_size": 4096}, "pos_embed is"),
    ],
)
def test_sizes_that_a_header_states_take_no_memory(
    tmp_path: Path, tiny_checkpoint: Checkpoint, overrides: dict[str, int], reason: str
) -> None:
    def change(document: dict[str, Any]) -> None:
        document["backbone"]["overrides"].update(overrides)

    header = read_header(rewritten(tiny_checkpoint, tmp_path / "large.safetensors", change))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert reason in refused(header.path, lambda: load_model(header))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10, "KiB"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["schema", *REQUIRED]), JSON_VALUES)
def test_corrupt_headers_are_read_or_refused(tmp_path: Path, weights: Path, key: str, value: Any) -> None:
    document = {**parts(weights)[1], key: value}
    path = tmp_path / "corrupt.safetensors"
    save_file({"x": torch.zeros(1)}, str(path), {KEY: json.dumps(signed_again(document))})
    fine_or_refused(lambda: float(read_header(path).top1), path)


def test_a_flipped_bit_of_a_weight_or_the_header_is_noticed(tmp_path: Path, tiny_checkpoint: Checkpoint) -> None:
    content, path = tiny_checkpoint.path.read_bytes(), tmp_path / "flipped.safetensors"
    begin = 8 + int.from_bytes(content[:8], "little")
    header = content.index(b'"tofe_edge"')
    places = [*random.Random(20).sample(range(begin, len(content)), 16), *range(header + 20, header + 1200, 97)]
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 0x40 if place >= begin else 1
        path.write_bytes(damaged)
        refused(path, lambda: load_model(read_header(path)))


def test_weights_without_a_digest_are_read_with_a_warning(
    tmp_path: Path, tiny_checkpoint: Checkpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    def age(document: dict[str, Any]) -> None:
        document.update(schema=1)
        del document["digest"], document["weights_sha256"]

    old = read_header(rewritten(tiny_checkpoint, tmp_path / "old.safetensors", age))
    for _ in range(2):
        load_model(old)
    said = capsys.readouterr().err
    assert (
        said.count("\n") == 1 and "old.safetensors: is of an earlier version and has no digest of its weights" in said
    )
    assert old == replace(read_header(tiny_checkpoint.path), path=old.path)


@pytest.mark.parametrize(("value", "named"), [(math.nan, "NaN"), (math.inf, "infinity")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float, named: str) -> None:
    model = tiny_tofe()
    with torch.no_grad():
        model.state_dict()["selectors.0.norm.weight"][1] = value
    spec, preprocessing = model.backbone.spec, model.backbone.preprocessing
    path = tmp_path / "net.safetensors"
    written = save(path, model, describe("net", spec, preprocessing, default_classes(spec.classes), TINY_COUNTS))
    assert f"selectors.0.norm.weight holds {named}" in refused(path, lambda: load_model(written))


def test_a_header_length_that_looks_like_a_pickle_is_still_read(tmp_path: Path) -> None:
    # safetensors files begin with the length of their header; 0x80 is also how a pickle begins.
    model = tiny_tofe()
    spec, preprocessing = model.backbone.spec, model.backbone.preprocessing
    lengths = set()
    for padding in range(0, 256, 8):
        header = describe("x" * (1 + padding), spec, preprocessing, default_classes(10), TINY_COUNTS)
        path = tmp_path / "net.safetensors"
        save(path, model, header)
        lengths.add(path.read_bytes()[0])
        assert read_header(path).name == header.name
    assert 0x80 in lengths


def early_selections(name: str = "deit_tiny_patch16_224") -> ToFe:
    """Six blocks, selections before blocks 1, 2 and 5, in eval mode."""
    torch.manual_seed(0)
    model = ToFe(create_backbone(name, {**TINY, "depth": 6}, stages=(1, 2, 5))).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter.data, std=0.1)
    return model


@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "lvvit_s"])
def test_it_selects_there_at_another_image_size_too(name: str) -> None:
    model = early_selections(name)
    resized = at_image_size(model, TokenCounts((9, 6, 3)), model.backbone.preprocessing, 96).model
    assert resized.backbone.spec.stages == model.backbone.spec.stages


def test_it_is_converted_within_its_gates_and_profiled_by_its_own_stages(program: Program, tmp_path: Path) -> None:
    model = early_selections()
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

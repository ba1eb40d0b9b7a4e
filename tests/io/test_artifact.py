"""A model file is opened only with its own, whole manifest."""

import json
import random
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from conftest import JSON_VALUES, edit_json, fine_or_refused, plain_manifest, refused
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tofe_edge.errors import InputError
from tofe_edge.io.artifact import (
    Artifact,
    Manifest,
    Method,
    manifest_path_of,
    open_artifact,
    with_parity,
    write_manifest,
)

CONTENT = bytes(range(256)) * 40


FURTHER = Method("forward_5_3_1", [5, 3, 1], 0.25, 2, {"aten.sort.stable": 3}, 2048)


def manifest_for(content: bytes) -> Manifest:
    changes: dict[str, Any] = {"precision": "int8", "int8_mode": "dynamic", "fp32_layers": ["patch_embed"]}
    changes |= {"delegates": 2, "fallback_ops": {"aten.sort.stable": 3}, "planned_memory_bytes": 4096}
    return plain_manifest("tiny.pte", content, **changes, further_methods=[FURTHER], versions={"torch": "2.13"})


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    """A model file of arbitrary bytes with its manifest."""
    path = tmp_path / "tiny.pte"
    path.write_bytes(CONTENT)
    return write_manifest(path, manifest_for(CONTENT))


def change(artifact: Artifact, edit: Callable[[dict[str, Any]], object]) -> None:
    edit_json(artifact.manifest_path, edit)


def refused_manifest(artifact: Artifact) -> str:
    return refused(artifact.manifest_path, lambda: open_artifact(artifact.path))


def refused_model(artifact: Artifact) -> str:
    return refused(artifact.path, lambda: open_artifact(artifact.path))


def test_what_was_written_is_opened(artifact: Artifact) -> None:
    assert open_artifact(artifact.path) == artifact
    assert artifact.manifest_path == artifact.path.with_name("tiny.json")


def test_a_manifest_comes_back_from_its_json() -> None:
    manifest = with_parity(manifest_for(CONTENT), {"passed": True, "snr_db": None})
    assert manifest.parity == {"passed": True, "snr_db": None}
    assert Manifest.from_json(json.loads(json.dumps(manifest.to_json()))) == manifest


def test_a_dense_manifest_comes_back(artifact: Artifact) -> None:
    dense = {"token_counts": None, "int8_mode": None, "precision": "fp32", "profile": "pi"}
    change(artifact, lambda document: document.update(dense))
    manifest = open_artifact(artifact.path).manifest
    assert (manifest.token_counts, manifest.int8_mode, manifest.profile) == (None, None, "pi")


def test_the_manifest_of_a_dotted_name_stands_beside_it() -> None:
    assert manifest_path_of(Path("a/net-v1.2-int8.pte")) == Path("a/net-v1.2-int8.json")


def test_a_missing_model_file_and_a_folder_are_refused(artifact: Artifact, tmp_path: Path) -> None:
    artifact.path.unlink()
    assert "no such model file" in refused_model(artifact)
    manifest_path_of(tmp_path).write_text("{}")
    assert "only a .mlpackage model is a folder" in refused(tmp_path, lambda: open_artifact(tmp_path))


def test_a_missing_manifest_is_refused(artifact: Artifact) -> None:
    artifact.manifest_path.unlink()
    assert "its manifest tiny.json is missing" in refused_model(artifact)


@pytest.mark.parametrize("size", [0, 1, len(CONTENT) // 2, len(CONTENT) - 1])
def test_a_truncated_model_file_is_refused(artifact: Artifact, size: int) -> None:
    artifact.path.write_bytes(CONTENT[:size])
    assert f"has {size} bytes where its manifest says {len(CONTENT)}" in refused_model(artifact)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 8 * len(CONTENT) - 1))
def test_a_flipped_bit_anywhere_in_the_model_file_is_refused(artifact: Artifact, bit: int) -> None:
    damaged = bytearray(CONTENT)
    damaged[bit // 8] ^= 1 << bit % 8
    artifact.path.write_bytes(damaged)
    assert "its checksum is not the manifest's" in refused_model(artifact)


def test_a_stale_manifest_is_refused(artifact: Artifact) -> None:
    write_manifest(artifact.path, manifest_for(CONTENT + b"\0"))
    assert "the manifest is stale" in refused_model(artifact)
    write_manifest(artifact.path, manifest_for(CONTENT[::-1]))
    assert "the manifest is stale" in refused_model(artifact)


NO_JSON = [b"", b"{", b"not json", b"\xff\xfe", b"[" * 100_000, b"1" * 5000]
OTHER_SCHEMA = [b"[]", b"null", b"7", b'"text"', b"{}", b'{"schema": 1}', b'{"schema": 2}', b'{"schema": "3"}']


@pytest.mark.parametrize("content", [*NO_JSON, *OTHER_SCHEMA])
def test_a_manifest_that_is_not_json_or_of_another_schema_is_refused(artifact: Artifact, content: bytes) -> None:
    artifact.manifest_path.write_bytes(content)
    said = "cannot be read as JSON" if content in NO_JSON else "manifest schema"
    assert said in refused_manifest(artifact)


KEYS = sorted(manifest_for(CONTENT).to_json().keys() - {"schema", "digest"})


@pytest.mark.parametrize("key", KEYS)
def test_a_key_that_is_missing_or_of_the_wrong_type_is_named(artifact: Artifact, key: str) -> None:
    value = getattr(artifact.manifest, key)
    for wrong in (True, 3 if isinstance(value, str | list | dict | None) else "text"):
        change(artifact, lambda document: document.update({key: wrong}))  # noqa: B023  (called at once)
        message = refused_manifest(artifact)
        assert "the wrong type" in message
        assert f"manifest key '{key}'" in message or "preprocessing: the document" in message
    change(artifact, lambda document: document.pop(key))
    assert f"manifest key '{key}' is missing; convert the model again" in refused_manifest(artifact)


METHOD = asdict(FURTHER)
LATENCY = {
    "predicted_ms": 5.1, "measured_ms": None, "measured_p50_ms": None, "limit_ms": 6, "device": None, "threads": 4,
    "source": "a table",
}  # fmt: skip

# A key, its value, and where the message says that the fault is.
BAD: list[tuple[str, Any, str]] = [
    *((key, 1, f"key '{key}' is unknown") for key in ("extra", "Sha256", "")),
    ("schema", 1, "manifest schema 1 is not 4; convert the model again"),
    ("token_counts", [9, -1, 3], "key 'token_counts[1]' must be at least 0, not -1"),
    ("token_counts", [9, 5.5, 3], "key 'token_counts[1]' has the wrong type (float)"),
    ("token_counts", [True, 5, 3], "key 'token_counts[0]' has the wrong type (bool)"),
    ("stage_blocks", ["1", 1, 1, 1], "key 'stage_blocks[0]' has the wrong type (str)"),
    ("class_names", [1, 2], "key 'class_names[0]' has the wrong type (int)"),
    ("class_names", ["cat"], "'class_names' and 'class_ids' must be of equal length"),
    ("class_ids", [None], "key 'class_ids[0]'"),
    ("fp32_layers", [{}], "key 'fp32_layers[0]'"),
    ("fallback_ops", {"aten.sort.stable": "three"}, "key 'fallback_ops.aten.sort.stable'"),
    ("versions", {"torch": 2}, "key 'versions.torch'"),
    ("preprocessing", {}, "preprocessing: key 'image_size' is missing"),
    ("preprocessing", {"image_size": 0}, "preprocessing: key 'crop_pct' is missing"),
    ("precision", "int9", "key 'precision': 'int9' is not one of fp32, fp16, int8, pal6, pal4"),
    ("io", "video", "key 'io': 'video' is not one of tensor, image"),
    ("batch", 0, "key 'batch' must be at least 1, not 0"),
    ("batch", 4097, "key 'batch' must be at most 4096, not 4097"),
    ("planned_memory_bytes", 10**40, "key 'planned_memory_bytes' must be at most 9007199254740992"),
    ("token_counts", [9, 5], "key 'token_counts' [9, 5] of method forward is not that of 3 selections of 16 patches"),
    ("token_counts", [17, 5, 3], "key 'token_counts' [17, 5, 3] of method forward is not that of 3 selections"),
    ("further_methods", [{**METHOD, "token_counts": [5]}], "key 'token_counts' [5] of method forward_5_3_1 is not that"),
    ("gmacs", 9e8, "key 'gmacs' must be less than"),
    ("gmacs", 1e9, "key 'gmacs' must be less than"),
    ("gmacs", -0.1, "key 'gmacs' must be at least 0"),
    ("gmacs", float("nan"), "key 'gmacs' must be a finite number"),
    *(("further_methods", [wrong], "key 'further_methods[0]' has the wrong type") for wrong in ("forward_1", None, [1])),
    *(
        ("further_methods", [{k: v for k, v in METHOD.items() if k != key}], f"key 'further_methods[0].{key}' is missing")
        for key in METHOD
    ),
    *(
        ("further_methods", [{**METHOD, **wrong}], f"key 'further_methods[0].{place}'")
        for wrong, place in (
            ({"extra": 1}, "extra"), ({"name": []}, "name"), ({"gmacs": True}, "gmacs"), ({"delegates": True}, "delegates"),
            ({"token_counts": [5, -3, 1]}, "token_counts[1]"), ({"token_counts": [5, 2.5, 1]}, "token_counts[1]"),
            ({"fallback_ops": {"aten.sort": -1}}, "fallback_ops.aten.sort"), ({"delegates": -1}, "delegates"),
            ({"planned_memory_bytes": -1}, "planned_memory_bytes"), ({"planned_memory_bytes": 2.0}, "planned_memory_bytes"),
        )
    ),
    ("further_methods", [{**METHOD, "token_counts": None}], "key 'further_methods' has one without token counts"),
    ("further_methods", [{**METHOD, "name": "forward"}], "key 'further_methods' names a method twice"),
    ("further_methods", [METHOD, METHOD], "key 'further_methods' names a method twice"),
    ("reproducible", 1, "key 'reproducible' has the wrong type (int)"),
    ("latency", 3, "key 'latency' has the wrong type"),
    ("latency", {}, "key 'latency': key 'predicted_ms' is missing"),
    *(
        ("latency", {**LATENCY, key: wrong}, f"key 'latency': key '{key}'")
        for key, wrong in (
            ("extra", 1), ("predicted_ms", 0), ("measured_ms", "5"), ("limit_ms", float("inf")), ("threads", None), ("device", 3),
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value", "message"), BAD)
def test_a_value_that_a_key_cannot_have_is_refused(artifact: Artifact, key: str, value: Any, message: str) -> None:
    change(artifact, lambda document: document.update({key: value}))
    assert message in refused_manifest(artifact)


def test_a_latency_is_kept_if_it_is_known(artifact: Artifact) -> None:
    assert "latency" not in artifact.manifest.to_json()
    change(artifact, lambda document: document.update(latency=LATENCY))
    manifest = open_artifact(artifact.path).manifest
    assert manifest.latency == manifest.to_json()["latency"] == LATENCY


def test_methods_are_listed_with_the_default_one_first() -> None:
    manifest = manifest_for(CONTENT)
    assert list(manifest.methods) == ["forward", "forward_5_3_1"]
    default = manifest.method("forward")
    assert (default.token_counts, default.gmacs, default.planned_memory_bytes) == ([9, 5, 3], 0.5, 4096)
    assert (default.delegates, default.fallback_ops) == (2, {"aten.sort.stable": 3})
    assert manifest.method("forward_5_3_1") is manifest.further_methods[0]


@pytest.mark.parametrize("name", ["", "Forward", "forward_9_5_3"])
def test_an_unknown_method_is_refused_with_the_names_there_are(name: str) -> None:
    with pytest.raises(InputError) as caught:
        manifest_for(CONTENT).method(name)
    assert str(caught.value) == f"tiny.pte: has no method {name!r}; it has forward, forward_5_3_1"


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["schema", *KEYS]), JSON_VALUES)
def test_a_corrupt_value_is_taken_or_refused_and_nothing_else(artifact: Artifact, key: str, value: Any) -> None:
    write_manifest(artifact.path, manifest_for(CONTENT))
    change(artifact, lambda document: document.update({key: value}))
    fine_or_refused(lambda: open_artifact(artifact.path), artifact.path, artifact.manifest_path)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_byte_of_the_manifest_is_taken_or_refused(artifact: Artifact, data: st.DataObject) -> None:
    write_manifest(artifact.path, manifest_for(CONTENT))
    content = bytearray(artifact.manifest_path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    artifact.manifest_path.write_bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
    fine_or_refused(lambda: open_artifact(artifact.path), artifact.path, artifact.manifest_path)


def test_a_flipped_bit_of_the_manifest_is_refused(artifact: Artifact) -> None:
    """Of 1000 classes, whose names and identifiers are most of it."""
    names, ids = [f"class {n}" for n in range(1000)], [f"n{n:08}" for n in range(1000)]
    write_manifest(artifact.path, replace(artifact.manifest, class_names=names, class_ids=ids))
    content = artifact.manifest_path.read_bytes()
    for bit in random.Random(20).sample(range(8 * len(content)), 200):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        artifact.manifest_path.write_bytes(damaged)
        refused_manifest(artifact)


def test_a_manifest_of_the_version_before_is_read_with_a_warning(
    artifact: Artifact, capsys: pytest.CaptureFixture[str]
) -> None:
    change(artifact, lambda document: (document.pop("digest"), document.update(schema=3)))
    assert open_artifact(artifact.path) == artifact
    assert "tiny.json: is of an earlier version and has no digest" in capsys.readouterr().err


VECTORS: dict[str, Any] = {
    "output": "embedding",
    "normalized": True,
    "output_shape": [48],
    "class_names": [],
    "class_ids": [],
}
FEATURES: dict[str, Any] = {**VECTORS, "output": "features", "normalized": False, "output_shape": [16, 48]}


@pytest.mark.parametrize(("changes", "shape"), [(VECTORS, (48,)), (FEATURES, (16, 48)), ({}, (2,))])
def test_what_a_model_gives_comes_back(artifact: Artifact, changes: dict[str, Any], shape: tuple[int, ...]) -> None:
    manifest = write_manifest(artifact.path, replace(artifact.manifest, **changes)).manifest
    assert open_artifact(artifact.path).manifest == manifest
    assert manifest.shape == shape and manifest.classifies is (not changes)
    assert bool(manifest.to_json().keys() & {"output", "normalized", "output_shape"}) is bool(changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output": "tokens"}, "key 'output': 'tokens' is not one of"),
        ({**VECTORS, "output_shape": None}, "'output_shape' is not that of embedding"),
        ({**VECTORS, "output_shape": [16, 48]}, "'output_shape' is not that of embedding"),
        ({**VECTORS, "output_shape": [0]}, "key 'output_shape[0]'"),
        ({**FEATURES, "output_shape": [15, 48]}, "'output_shape' is not that of features"),
        ({**FEATURES, "normalized": True}, "'normalized' is for an embedding, not for features"),
        ({**VECTORS, "class_ids": ["1"]}, "must be of equal length"),
        ({"class_ids": [], "class_names": []}, "must be of equal length and not empty"),
        ({"output_shape": [2]}, "'output_shape' is not that of logits"),
    ],
)
def test_outputs_that_contradict_themselves_are_refused(
    artifact: Artifact, changes: dict[str, Any], message: str
) -> None:
    change(artifact, lambda document: document.update(changes))
    assert message in refused_manifest(artifact)

"""The pages of ``profile`` and ``convert``: complete, self-contained, and no name in them is markup."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from page_contents import HOSTILE, convert_page, plain_manifest, profile_page, with_names
from tags import Tags

from tofe_edge.cli.pages import convert, profile
from tofe_edge.errors import InputError
from tofe_edge.io.artifact import Manifest
from tofe_edge.model.checkpoint import Checkpoint

Make = Callable[..., str]


@pytest.fixture
def manifest(tiny_checkpoint: Checkpoint) -> Manifest:
    return plain_manifest(tiny_checkpoint)


def made_profile(manifest: Manifest, *names: str) -> str:
    return profile.render(profile_page(manifest, *([names] if names else [])))


def made_convert(manifest: Manifest, *names: str) -> str:
    return convert.render(convert_page(manifest, *([names] if names else [])))


def test_the_profile_shows_all_that_was_measured(manifest: Manifest) -> None:
    said = Tags(made_profile(manifest)).text
    for part in (
        "10.12 ms", "CPU time a run", "9.50 ms", "0.76 MB", "35.00 MB", "4 threads", "ssh://cpu0",
        "Histogram of latency", "500 runs. 1 slower: up to 15.20 ms, not drawn.", "Latency over time",
        "Temperature over time", "cpu0, MHz", "1310", "gpu-thermal, °C", "89.0",
        "Time per stage", "Time per operator", "6 other kinds", "the last quarter takes 1.20 times the first",
        "Token reduction pays", "Latency of a block against its tokens", "stage 3: 4",
        "stage 2: 5 computed, 11 frozen; 1 reused", "Kept tokens that the reference keeps too", "90.00%",
        "Where rounding comes from", "29.0 dB",
    ):  # fmt: skip
        assert part in said, part


def test_the_conversion_shows_what_was_made_and_checked(manifest: Manifest) -> None:
    said = Tags(made_convert(manifest)).text
    for part in (
        "tiny.pte", "jetson_orin", "0.01 MB", "12.50 ms an image", "12.75 ms", "13.25 ms", "14.00 ms",
        "a board, 2026-01-31", "before selection", "56.2%",
        "budget_1", "passed", "failed", "37.0 dB", "15", "98.00%", "5.10 ms", "Time per operator", "3 topk",
        "what the forecast reckons with", "29.0 dB", "1 image of 64 x 64 pixels",
    ):  # fmt: skip
        assert part in said, part


@pytest.mark.parametrize("make", [made_profile, made_convert])
def test_nothing_is_loaded_from_elsewhere(make: Make, manifest: Manifest) -> None:
    tags = Tags(make(manifest))
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(tags.names)
    assert len(tags.addresses) >= 4
    assert all(value is not None and value.startswith("data:image/") for value in tags.addresses)


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("make", [made_profile, made_convert])
def test_no_name_can_be_markup(make: Make, hostile: str, manifest: Manifest) -> None:
    plain = Tags(make(with_names(manifest, "plain"), "plain", "plain"))
    found = Tags(make(with_names(manifest, hostile), hostile, hostile))
    assert found.names == plain.names
    assert not any(key.startswith("on") for _, attributes in found.seen for key in attributes)
    assert hostile in found.text or "\ufffd" in found.text


@pytest.mark.parametrize("make", [made_profile, made_convert])
def test_every_drawing_has_a_title_or_is_left_to_the_row_it_stands_in(make: Make, manifest: Manifest) -> None:
    tags = Tags(make(manifest))
    drawings = [attributes for tag, attributes in tags.seen if tag == "svg"]
    titled = [attributes for attributes in drawings if attributes.get("role") == "img"]
    assert len(titled) + sum(attributes.get("aria-hidden") == "true" for attributes in drawings) == len(drawings)
    assert tags.names.count("title") == len(titled) + 1


@pytest.mark.parametrize(
    ("changed", "absent"),
    [
        ({"readings": ()}, "The machine meanwhile"),
        ({"started_s": ()}, "seconds since the first run\n"),
        ({"stages": (), "operators": ()}, "Where the time goes"),
        ({"golden": None}, "What is computed"),
        ({"block_ms": {}}, "Latency against tokens"),
        ({"load_ms": None, "cpu_ms": None}, "CPU time"),
        ({"sustained": ""}, "last quarter"),
        ({"samples_ms": (5.0,), "started_s": (0.0,)}, "Latency over time"),
    ],
)
def test_what_is_not_known_is_left_out(changed: dict[str, Any], absent: str, manifest: Manifest) -> None:
    assert absent not in Tags(profile.render(replace(profile_page(manifest), **changed))).text


@pytest.mark.parametrize(
    "record",
    [{"kept_overlap": "x", "snr_db": "y", "images": 10**400, "waiver": []}, {"kept_overlap": [None]}, {}, None],
)
@pytest.mark.parametrize("layers", [{"9" * 5000: {"own_snr_db": None}}, {"a": []}, [], {"b": {"own_snr_db": -3.0}}])
def test_free_parts_of_a_manifest_are_read_with_care(record: Any, layers: Any, manifest: Manifest) -> None:
    strange = replace(manifest, parity=record, quantization={"layers": layers})
    assert made_profile(strange).endswith("</html>\n") and made_convert(strange).endswith("</html>\n")


def test_a_method_that_is_not_there_is_an_input_error(manifest: Manifest) -> None:
    with pytest.raises(InputError, match="has no method 'other'"):
        profile.render(replace(profile_page(manifest), method="other"))


def test_a_dense_model_has_no_tokens_to_show(manifest: Manifest) -> None:
    dense = replace(manifest, token_counts=None, further_methods=[])
    assert "What is computed" not in Tags(made_profile(dense)).text
    assert "Tokens a block computes" not in Tags(made_convert(dense)).text

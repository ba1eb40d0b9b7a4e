"""Every page: complete, self-contained, and no name in it is markup."""

import re
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from page_contents import (
    HOSTILE,
    PAGES,
    Tags,
    convert_page,
    evaluation_page,
    image_named,
    parity_page,
    plain_manifest,
    profile_page,
    tokens_page,
    with_names,
)

from tofe_edge.cli.pages import convert, profile, tokens
from tofe_edge.cli.pages.rendering import _short, write_html
from tofe_edge.errors import InputError
from tofe_edge.io.artifact import Manifest
from tofe_edge.model.checkpoint import Checkpoint

STYLE = files("tofe_edge.cli.pages").joinpath("templates", "style.css").read_text(encoding="utf-8")
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@pytest.fixture
def manifest(tiny_checkpoint: Checkpoint) -> Manifest:
    return plain_manifest(tiny_checkpoint)


SHOWN = {
    "profile": (
        "10.12 ms", "CPU time per run", "9.50 ms", "0.76 MB", "35.00 MB", "4 threads", "ssh://cpu0",
        "Histogram of latency", "500 runs. 1 slower: up to 15.20 ms, not drawn.", "Latency over time",
        "Temperature over time", "cpu0, MHz", "1310", "gpu-thermal, °C", "89.0",
        "Time per stage", "Time per operator", "6 other kinds", "the last quarter takes 1.20 times the first",
        "Token reduction pays",
        "stage 2: 5 computed, 11 frozen; 1 reused", "Kept tokens that the reference keeps too", "90.00%",
        "Where rounding comes from", "29.0 dB", "1 image per run",
    ),
    "convert": (
        "tiny.pte", "jetson_orin", "0.01 MB", "12.50 ms per image", "12.75 ms", "13.25 ms", "14.00 ms",
        "a board, 2026-01-31", "before selection", "56.2%", "budget_1", "passed", "failed", "37.0 dB", "15", "98.00%",
        "5.10 ms", "Time per operator", "3 topk", "the line is the forecast",
        "Latency of a block by tokens", "stage 3: 4", "29.0 dB", "1 image of 64 x 64 pixels",
        "Method budget_1",
    ),
    "parity": ("Gates", "logits SNR", "McNemar", "margin at the cut, stage 3", "29.0 dB", "19.0 dB", "60 images of cpu0"),
    "tokens": (
        "Tokens of cpu0", "12 images of cpu0", "9.0, 5.0, 3.0", "25.00%", "10.00%", "2.06", "label: cpu0",
        "stage 2: 5 computed, 11 frozen; 1 reused", "cpu0 88%", "10 more images, counted but not drawn", "4 of 4",
    ),
    "evaluation": (
        "120 images of cpu0", "75.5 %", "73.1 to 77.8 %", "0.654", "shipped 9", "shipped 3", "mean less shipped", "+1.1",
        "standard deviation 0.8", "p95", "24.00%", "Images with the fewest tokens", "Images with the most tokens",
    ),
}  # fmt: skip


@pytest.mark.parametrize("page", PAGES)
def test_a_page_shows_what_is_known(page: str, manifest: Manifest) -> None:
    tags = Tags(PAGES[page](manifest, "cpu0", "gpu-thermal"))
    for part in SHOWN[page]:
        assert part in tags.text, part
    pictures = {"parity": ("img", 10), "tokens": ("figure", 2 * 5), "evaluation": ("figure", 3 + 3 * 5)}
    tag, count = pictures.get(page, ("figure", tags.names.count("figure")))
    assert tags.names.count(tag) == count


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("page", PAGES)
def test_no_name_is_markup_and_nothing_is_loaded(page: str, hostile: str, manifest: Manifest) -> None:
    plain = Tags(PAGES[page](with_names(manifest, "plain"), "plain", "plain"))
    tags = Tags(PAGES[page](with_names(manifest, hostile), hostile, hostile))
    assert tags.names == plain.names
    assert hostile in tags.text or (hostile == HOSTILE[-1] and "\ufffd" in tags.text)
    assert not any(key.startswith("on") for _, attributes in tags.seen for key in attributes)
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(tags.names)
    assert len(tags.addresses) >= 4
    assert all(value is not None and value.startswith("data:image/") for value in tags.addresses)
    assert POLICY in [attributes.get("content") for tag, attributes in tags.seen if tag == "meta"]
    # Every drawing has a title, or it is decoration of the row that it stands in.
    drawings = [attributes for tag, attributes in tags.seen if tag == "svg"]
    titled = [attributes for attributes in drawings if attributes.get("role") == "img"]
    assert len(titled) + sum(attributes.get("aria-hidden") == "true" for attributes in drawings) == len(drawings)
    assert tags.names.count("title") == len(titled) + 1


@given(st.text(min_size=1))
def test_any_text_stays_the_text_it_is(name: str) -> None:
    page = tokens.render_evaluation(replace(evaluation_page(), checkpoint=name, fewest=(), most=()))
    tags = Tags(page)
    assert tags.names == Tags(tokens.render_evaluation(replace(evaluation_page(), fewest=(), most=()))).names
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", page)
    if name.isprintable():
        assert f"Token counts of {name}\n{name}, instance-adaptive" in tags.text


def test_names_are_isolated_and_titles_and_verdicts_cannot_turn_the_writing(manifest: Manifest) -> None:
    turned = "a\u202eb"
    page = profile.render(replace(profile_page(replace(manifest, artifact=turned)), against=turned))
    assert f"<bdi>{turned}</bdi>" in page and "<title>Profile of a\ufffdb</title>" in page
    assert '<p class="verdict">a\ufffdb</p>' in page


@pytest.mark.parametrize(
    ("changed", "absent"),
    [
        ({"readings": ()}, "The machine meanwhile"),
        ({"started_s": ()}, "seconds since the first run\n"),
        ({"stages": (), "operators": ()}, "Where the time goes"),
        ({"golden": None}, "What is computed"),
        ({"load_ms": None, "cpu_ms": None}, "CPU time"),
        ({"sustained": ""}, "last quarter"),
        ({"samples_ms": (5.0,), "started_s": (0.0,)}, "Latency over time"),
    ],
)
def test_the_profile_leaves_out_what_is_not_known(changed: dict[str, Any], absent: str, manifest: Manifest) -> None:
    assert absent not in Tags(profile.render(replace(profile_page(manifest), **changed))).text


def test_other_pages_leave_out_what_is_not_known(manifest: Manifest) -> None:
    dense = replace(manifest, token_counts=None, further_methods=[])
    assert "What is computed" not in Tags(profile.render(profile_page(dense))).text
    bare = Tags(
        convert.render(replace(convert_page(dense), golden=None, block_ms={}, samples_ms=(), stages=(), operators=()))
    ).text
    assert not any(
        part in bare for part in ("Tokens per block", "What is computed", "Budgets", "by tokens", "converting machine")
    )
    assert "img" not in Tags(parity_page(manifest, picture=None)).names
    assert "Images with" not in Tags(tokens.render_evaluation(replace(evaluation_page(), fewest=(), most=()))).text
    # Images that were named one by one have no source, and all are drawn.
    text = Tags(
        tokens.render_tokens(replace(tokens_page(), source="", usage=replace(tokens_page().usage, images=2)))
    ).text
    assert "; 2 images\n" in text and "not drawn" not in text


@pytest.mark.parametrize("golden", [True, False])
def test_every_method_with_token_counts_has_a_map(golden: bool, manifest: Manifest) -> None:
    page = convert_page(manifest)
    count = convert.render(page if golden else replace(page, golden=None)).count('<div class="maps">')
    assert count == (2 if golden else 0)


def test_a_waived_conversion_says_why(manifest: Manifest) -> None:
    text = Tags(convert.render(convert_page(with_names(manifest, "no time")))).text
    assert "parity failed and waived" in text and "Written nevertheless, because: no time" in text


@pytest.mark.parametrize(
    "record",
    [{"kept_overlap": "x", "snr_db": "y", "images": 10**400, "waiver": []}, {"kept_overlap": [None]}, {}, None],
)
@pytest.mark.parametrize("layers", [{"9" * 5000: {"own_snr_db": None}}, {"a": []}, [], {"b": {"own_snr_db": -3.0}}])
def test_free_parts_of_a_manifest_are_read_with_care(record: Any, layers: Any, manifest: Manifest) -> None:
    strange = replace(manifest, parity=record, quantization={"layers": layers}, latency={"measured_ms": "x"})
    for page in PAGES.values():
        assert page(strange, "a").endswith("</html>")


def test_the_noisiest_layers_come_first_and_quiet_ones_are_folded(manifest: Manifest) -> None:
    noise = {f"blocks.{block}.fc1": {"own_snr_db": 30.0 if block < 11 else 20.0} for block in range(12)}
    text = Tags(PAGES["profile"](replace(manifest, quantization={"layers": noise}), "a")).text
    places = [text.index(layer) for layer in ("blocks.11.fc1", "blocks.2.fc1", "2 quieter layers", "blocks.10.fc1")]
    assert places == sorted(places)


def test_paths_of_the_machine_stay_there() -> None:
    assert _short("images of /home/me/data/val --out=/a/b/c a/b/c/d /x") == "images of data/val --out=b/c a/b/c/d /x"


def test_wrong_contents_are_input_errors(manifest: Manifest) -> None:
    with pytest.raises(InputError, match="has no method 'other'"):
        profile.render(replace(profile_page(manifest), method="other"))
    with pytest.raises(InputError, match="do not fill a square"):
        tokens.render_tokens(replace(tokens_page(), drawn=[replace(image_named("a"), patch_tokens=15)]))


def test_a_page_that_cannot_be_written_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        write_html(tmp_path, "a page")


def luminance(colour: str) -> float:
    """Relative luminance of ``#rrggbb``, as WCAG 2.2 defines it."""
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_and_lines_stand_out_from_the_background(scheme: int) -> None:
    assert "url(" not in STYLE and "@import" not in STYLE
    colours = dict(re.findall(r"--(\w+): (#\w{6})", STYLE.split("prefers-color-scheme: dark")[scheme]))
    least = {**dict.fromkeys(("ink", "quiet", "good", "bad"), 4.5), **dict.fromkeys(("one", "two", "three", "four"), 3)}
    for name, contrast in least.items():
        dark, light = sorted((luminance(colours[name]), luminance(colours["paper"])))
        assert (light + 0.05) / (dark + 0.05) >= contrast, name

"""What manifests and checkpoints say stays words in READMEs, NOTICE and code."""

import re
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import manifest_for
from hypothesis import given
from hypothesis import strategies as st

from tofe_edge.errors import InputError
from tofe_edge.model.checkpoint import Checkpoint
from tofe_edge.packaging.licences import GLUE, Weights, check_expression, notice, weights_licence
from tofe_edge.packaging.texts import boolean, facts, float_words, path_text, plain

HOSTILE = (
    *("", "a\nb", "[x](http://evil)", "<script>", "http://evil", "*/ evil()", "`x`"),
    *("# x", '"; evil(', "a -- b", "x" * 121),
    *("${x}", "\\(x)", "@KEY@", " a", "a  b", "é", "|", "javascript:x"),
)


@pytest.mark.parametrize(
    "text", ["deit_tiny_patch16_224", "imagenette x2", "1.5.1+cpu", "timm/deit (tiny), v2", "a: b"]
)
def test_plain_words_stay_as_they_are(text: str) -> None:
    assert plain(text) == text


@pytest.mark.parametrize("text", HOSTILE)
def test_anything_else_is_quoted(text: str) -> None:
    assert plain(text).startswith("'") and plain(text).endswith("'")


@given(st.text())
def test_nothing_becomes_markup_code_or_a_line_of_its_own(text: str) -> None:
    said = plain(text)
    assert re.fullmatch(r"[A-Za-z0-9_.:+/,()?' -]+", said) and "--" not in said and "//" not in said
    assert len(said) <= 122


def test_facts_take_words_from_the_manifest(tiny_checkpoint: Checkpoint) -> None:
    manifest = manifest_for(tiny_checkpoint, "net.pte", b"x")
    assert facts(manifest).startswith(f"{manifest.backbone}, fp32, 0.00 MB, ")
    assert facts(replace(manifest, backbone="<b>\n# x")).startswith("'?b?x', fp32")
    assert ", all tokens per stage, " in facts(replace(manifest, token_counts=None))


@given(st.lists(st.floats(width=32, allow_nan=False), max_size=4))
def test_words_of_floats_are_their_bits(values: list[float]) -> None:
    for signed, kind in ((False, "I"), (True, "i")):
        words = float_words(values, signed)
        assert list(struct.unpack(f"<{len(values)}f", struct.pack(f"<{len(values)}{kind}", *words))) == values


def test_booleans_and_paths() -> None:
    assert (boolean(True), boolean(False)) == ("true", "false")
    assert (path_text(Path("a b/é")), path_text(Path("a\nb"))) == ("a b/é", r"'a\nb'")


def test_licence_expressions_are_taken() -> None:
    for text in ("MIT", "GPL-2.0+", "LicenseRef-mine", "NOASSERTION", "(MIT OR Apache-2.0) AND CC-BY-4.0"):
        check_expression(text)
    check_expression("GPL-2.0-only WITH Classpath-exception-2.0")


@pytest.mark.parametrize(
    "text",
    [
        *("", "AND", "MIT MIT", "MIT AND", "OR MIT", "(MIT", "MIT)", ")MIT(", "MIT AND OR", "MIT\n", "Apache 2.0"),
        *("a<b", "MIT\nAND\nMIT", "SomeLicence"),
        *("MIT\n\nimages\n    CC0-1.0", "MIT " + "AND MIT " * 40, "é"),
    ],
)
def test_what_is_no_licence_expression_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not an SPDX licence expression"):
        Weights(text)


def test_the_notice_names_the_images_of_all_runs_that_led_to_the_weights() -> None:
    first = {"start": "deit.safetensors", "data": ["photos x2"]}
    second = {"start": "larger", "data": ["photos x2", "drawings x1"], "start_record": first}
    weights = Weights(training={"start": "net", "data": ["maps x1"], "start_record": second})
    wanted = "trained from deit.safetensors on photos x2, drawings x1, maps x1;"
    assert wanted in weights_licence("net", "0", weights).note
    reduced = Weights(training={"start": "vit.pth", "data": ["photos"], "reduced": {"outcomes": []}})
    assert "reduced from vit.pth on photos;" in weights_licence("net", "0", reduced).note


def test_a_checkpoint_cannot_forge_a_part_of_the_notice() -> None:
    forged = "x\n\ncode and build files\n    CC0-1.0\n    free"

    def notice_of(name: str, sha256: str, start: str, data: str) -> str:
        training = {"start": start, "data": [data]}
        return notice("net", [GLUE, weights_licence(name, sha256, Weights(training=training))])

    honest, lying = notice_of("x", "0", "y", "z"), notice_of(forged, forged, forged, forged)
    assert lying.count("\n") == honest.count("\n") and "CC0-1.0\n" not in lying

"""Latency tables in profiles: what is read, what is refused, and that writing one leaves all else alone."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tofe_edge.profiles import (
    Alignment,
    Anchor,
    LatencyTable,
    NetShape,
    ProfileError,
    Step,
    load_profile,
    profile_names,
    read_profile,
    with_tables,
)
from tofe_edge.profiles.document import parse_document
from tofe_edge.profiles.schema import build_profile

VALID = (Path(__file__).parent / "my_board.yaml").read_text(encoding="utf-8")
TABLE = LatencyTable(
    backbone="deit_tiny_patch16_224",
    shape=NetShape(196, 1, 192, 12, 3, 768, 1000),
    precision="int8",
    threads=4,
    provenance="measured",
    source='a board called "my \\ board"; 2026-11-21',
    stem=0.25,
    selection=0.1,
    block=((8, 0.031), (64, 0.1805), (197, 0.8)),
    tail=((8, 0.03), (197, 0.2)),
    approximator=((8, 1e-05), (196, 0.05)),
    dense=9.2,
    tofe=(Anchor((95, 63, 31), 5.13),),
    step=Step(7, 0.04),
    aligned=Alignment(16, 0.012),
)
FP32 = replace(TABLE, precision="fp32", step=None, aligned=None, dense=20.0)
WRITTEN = with_tables(VALID.encode(), [TABLE, FP32], "board.yaml").decode()


def tables_of(content: bytes) -> tuple[LatencyTable, ...]:
    """The tables in a profile's text."""
    return build_profile(parse_document(content, "board.yaml")).latency


def test_what_is_written_is_read_back_and_stands_behind_the_text_as_it_was() -> None:
    assert tables_of(WRITTEN.encode()) == (TABLE, FP32)
    assert WRITTEN.startswith(VALID)
    assert tables_of(VALID.encode()) == ()


def test_the_places_of_selections_come_back() -> None:
    moved = replace(TABLE, tofe=(*TABLE.tofe, Anchor((118, 98, 61), 5.2, (1, 4, 8))))
    written = with_tables(VALID.encode(), [moved], "board.yaml")
    assert tables_of(written) == (moved,)
    assert written.count(b"before") == 1


@pytest.mark.parametrize("name", profile_names())
def test_every_shipped_profile_takes_a_table(name: str) -> None:
    content, file = read_profile(name)
    written = with_tables(content, [TABLE], file)
    assert written.startswith(content)
    assert replace(build_profile(parse_document(written, file)), latency=()) == load_profile(name)


def test_a_table_of_the_same_net_and_precision_is_replaced_where_it_stands() -> None:
    behind = "# the end\n"
    text = WRITTEN.replace("latency:", "# measured by me\nlatency:") + "# a remark behind the block\n\n" + behind
    new = replace(TABLE, dense=8.0)
    changed = with_tables(text.encode(), [new], "board.yaml").decode()
    assert tables_of(changed.encode()) == (FP32, new)
    assert changed.endswith("# a remark behind the block\n\n" + behind)
    assert "# measured by me\nlatency:" in changed
    assert changed.startswith(VALID)
    assert with_tables(changed.encode(), [new], "board.yaml").decode() == changed


def test_a_block_between_other_keys_stays_there() -> None:
    block = WRITTEN[len(VALID) :].lstrip()
    head, tail = VALID.split("memory:")
    text = f"{head}{block}# about memory\nmemory:{tail}"
    changed = with_tables(text.encode(), [replace(TABLE, stem=9.0)], "board.yaml").decode()
    assert changed.startswith(head + "latency:")
    assert changed.endswith(f"# about memory\nmemory:{tail}")
    assert {table.stem for table in tables_of(changed.encode())} == {9.0, 0.25}


def test_line_ends_and_marks_of_windows_are_kept() -> None:
    text = b"\xef\xbb\xbf" + VALID.replace("\n", "\r\n").encode()
    changed = with_tables(text, [TABLE], "board.yaml")
    assert changed.startswith(text)
    assert changed.count(b"\n") == changed.count(b"\r\n")
    assert tables_of(changed) == (TABLE,)


def test_a_last_line_without_an_end_gets_one() -> None:
    assert tables_of(with_tables(VALID.rstrip().encode(), [TABLE], "board.yaml")) == (TABLE,)


@pytest.mark.parametrize("text", ["{" + ", ".join(["a: 1"]) + "}", VALID + "...\n"])
def test_a_layout_without_room_for_a_block_is_refused(text: str) -> None:
    import yaml

    content = text if "..." in text else "{" + yaml.safe_dump(yaml.safe_load(VALID), default_flow_style=True)[1:]
    with pytest.raises(ProfileError, match=r"board\.yaml: the latency table cannot be added to this layout"):
        with_tables(content.encode(), [TABLE], "board.yaml")


@given(st.text(max_size=40))
def test_any_source_is_read_back_or_refused_in_one_line(source: str) -> None:
    table = replace(TABLE, source=source)
    try:
        written = with_tables(VALID.encode(), [table], "board.yaml")
    except ProfileError as error:
        message = str(error)
        assert message.isprintable()
    else:
        assert tables_of(written) == (table,)


@given(st.floats(1e-9, 1e9), st.floats(1e-9, 1e9))
def test_any_time_is_read_back_as_it_was(one: float, other: float) -> None:
    table = replace(TABLE, stem=one, block=((1, other), (197, one)))
    assert tables_of(with_tables(VALID.encode(), [table], "board.yaml")) == (table,)


BAD = [
    ("precision: int8\n    threads: 4\n    prov", "precision: fp16\n    threads: 4\n    prov", "[0].precision",
     "'fp16' is not one of fp32, int8"),
    ("provenance: measured\n    source: \"a", "provenance: derived\n    source: \"a", "[0].provenance",
     "'derived' is not one of measured"),
    ("dim: 192, ", "", "[0].shape.dim", "missing"),
    ("dim: 192", "dim: 19.2", "[0].shape.dim", "must be a whole number"),
    ("    stem: 0.25\n", "", "[0].stem", "missing"),
    ("    stem: 0.25\n", "    stem: 0.25\n    spare: 1\n", "[0]", "unknown key 'spare'"),
    ("    stem: 0.25\n", "    stem: -1\n", "[0].stem", "must be greater than zero"),
    ("[64, 0.1805]", "[64]", "[0].block[1][1]", "missing; add it"),
    ("[64, 0.1805]", "64", "[0].block[1]", "must be a list"),
    ("[64, 0.1805]", "[64, fast]", "[0].block[1][1]", "must be a number"),
    ("[64, 0.1805]", "[8, 0.1805]", "[0].block[1][0]", "8 tokens behind 8; sort the pairs"),
    ("[64, 0.1805]", "[198, 0.1805]", "[0].block[1][0]", "198 tokens are more than the 197 that the net has"),
    ("[8, 0.03], [197, 0.2],", "[8, 0.03]", "[0].tail", "at least 2 entries"),
    ("[196, 0.05]", "[197, 0.05]", "[0].approximator[1][0]", "more than the 196"),
    ("kept: [95, 63, 31]", "kept: [197, 63, 31]", "[0].tofe[0].kept[0]", "more than the 196 patch tokens"),
    ("kept: [95, 63, 31]", "kept: []", "[0].tofe[0].kept", "at least 1 entry"),
    ("step: {tokens: 7", "step: {tokens: 1", "[0].step.tokens", "must be 2 to 197 tokens, not 1"),
    ("aligned: {tokens: 16", "aligned: {tokens: 400", "[0].aligned.tokens", "must be 2 to 197 tokens, not 400"),
    ("precision: fp32", "precision: int8", "[1]", "a second table of deit_tiny_patch16_224 in int8"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "key", "what"), BAD)
def test_a_bad_row_is_named(old: str, new: str, key: str, what: str) -> None:
    assert old in WRITTEN
    with pytest.raises(ProfileError) as caught:
        tables_of(WRITTEN.replace(old, new, 1).encode())
    message = str(caught.value)
    assert message.startswith("board.yaml:")
    assert f": latency{key}: " in message
    assert what in message


@pytest.mark.parametrize("value", ["", " 5", " {}", " []"])
def test_an_empty_block_is_refused(value: str) -> None:
    with pytest.raises(ProfileError, match="latency: must"):
        tables_of(f"{VALID}latency:{value}\n".encode())


@given(position=st.integers(0, len(WRITTEN) - len(VALID) - 1), piece=st.text(max_size=4), length=st.integers(0, 12))
def test_damaged_tables_end_in_a_profile_or_in_one_line(position: int, piece: str, length: int) -> None:
    at = len(VALID) + position
    damaged = (WRITTEN[:at] + piece + WRITTEN[at + length :]).encode("utf-8", errors="surrogatepass")
    try:
        tables_of(damaged)
    except ProfileError as error:
        message = str(error)
        assert message.isprintable()

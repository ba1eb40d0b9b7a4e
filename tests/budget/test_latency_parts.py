"""Which parts are timed, and what table their times make."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from latency_tables import NET, OWN

from tofe_edge.budget.latency_model import Part, anchor_counts, parts_of, predict_ms, to_table
from tofe_edge.errors import InputError
from tofe_edge.model.backbones import TokenCounts

SMALL = replace(NET, patch_tokens=16, depth=4, stages=(1, 2, 3))


def tokens_of(parts: tuple[Part, ...], kind: str) -> list[int]:
    """Token counts of the parts of one kind."""
    return [part.tokens[0] for part in parts if part.kind == kind]


@given(st.integers(2, 1200), st.integers(1, 2), st.booleans())
def test_points_reach_from_few_tokens_to_all(patches: int, prefix: int, quick: bool) -> None:
    net = replace(NET, patch_tokens=patches, prefix_tokens=prefix)
    parts = parts_of(net, None, quick)
    assert len(set(parts)) == len(parts)
    assert len({part.method for part in parts}) == len(parts)
    for kind, most in (("block", patches + prefix), ("tail", patches + prefix), ("approximator", patches)):
        counts = tokens_of(parts, kind)
        assert counts == sorted(set(counts))
        assert len(counts) >= 2
        assert counts[0] in (1, 8)
        assert counts[-1] == most


def test_the_step_is_searched_count_by_count_unless_it_must_be_quick() -> None:
    counts, quick = (tokens_of(parts_of(NET, None, one), "block") for one in (False, True))
    assert set(range(49, 74)) <= set(counts)
    assert {31, 32, 33, 95, 96, 97} <= set(counts)
    assert len(quick) < len(counts) / 3


def test_the_anchor_has_the_checkpoints_counts_or_usual_shares() -> None:
    assert anchor_counts(NET, TokenCounts(OWN)).kept == OWN
    assert anchor_counts(NET, None).kept == (98, 65, 31)
    assert len(anchor_counts(replace(NET, stages=(2, 4, 6, 8)), None).kept) == 4
    with pytest.raises(InputError, match="stages"):
        anchor_counts(NET, TokenCounts((3, 2)))


def times(call_ms: float, step: float = 0.0, aligned: float = 0.0) -> dict[Part, float]:
    """A machine on which a call takes ``call_ms`` and 1 µs a token, and a block 10 µs a token besides."""
    found: dict[Part, float] = {}
    for part in parts_of(NET, TokenCounts(OWN)):
        tokens = part.tokens[0] if part.tokens else NET.patch_tokens + 1
        call = call_ms + tokens * 1e-3
        teeth = step * (-(-tokens // 7) - tokens / 7) - (aligned if tokens % 16 == 0 else 0)
        extra = {"call": 0.0, "block": tokens * 1e-2 + teeth, "approximator": tokens * 1e-3, "tail": tokens * 5e-3}
        found[part] = call + extra.get(part.kind, 0.3)
    return found


@given(st.floats(0, 2))
def test_what_a_call_costs_is_taken_off_the_parts_that_a_net_has_several_of(call_ms: float) -> None:
    table = to_table(times(call_ms), NET, precision="fp32", threads=2, source="a test")
    assert dict(table.block)[8] == pytest.approx(0.08, abs=1e-4)
    assert dict(table.approximator)[196] == pytest.approx(0.196, abs=1e-4)
    assert table.selection == pytest.approx(0.3, abs=1e-4)
    assert table.stem == pytest.approx(0.3 + call_ms + 0.197, abs=1e-4)
    assert (table.precision, table.threads, table.source, table.provenance) == ("fp32", 2, "a test", "measured")
    assert (table.step, table.aligned) == (None, None)
    assert predict_ms(table, NET, TokenCounts(OWN)) == pytest.approx(table.tofe[0].ms)


def test_step_and_alignment_come_out_of_the_points() -> None:
    table = to_table(times(0.01, step=0.05, aligned=0.02), NET, precision="int8", threads=1, source="a test")
    assert table.step is not None
    assert table.aligned is not None
    assert (table.step.tokens, table.aligned.tokens) == (7, 16)
    assert table.step.ms == pytest.approx(0.05, rel=0.1)
    assert table.aligned.ms == pytest.approx(0.02, rel=0.1)


def test_a_part_no_slower_than_an_empty_call_stays_above_zero() -> None:
    flat = dict.fromkeys(parts_of(SMALL, None), 0.01)
    table = to_table(flat, SMALL, precision="fp32", threads=1, source="a test")
    assert min(ms for _, ms in table.block) > 0
    assert table.selection > 0

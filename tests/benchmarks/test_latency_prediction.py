"""The benchmark of predictions: which counts it draws, and what it compares."""

from pathlib import Path

import pytest
from latency_tables import NET, OWN, table_for

from benchmarks.latency_prediction import compare, draw, main
from tofe_edge.budget.latency_parts import Part
from tofe_edge.model.backbones import TokenCounts
from tofe_edge.runtimes.calibration import Calibrated


def test_triples_are_unseen_different_and_the_same_for_a_seed() -> None:
    drawn = draw(NET, TokenCounts(OWN), seed=1)
    assert len(set(drawn)) == 10
    assert TokenCounts(OWN) not in drawn
    assert all(list(counts.kept) == sorted(counts.kept, reverse=True) for counts in drawn)
    assert all(8 <= count <= NET.patch_tokens for counts in drawn for count in counts.kept)
    assert drawn == draw(NET, TokenCounts(OWN), seed=1)
    assert drawn != draw(NET, TokenCounts(OWN), seed=2)


def test_an_error_is_positive_where_the_prediction_is_too_high() -> None:
    table = table_for(rest_ms=0.3)
    measured = Calibrated({Part("dense"): 20.0, Part("tofe", OWN): table.tofe[0].ms / 2}, 1.0, 1, None)
    tofe, dense = compare(table, measured, [TokenCounts(OWN)], NET)
    assert tofe.tokens == "95,63,31"
    assert tofe.error == pytest.approx(1.0)
    # Stem, eleven blocks of 197 tokens at 4 us a token, the last block with the classifier, and the rest.
    assert dense.predicted_ms == pytest.approx(0.2 + 11 * 197 * 0.004 + 0.2 + 0.3, abs=1e-3)
    assert dense.error < 0
    assert dense.gmacs > tofe.gmacs


def test_wrong_calls_end_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--programs", str(tmp_path), "--checkpoint", "nonsense"]) == 2
    assert "checkpoint 'nonsense'" in capsys.readouterr().err

"""Results of compared methods: which images each has right, and differences on the same images."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from research.results import Results, Training, open_results, packed, render, row_of, unpacked, write_results
from tofe_edge.evaluation.statistics import bootstrap_difference, mcnemar

IMAGES = 203
LABELS = np.random.default_rng(0).integers(0, 10, IMAGES)
SETTINGS = {"validation_images": IMAGES}
CALL = {"date": "2026-01-01", "command": "python -m research.compare_methods"}


def logits(right: float, seed: int) -> Any:
    """Of which about this share of images is right, half of them the same ones whatever the seed."""
    wanted = np.random.default_rng(seed).random(IMAGES) < right
    wanted[::2] = np.random.default_rng(1).random(len(wanted[::2])) < right
    named = np.where(wanted, LABELS, (LABELS + 1) % 10)
    return np.eye(10)[named]


def results(**shares: float) -> Results:
    made = Results(SETTINGS, [CALL], {})
    for seed, (name, share) in enumerate(shares.items()):
        training = Training("elsewhere" if name == "shipped" else "yes", 1, 1, 1.0)
        made.put(row_of(name, "", 0.6, "", training, logits(share, seed), logits(0.8, 99), LABELS))
    return made


@given(st.lists(st.booleans(), min_size=1))
def test_hits_come_back(hits: list[bool]) -> None:
    assert unpacked(packed(np.array(hits)), len(hits)).tolist() == hits


def test_methods_are_compared_with_the_best_tofe_on_the_same_images(tmp_path: Path) -> None:
    made = results(shipped=0.9, tofe=0.5, tofe_given=0.7, evit=0.6)
    tofe = ("shipped", "tofe", "tofe_given")
    write_results(tmp_path / "r.yaml", made, tofe)
    stored = yaml.safe_load((tmp_path / "r.yaml").read_text())["to_tofe"]
    assert stored["method"] == "tofe_given" and list(stored["differences"]) == ["shipped", "tofe", "evit"]
    ours, its = ((logits(share, seed).argmax(axis=1) == LABELS) for share, seed in ((0.7, 2), (0.6, 3)))
    gap, test = bootstrap_difference(ours, its), mcnemar(ours, its)
    found = stored["differences"]["evit"]
    assert found["difference"] == round(100 * (its.mean() - ours.mean()), 2) < 0
    assert found["interval"] == [round(gap.low, 2), round(gap.high, 2)]
    assert found["mid_p"] == pytest.approx(test.mid_p, rel=0.01)
    assert "to tofe_given" in render(made, tofe).splitlines()[0]
    assert f"{found['difference']:+.2f} (" in render(made, tofe)
    again = open_results(tmp_path / "r.yaml", SETTINGS, CALL)
    assert again.rows == made.rows and again.calls == [CALL]

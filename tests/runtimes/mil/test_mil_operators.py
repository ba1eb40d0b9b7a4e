"""Every operator of the executor in a real program, against implementations that share nothing with it."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mil_cases import CASES
from mil_programs import save_cases

from tofe_edge.runtimes.mil import OPERATORS, load_program, open_package
from tofe_edge.runtimes.mil.operators import OPERATORS_BY_KIND, topk

ELSEWHERE = {"classify"}
"""Tested in test_mil_images.py: coremltools writes it from a classifier's configuration only."""


@pytest.mark.parametrize("kind", CASES)
@settings(max_examples=8, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), ios=st.sampled_from([16, 17, 18]))
def test_results_are_those_of_the_definition(kind: str, seed: int, ios: int) -> None:
    rng = np.random.default_rng(seed)
    labelled = [(label, maker(rng)) for label, maker in CASES[kind].items() for _ in range(2)]
    fitting = [(label, each) for label, each in labelled if each.fits(ios)]
    if not fitting:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cases.mlpackage"
        inputs, names = save_cases(path, [each for _, each in fitting], ios)
        outputs = load_program(open_package(path)).run(inputs)
    for (label, each), results in zip(fitting, names):
        assert len(results) == len(each.expected), label
        for name, expected in zip(results, each.expected):
            _assert_close(np.asarray(outputs[name]), np.asarray(expected), f"{label} {dict(each.constants)}")


def test_topk_takes_the_lower_index_first_among_many_equals() -> None:
    """More elements than PyTorch sorts stably by itself."""
    x = np.random.default_rng(0).integers(0, 3, (2, 1000)).astype(np.float32)
    for ascending in (False, True):
        result = topk(torch.from_numpy(x), k=500, ascending=ascending)
        assert np.array_equal(result[1].numpy(), np.argsort(x if ascending else -x, 1, kind="stable")[:, :500])


def test_every_operator_has_a_case() -> None:
    tested = {label.split(" (")[0] for cases in CASES.values() for label in cases}
    assert set(OPERATORS) - {each for label in tested for each in label.split(", ")} == ELSEWHERE


def test_the_document_lists_every_operator() -> None:
    document = Path(__file__).parents[3] / "docs" / "coreml-executor.md"
    rows = [
        f"| {kind} | {', '.join(f'`{name}`' for name in sorted(table))} |" for kind, table in OPERATORS_BY_KIND.items()
    ]
    assert [line for line in document.read_text().splitlines() if line.startswith("| ")][1:] == rows


def _assert_close(actual: np.ndarray, expected: np.ndarray, what: str) -> None:
    assert actual.shape == expected.shape, what
    largest = max(1.0, float(np.abs(expected).max(initial=0)))
    np.testing.assert_allclose(
        actual.astype(np.float64), expected.astype(np.float64), 1e-5, 1e-5 * largest, err_msg=what
    )

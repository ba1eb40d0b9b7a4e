"""The README's table follows from a result file, and from nothing else."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks import report
from benchmarks.report import Results, Row, read_results, write_results
from tofe_edge.errors import InputError

CONDITIONS = {
    "date": "2026-01-02",
    "command": "taskset -c 1 python -m benchmarks.runtimes",
    "backbone": "deit_tiny",
    "image_size": 224,
    "tokens": "97,67,26",
    "gmacs": {"dense": 1.2539, "ToFe": 0.6306},
    "host": {"processor": "Some CPU (avx2)"},
    "threads": 1,
    "pinned_to": [1],
    "runs": 60,
    "baseline": "dense, stock ExecuTorch fp32",
}


def row(group: str, runtime: str, precision: str, p50: float, snr: float = 115.0) -> Row:
    name = f"{group}, {runtime} {precision}"
    return Row(name, group, runtime, precision, p50, p50 + 1, p50 - 1, p50, round(40 / p50, 2), 23.04, 62, snr, 0.99)


RESULTS = Results(
    CONDITIONS,
    (
        row("dense", "stock ExecuTorch", "fp32", 40.0),
        row("dense", "tofe-edge", "int8 dynamic", 10.0, 24.0),
        row("dense", "Hasty", "int8 static", 1.0, 2.0),
        row("ToFe", "tofe-edge", "int8 dynamic", 5.0, 20.0),
        row("ToFe", "PyTorch eager", "fp32", 20.0, float("inf")),
    ),
)


@pytest.fixture
def result_file(tmp_path: Path) -> Path:
    path = tmp_path / "results" / "runtimes-deit_tiny-2026-01-02.yaml"
    write_results(path, RESULTS)
    return path


def test_a_result_file_reads_as_it_was_written(result_file: Path) -> None:
    assert read_results(result_file) == RESULTS


def test_the_readme_is_updated_and_then_passes_the_check(result_file: Path, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"# Title\n\n{report.BEGIN}\n| old |\n{report.END}\n\nText after.\n")
    arguments = [str(result_file), "--readme", str(readme)]
    assert report.main([*arguments, "--check"]) == 1
    assert report.main(arguments) == 0
    text = readme.read_text()
    assert text.startswith(f"# Title\n\n{report.BEGIN}\n") and text.endswith(f"{report.END}\n\nText after.\n")
    assert "| 1.00 ms | – | disagrees / – |" in text, "a fast contender that computes something else wins nothing"
    assert report.main([*arguments, "--check"]) == 0
    for stale in (text.replace("40.00 ms", "4.00 ms"), "no markers"):
        readme.write_text(stale)
        assert report.main([*arguments, "--check"]) != 0
    assert report.main([str(result_file), "--check"]) == 2


def edited(**changes: Any) -> str:
    """The file's text with conditions (or, as ``row_…``, fields of the first row) changed; ``None`` removes."""
    document = {**CONDITIONS, "results": [asdict(one) for one in RESULTS.rows]}
    for key, value in changes.items():
        place: dict[str, Any] = document["results"][0] if key.startswith("row_") else document  # type: ignore[assignment, index]
        name = key.removeprefix("row_")
        place[name] = value
        if value is None and name != "delegates":
            del place[name]
    return yaml.safe_dump(document)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: [", "is not YAML"),
        (edited(date=None), "date: Field required"),
        (edited(host={}), "host.processor: Field required"),
        (edited(results=[]), "has no results"),
        (edited(gmacs={"dense": 1.0}), "has no GMACs of ToFe"),
        (edited(row_p50_ms="40 ms"), "0.p50_ms: Input should be a valid number"),
        (edited(row_p50_ms=float("nan")), "0.p50_ms: Value error, NaN is not a figure"),
        (edited(row_extra=1), "0.extra: Unexpected keyword argument"),
    ],
)
def test_bad_result_files_are_refused_in_one_line(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "result.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_results(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and reason in message


def test_optional_conditions_and_whole_numbers_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "result.yaml"
    for text in (edited(pinned_to=[]), edited(row_delegates=None), edited(row_p50_ms=40)):
        path.write_text(text)
        assert report.render(read_results(path), "link")

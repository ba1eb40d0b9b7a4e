"""The README's table and plot follow from a result file, and from nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks import report
from benchmarks.result_file import Results, Row, read_results, write_results
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


@pytest.fixture
def readme(tmp_path: Path) -> Path:
    path = tmp_path / "README.md"
    path.write_text(f"# Title\n\n{report.BEGIN}\n| old |\n{report.END}\n\nText after.\n")
    return path


def test_a_result_file_reads_as_it_was_written(result_file: Path) -> None:
    assert read_results(result_file) == RESULTS


def test_the_table_has_a_row_per_runtime_and_precision() -> None:
    lines = report.render(RESULTS, "r.yaml").splitlines()
    assert lines[:6] == [
        "| runtime | precision | dense, 1.254 GMACs | ToFe, 0.631 GMACs | ratio | SNR, dense / ToFe | size |",
        "|---|---|---:|---:|---:|---:|---:|",
        "| stock ExecuTorch | fp32 | 40.00 ms | – | 1.00x / – | 115 dB / – | 23.0 MB |",
        "| **tofe-edge** | int8 dynamic | **10.00 ms** | **5.00 ms** | 4.00x / 8.00x | 24 dB / 20 dB | 23.0 MB |",
        "| Hasty | int8 static | 1.00 ms | – | disagrees / – | 2 dB / – | 23.0 MB |",
        "| PyTorch eager | fp32 | – | 20.00 ms | – / 2.00x | – / exact | 23.0 MB |",
    ]
    caption = "\n".join(lines[6:])
    for fact in (
        "one thread pinned to core 1",
        "Some CPU (avx2)",
        "2026-01-02",
        "97, 67, 26",
        "(r.yaml)",
        "under 10 dB",
    ):
        assert fact in caption


def test_the_readme_is_updated_and_then_passes_the_check(result_file: Path, readme: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install -e '.[benchmarks]'")
    images = tmp_path / "images"
    arguments = [str(result_file), "--readme", str(readme), "--images", str(images)]
    assert report.main([*arguments, "--check"]) == 1
    assert not images.exists()
    assert report.main(arguments) == 0
    text = readme.read_text()
    assert text.startswith("# Title\n\n<!-- latency table -->\n| runtime") and text.endswith("\n\nText after.\n")
    assert "| old |" not in text
    assert "(results/runtimes-deit_tiny-2026-01-02.yaml)" in text
    assert report.main([*arguments, "--check"]) == 0
    assert [path.name for path in images.iterdir()] == ["latency-deit_tiny.svg"]
    readme.write_text(text.replace("40.00 ms", "4.00 ms"))
    assert report.main([*arguments, "--check"]) == 1


def test_the_plot_is_the_same_bytes_each_time() -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install -e '.[benchmarks]'")
    from benchmarks.plot import plot

    first = plot(RESULTS)
    assert first == plot(RESULTS)
    text = first.decode()
    assert "tofe-edge int8 dynamic" in text and "<dc:date>" not in text and "Matplotlib" not in text


@pytest.mark.parametrize("text", ["no markers", f"{report.END}\n{report.BEGIN}", f"{report.BEGIN}\n" * 2 + report.END])
def test_a_readme_without_its_markers_is_refused(
    result_file: Path, readme: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    readme.write_text(text)
    assert report.main([str(result_file), "--readme", str(readme)]) == 2
    assert "needs one line <!-- latency table -->" in capsys.readouterr().err
    assert readme.read_text() == text


def edited(**changes: Any) -> str:
    """The file's text with conditions (or, as ``row_…``, fields of the first row) changed; ``None`` removes."""
    from dataclasses import asdict

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
        ("a: [", "is no YAML"),
        ("- 1", "expected a mapping"),
        ("", "expected a mapping"),
        (edited(date=None), "field 'date' is missing or no str"),
        (edited(runs="many"), "field 'runs' is missing or no int"),
        (edited(host={}), "field 'host' has no processor"),
        (edited(results=[]), "field 'results' is missing or empty"),
        (edited(results=[1]), "results[0] is no mapping"),
        (edited(gmacs={"dense": 1.0}), "field 'gmacs' says nothing of group 'ToFe'"),
        (edited(row_p50_ms=None), "results[0]: field 'p50_ms' is missing or no float"),
        (edited(row_p50_ms="40 ms"), "results[0]: field 'p50_ms' is missing or no float"),
        (edited(row_p50_ms=float("nan")), "results[0]: field 'p50_ms' is missing or no float"),
        (edited(row_p50_ms=True), "results[0]: field 'p50_ms' is missing or no float"),
        (edited(row_extra=1), "results[0] has an unknown field 'extra'"),
        (edited(pinned_to=[]), ""),
        (edited(row_delegates=None), ""),
        (edited(row_p50_ms=40), ""),
    ],
)
def test_bad_result_files_are_refused_in_one_line(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "result.yaml"
    path.write_text(text)
    if not reason:
        assert report.render(read_results(path), "link")
        return
    with pytest.raises(InputError) as caught:
        read_results(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and reason in message and "\n" not in message


def test_a_missing_file_and_a_check_of_nothing_are_refused(
    result_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report.main(["nowhere.yaml"]) == 2
    assert "nowhere.yaml: cannot be read" in capsys.readouterr().err
    assert report.main([str(result_file), "--check"]) == 2
    assert "--check needs --readme" in capsys.readouterr().err

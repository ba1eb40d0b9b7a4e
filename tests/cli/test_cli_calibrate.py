"""``tofe-edge calibrate``, and what ``select``, ``convert`` and ``profiles`` make of its table, through the entry point."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from latency_tables import table_for

from tofe_edge.budget.latency_model import predict_ms
from tofe_edge.cli import main
from tofe_edge.io.artifact import open_artifact
from tofe_edge.model.backbones import create_host
from tofe_edge.model.backbones.spec import Backbone
from tofe_edge.model.checkpoint import Checkpoint
from tofe_edge.model.zoo import shipped_checkpoints
from tofe_edge.profiles import load_profile, with_tables
from tofe_edge.runtimes.bench import HostBench
from tofe_edge.runtimes.timing import Timing, TimingRequest

BOARD = (Path(__file__).parents[1] / "profiles" / "my_board.yaml").read_text()


@pytest.fixture
def board(tmp_path: Path) -> Path:
    """A user's own profile."""
    path = tmp_path / "board.yaml"
    path.write_text("# mine\n" + BOARD)
    return path


def spec_of(checkpoint: Checkpoint) -> Backbone:
    """The shape of a checkpoint's net."""
    return create_host(checkpoint.backbone_name, checkpoint.overrides).spec


@pytest.fixture
def calibrated(board: Path, tiny_checkpoint: Checkpoint) -> Path:
    """The profile with made-up tables of the tiny net, on which int8 takes about 1 ms and fp32 about 2."""
    spec = spec_of(tiny_checkpoint)
    tables = [
        table_for(spec, precision, kept=(9, 5, 3), block_us=us, rest_ms=rest)
        for precision, us, rest in (("int8", 5.0, 0.1), ("fp32", 10.0, 1.0))
    ]
    board.write_bytes(with_tables(board.read_bytes(), tables, "board.yaml"))
    return board


def call(*words: object) -> int:
    """The exit code of a command; what argparse refuses ends in 2 too."""
    try:
        return main([str(word) for word in words])
    except SystemExit as error:
        return int(error.code or 0)


def error_of(capsys: pytest.CaptureFixture[str], *words: object, code: int = 2) -> str:
    """The one line that a command ends with."""
    assert call(*words) == code
    return capsys.readouterr().err.splitlines()[-1]


# --- calibrate -------------------------------------------------------------------------------------------------------


def test_a_profile_gets_its_table_and_keeps_its_text(
    board: Path, tiny_checkpoint: Checkpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    before = board.read_text()
    words = ("calibrate", "--profile", board, "--checkpoint", tiny_checkpoint.path, "--quick", "--threads", 1)
    assert call(*words, "--precision", "fp32", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["profile"], document["wrote"], document["on"]) == ("my_board", str(board), "host")
    (table,) = load_profile(str(board)).latency
    assert document["tables"][0]["block"] == [list(point) for point in table.block]
    assert (table.precision, table.threads, table.tofe[0].kept) == ("fp32", 1, (9, 5, 3))
    assert "host, " in table.source
    assert "40 runs per part: p2, the median is" in table.source
    assert board.read_text().startswith(before)
    assert [path.name for path in board.parent.iterdir()] == ["board.yaml"]
    # A further precision is added to it.
    assert call(*words, "--precision", "int8") == 0
    assert "wrote" in capsys.readouterr().out
    assert [one.precision for one in load_profile(str(board)).latency] == ["fp32", "int8"]
    assert call("profiles", board) == 0
    shown = capsys.readouterr().out
    assert shown.count("measured: host, ") == 2
    assert "17 tokens" in shown


class Instant(HostBench):
    """A bench that runs nothing."""

    def time(self, model: Path, request: TimingRequest) -> Timing:
        """One millisecond for everything."""
        from tofe_edge.runtimes.latency import Latency

        latency = Latency((1.0,) * request.runs, 1.0)
        return Timing(latency=latency, load_ms=1.0, threads=1, planned_bytes=None, peak_rss_bytes=None)


@pytest.fixture
def instant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is lowered or timed: what happens around it is the matter."""
    from tofe_edge.converters.probes import ProbeProgram

    monkeypatch.setattr("tofe_edge.runtimes.bench.HostBench", Instant)
    monkeypatch.setattr(
        "tofe_edge.workflows.calibrate.build_probes",
        lambda model, parts, precision: [ProbeProgram(tuple(parts), b"program")],
    )


@pytest.mark.usefixtures("instant")
def test_a_shipped_profile_is_copied_and_the_copy_can_be_extended(
    tmp_path: Path, tiny_checkpoint: Checkpoint, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("calibrate", "--profile", "raspberry_pi_5", "--checkpoint", tiny_checkpoint.path)
    assert call(*words, "--precision", "int8") == 0
    assert [one.threads for one in load_profile("./raspberry_pi_5.yaml").latency] == [4]
    assert call(*words, "--precision", "fp32") == 0
    assert [one.precision for one in load_profile("./raspberry_pi_5.yaml").latency] == ["int8", "fp32"]
    capsys.readouterr()
    Path("raspberry_pi_5.yaml").write_text(BOARD)
    assert "holds something other than profile raspberry_pi_5" in error_of(capsys, *words)
    assert Path("raspberry_pi_5.yaml").read_text() == BOARD
    assert call(*words, "--force", "--precision", "fp32") == 0
    assert load_profile("./raspberry_pi_5.yaml").name == "raspberry_pi_5"
    assert call(*words, "--out", "new/board") == 0
    assert len(load_profile("new/board").latency) == 2
    capsys.readouterr()
    Path("folder").mkdir()
    assert "is a folder where a file should go" in error_of(capsys, *words, "--out", "folder")


@pytest.mark.usefixtures("instant")
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("no")])
def test_an_interrupted_calibration_writes_nothing(
    board: Path, tiny_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    before = board.read_bytes()

    def fail(*_: object) -> Timing:
        raise error

    monkeypatch.setattr(Instant, "time", fail)
    assert call("calibrate", "--profile", board, "--checkpoint", tiny_checkpoint.path) in (2, 130)
    assert board.read_bytes() == before
    assert [path.name for path in board.parent.iterdir()] == ["board.yaml"]


def test_calls_that_cannot_be_met(board: Path, tiny_checkpoint: Checkpoint, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("calibrate", "--profile", board)
    assert "unknown profile" in error_of(capsys, "calibrate", "--profile", "nonsense")
    assert "neither a shipped one" in error_of(capsys, *words, "--checkpoint", "nonsense")
    assert "--backbone names the net" in error_of(capsys, *words, "--backbone", "deit_small_patch16_224")
    assert "--precision" in error_of(capsys, *words, "--precision", "fp16")
    assert "--profile" in error_of(capsys, "calibrate")
    at = ("--checkpoint", tiny_checkpoint.path, "--on", "carrier://pigeon")
    assert "carrier://pigeon" in error_of(capsys, *words, *at)
    board.write_text(BOARD + "...\n")
    assert "cannot be added to this layout" in error_of(capsys, *words, "--checkpoint", tiny_checkpoint.path)


# --- select and profiles ---------------------------------------------------------------------------------------------


def test_select_without_a_table_or_a_profile_says_what_to_run(board: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = error_of(capsys, "select", "--profile", board, "--max-latency-ms", 5)
    best = shipped_checkpoints()[0].name
    assert f"profile my_board has no latency table for {best}" in missing
    assert f"`tofe-edge calibrate --profile my_board --checkpoint {best}`" in missing
    assert "say which with --profile" in error_of(capsys, "select", "--max-latency-ms", 5)
    both = ("--max-gmacs", 1, "--max-latency-ms", 5)
    assert "two budgets; give one" in error_of(capsys, "select", "--profile", board, *both)
    assert "goes with --max-latency-ms" in error_of(capsys, "select", "--profile", board, "--precision", "fp32")
    assert "--max-latency-ms" in error_of(capsys, "select", "--profile", board, "--max-latency-ms", "-1")


def _spec_of(checkpoint: Checkpoint) -> Backbone:
    return create_host(checkpoint.backbone_name, stages=checkpoint.stages).spec


def test_select_by_latency(board: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = create_host("deit_tiny_patch16_224").spec
    tables = [table_for(spec), table_for(spec, "fp32", block_us=10.0)]
    board.write_bytes(with_tables(board.read_bytes(), tables, "board.yaml"))
    call("select", "--profile", board, "--max-latency-ms", 100, "--json")
    roomy = json.loads(capsys.readouterr().out)
    shipped = shipped_checkpoints()
    best = shipped[0]
    assert best.token_counts is not None
    assert (roomy["checkpoint"], roomy["precision"], roomy["at_own_counts"]) == (best.name, "int8", True)
    assert roomy["predicted_ms"] == pytest.approx(predict_ms(tables[0], spec, best.token_counts), abs=1e-3)
    runners_up = [(other["checkpoint"], other["precision"]) for other in roomy["runners_up"]]
    assert runners_up == [(one.name, precision) for one in shipped for precision in ("int8", "fp32")][1:]
    call("select", "--profile", board, "--max-latency-ms", 100, "--precision", "fp32")
    assert f"> {best.name}  fp32" in capsys.readouterr().out
    smallest = shipped[-1]
    assert smallest.token_counts is not None
    limit = 0.95 * predict_ms(tables[0], _spec_of(smallest), smallest.token_counts)
    call("select", "--profile", board, "--max-latency-ms", limit, "--json")
    tight = json.loads(capsys.readouterr().out)
    assert tight["predicted_ms"] < limit
    assert tight["gmacs"] < roomy["gmacs"]
    assert "accuracy at these counts was not measured" in tight["reason"]
    assert "the least possible on my_board" in error_of(
        capsys, "select", "--profile", board, "--max-latency-ms", 1, code=1
    )
    call("select", "--profile", board, "--json")
    by_gmacs = json.loads(capsys.readouterr().out)
    chosen = next(one for one in shipped if one.name == by_gmacs["checkpoint"])
    assert by_gmacs["predicted_ms"] == pytest.approx(
        predict_ms(tables[0], _spec_of(chosen), chosen.token_counts), abs=1e-3
    )


# --- convert ---------------------------------------------------------------------------------------------------------


def test_convert_holds_a_limit_and_says_so_in_the_manifest(
    calibrated: Path, tiny_checkpoint: Checkpoint, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = calibrated.parent / "out"
    words = (
        "convert",
        "--profile",
        calibrated,
        "--checkpoint",
        tiny_checkpoint.path,
        "--out",
        out,
        "--waive",
        "a test",
    )
    # With the margin for predictions too little for the checkpoint's own counts.
    limit_ms = load_profile(str(calibrated)).latency[1].tofe[0].ms
    limit = ("--precision", "fp32", "--max-latency-ms", limit_ms)
    monkeypatch.setattr("tofe_edge.runtimes.bench.HostBench", Instant)
    assert call(*words, *limit, "--on", "host", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["predicted_ms"] <= 0.95 * limit_ms
    assert all(count < own for count, own in zip(document["token_counts"], [9, 5, 3]))
    manifest = open_artifact(Path(document["artifact"])).manifest
    assert "_".join(map(str, manifest.token_counts or [])) in manifest.artifact
    assert manifest.latency == document["latency"]
    assert manifest.latency is not None
    assert (manifest.latency["measured_ms"], manifest.latency["device"], manifest.latency["limit_ms"]) == (
        1.0,
        "host",
        limit_ms,
    )
    assert manifest.latency["source"] == "made up for a test"
    written = sorted(path.name for path in out.iterdir())

    def slow(self: Instant, model: Path, request: TimingRequest) -> Timing:
        from tofe_edge.runtimes.latency import Latency

        latency = Latency((3.0,) * request.runs, 1.0)
        return Timing(latency=latency, load_ms=1.0, threads=1, planned_bytes=None, peak_rss_bytes=None)

    monkeypatch.setattr(Instant, "time", slow)
    message = error_of(capsys, *words, *limit, "--on", "host", "--out", calibrated.parent / "late", code=1)
    assert "not written, it takes 3.00 ms on host where" in message
    assert f"--max-latency-ms {limit_ms * limit_ms / 3:.3g}" in message
    assert not (calibrated.parent / "late").exists()
    assert sorted(path.name for path in out.iterdir()) == written


def test_limits_that_convert_cannot_hold(
    calibrated: Path, tiny_checkpoint: Checkpoint, tiny_dense_checkpoint: Checkpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("convert", "--profile", calibrated, "--checkpoint", tiny_checkpoint.path, "--max-latency-ms")
    assert "the least possible on my_board" in error_of(capsys, *words, 0.1, code=1)
    for options, what in (
        (("--target", "coreml"), "for Core ML; use --target executorch"),
        (("--batch", 2), "for batches"),
        (("--image-size", 32), "for other image sizes"),
        (("--selection", "rank"), "for --selection rank"),
        (("--int8-mode", "static"), "for --int8-mode static"),
        (("--reproducible",), "for --reproducible"),
    ):
        assert f"latency is not predicted {what}" in error_of(capsys, *words, 5, *options)
    assert "latency is predicted for fp32 and int8, not fp16" in error_of(capsys, *words, 5, "--precision", "fp16")
    assert "two budgets" in error_of(capsys, *words, 5, "--max-gmacs", 1)
    other = ("convert", "--profile", calibrated, "--checkpoint", "tofe_deit_tiny_063", "--max-latency-ms", 5)
    assert "no latency table for tofe_deit_tiny_063" in error_of(capsys, *other)
    dense = ("convert", "--profile", calibrated, "--checkpoint", tiny_dense_checkpoint.path, "--max-latency-ms", 0.1)
    assert "a dense model has no token counts to lower" in error_of(capsys, *dense, code=1)
    coreml = ("convert", "--checkpoint", tiny_checkpoint.path, "--target", "coreml", "--on", "host")
    assert "--on times ExecuTorch programs" in error_of(capsys, *coreml)

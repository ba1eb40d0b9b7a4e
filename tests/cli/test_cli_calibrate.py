"""``tofe-edge calibrate``, and what ``select``, ``convert`` and ``devices`` make of its table, through the entry point."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Program, flat
from latency_tables import made_up_timing, table_for

from tofe_edge.budget.latency_model import predict_ms
from tofe_edge.cli import main
from tofe_edge.converters.probes import ProbeProgram
from tofe_edge.io.artifact import open_artifact
from tofe_edge.model.backbones import create_backbone
from tofe_edge.model.backbones.spec import Backbone
from tofe_edge.model.checkpoint import Checkpoint, backbone_of
from tofe_edge.model.zoo import shipped_checkpoints
from tofe_edge.profiles import load_profile, with_tables
from tofe_edge.runtimes.bench import HostBench
from tofe_edge.runtimes.timing import Timing, TimingRequest

BOARD = (Path(__file__).parents[1] / "profiles" / "my_board.yaml").read_text()


@pytest.fixture(autouse=True)
def _this_is_an_arm_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")


@pytest.fixture
def board(tmp_path: Path) -> Path:
    """A user's own profile."""
    path = tmp_path / "board.yaml"
    path.write_text("# mine\n" + BOARD)
    return path


@pytest.fixture
def calibrated(board: Path, tiny_checkpoint: Checkpoint) -> Path:
    """The profile with made-up tables of the tiny net, on which int8 takes about 1 ms and fp32 about 2."""
    spec = backbone_of(tiny_checkpoint).spec
    tables = [
        table_for(spec, precision, kept=(9, 5, 3), block_us=us, rest_ms=rest)
        for precision, us, rest in (("int8", 5.0, 0.1), ("fp32", 10.0, 1.0))
    ]
    board.write_bytes(with_tables(board.read_bytes(), tables, "board.yaml"))
    return board


class Instant(HostBench):
    """A bench that runs nothing; everything takes ``ms``."""

    ms = 1.0

    def time(self, model: Path, request: TimingRequest) -> Timing:
        return made_up_timing((self.ms,) * request.runs)


@pytest.fixture
def instant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is lowered or timed: the tests are of what happens around it."""
    monkeypatch.setattr("tofe_edge.runtimes.devices.opening.HostBench", Instant)
    monkeypatch.setattr(
        "tofe_edge.workflows.calibrate.build_probes",
        lambda model, parts, precision: [ProbeProgram(tuple(parts), b"program")],
    )


def error_of(program: Program, *words: object, code: int = 2) -> str:
    """The one line that a call ends with; what argparse refuses ends in 2 too."""
    try:
        found, _, err = program(*words)
    except SystemExit as ended:
        found, err = int(ended.code or 0), ""
    assert found == code
    return err.splitlines()[-1] if err else ""


def test_a_profile_keeps_its_text(board: Path, weights: Path, program: Program) -> None:
    before = board.read_text()
    words = ("calibrate", "--profile", board, "--checkpoint", weights, "--quick", "--threads", 1)
    code, out, _ = program(*words, "--precision", "fp32", "--json")
    document = json.loads(out)
    assert code == 0 and document.keys() == {"profile", "wrote", "on", "tables"}
    assert (document["profile"], document["wrote"], document["on"]) == ("my_board", str(board), "host")
    (table,) = load_profile(str(board)).latency
    assert document["tables"][0]["block"] == [list(point) for point in table.block]
    assert (table.precision, table.threads, table.tofe[0].kept) == ("fp32", 1, (9, 5, 3))
    assert "host, " in table.source and "40 runs per part: p2, the median is" in table.source
    assert board.read_text().startswith(before)
    assert [path.name for path in board.parent.iterdir()] == ["board.yaml"]


def test_a_profile_of_another_processor_is_refused(
    board: Path, weights: Path, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    before = board.read_bytes()
    said = error_of(program, "calibrate", "--profile", board, "--checkpoint", weights)
    assert "what would be measured is x86_64; say where the device is with --on" in said
    assert board.read_bytes() == before


@pytest.mark.usefixtures("instant")
def test_a_shipped_profile_is_copied_and_the_copy_can_be_extended(
    tmp_path: Path, weights: Path, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("calibrate", "--profile", "raspberry_pi_5", "--checkpoint", weights)
    code, out, _ = program(*words, "--precision", "int8")
    assert code == 0 and "wrote" in out
    assert [one.threads for one in load_profile("./raspberry_pi_5.yaml").latency] == [4]
    assert program(*words, "--precision", "fp32")[0] == 0
    assert [one.precision for one in load_profile("./raspberry_pi_5.yaml").latency] == ["int8", "fp32"]
    code, out, _ = program("devices", "./raspberry_pi_5.yaml")
    assert code == 0 and out.count("measured: host; ") == 2 and "17 tokens" in flat(out)
    Path("raspberry_pi_5.yaml").write_text(BOARD)
    assert "holds something other than profile raspberry_pi_5" in error_of(program, *words)
    assert Path("raspberry_pi_5.yaml").read_text() == BOARD
    assert program(*words, "--force", "--precision", "fp32")[0] == 0
    assert load_profile("./raspberry_pi_5.yaml").name == "raspberry_pi_5"
    assert program(*words, "--out", "new/board")[0] == 0
    assert len(load_profile("new/board").latency) == 2
    Path("folder").mkdir()
    assert "is a folder where a file should go" in error_of(program, *words, "--out", "folder")


@pytest.mark.usefixtures("instant")
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("no")])
def test_an_interrupted_calibration_writes_nothing(
    board: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    before = board.read_bytes()

    def fail(*_: object) -> Timing:
        raise error

    monkeypatch.setattr(Instant, "time", fail)
    assert main(["calibrate", "--profile", str(board), "--checkpoint", str(weights)]) in (2, 130)
    assert board.read_bytes() == before
    assert [path.name for path in board.parent.iterdir()] == ["board.yaml"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("calibrate", ""),
        ("calibrate --profile BOARD --precision fp16", ""),
        ("calibrate --profile nonsense", "unknown profile"),
        ("calibrate --profile BOARD --checkpoint nonsense", "neither a shipped one"),
        ("calibrate --profile BOARD --backbone deit_small_patch16_224", "--backbone names the net"),
        ("calibrate --profile BOARD --checkpoint CKPT --on carrier://pigeon", "carrier://pigeon"),
        ("select --profile jetson_orim", "did you mean 'jetson_orin'?"),
        ("select --profile jetson_orin_agx", "did you mean 'jetson_orin'?"),
        ("profile jetson_orin", "did you mean `tofe-edge devices jetson_orin`?"),
        ("select --max-latency-ms 5", "say which with --profile"),
        ("select --profile BOARD --max-gmacs 1 --max-latency-ms 5", "two budgets; give one"),
        ("select --profile BOARD --precision fp32", "goes with --max-latency-ms"),
        ("select --profile BOARD --max-latency-ms -1", ""),
        ("select --profile BOARD --max-latency-ms 5", "profile my_board has no latency table for BEST"),
        ("select --profile BOARD --max-latency-ms 5", "`tofe-edge calibrate --profile my_board --checkpoint BEST`"),
    ],
)
def test_wrong_calls_are_refused(program: Program, board: Path, weights: Path, call: str, message: str) -> None:
    paths = {"BOARD": board, "CKPT": weights}
    line = error_of(program, *(paths.get(word, word) for word in call.split()))
    assert message.replace("BEST", shipped_checkpoints()[0].name) in line


def test_a_layout_that_no_table_can_be_added_to(program: Program, board: Path, weights: Path) -> None:
    board.write_text(BOARD + "...\n")
    call = ("calibrate", "--profile", board, "--checkpoint", weights)
    assert "cannot be added to this layout" in error_of(program, *call)


@pytest.mark.parametrize(
    ("options", "message", "code"),
    [
        ("0.1", "the least possible on my_board", 1),
        ("5 --target coreml", "latency is not predicted for Core ML; use --target executorch", 2),
        ("5 --batch 2", "latency is not predicted for batches", 2),
        ("5 --image-size 32", "latency is not predicted for other image sizes", 2),
        ("5 --selection rank", "latency is not predicted for --selection rank", 2),
        ("5 --int8-mode static", "latency is not predicted for --int8-mode static", 2),
        ("5 --reproducible", "latency is not predicted for --reproducible", 2),
        ("5 --precision fp16", "latency is predicted for fp32 and int8, not fp16", 2),
        ("5 --max-gmacs 1", "two budgets", 2),
        ("5 --checkpoint tofe_deit_tiny_063", "no latency table for tofe_deit_tiny_063", 2),
        ("0.1 --checkpoint DENSE", "a dense model has no token counts to lower", 1),
    ],
)
def test_limits_that_convert_cannot_hold(
    program: Program,
    calibrated: Path,
    weights: Path,
    tiny_dense_checkpoint: Checkpoint,
    options: str,
    message: str,
    code: int,
) -> None:
    call = ("convert", "--profile", calibrated, "--checkpoint", weights, "--max-latency-ms")
    words = [tiny_dense_checkpoint.path if word == "DENSE" else word for word in options.split()]
    assert message in error_of(program, *call, *words, code=code)


def test_select_by_latency(board: Path, program: Program) -> None:
    def spec_of(checkpoint: Checkpoint) -> Backbone:
        return create_backbone(checkpoint.backbone_name, stages=checkpoint.stages).spec

    def select(*options: object) -> Any:
        code, out, _ = program("select", "--profile", board, *options, "--json")
        assert code == 0
        return json.loads(out)

    spec = create_backbone("deit_tiny_patch16_224").spec
    tables = [table_for(spec), table_for(spec, "fp32", block_us=10.0)]
    board.write_bytes(with_tables(board.read_bytes(), tables, "board.yaml"))
    shipped = shipped_checkpoints()
    best, smallest = shipped[0], shipped[-1]
    assert best.token_counts is None and smallest.token_counts is not None, "the dense net is a candidate"
    roomy = select("--max-latency-ms", 100)
    assert (roomy["checkpoint"], roomy["precision"], roomy["at_own_counts"]) == (best.name, "int8", True)
    assert roomy["predicted_ms"] == pytest.approx(predict_ms(tables[0], spec, best.token_counts), abs=1e-3)
    runners_up = [(other["checkpoint"], other["precision"]) for other in roomy["runners_up"]]
    assert runners_up == [(one.name, precision) for one in shipped for precision in ("int8", "fp32")][1:]
    _, out, _ = program("select", "--profile", board, "--max-latency-ms", 100, "--precision", "fp32")
    assert f">  {best.name}  fp32" in out and "dense:" in out
    just_too_slow = select("--max-latency-ms", tables[0].dense / 0.95 - 1e-3)
    assert just_too_slow["checkpoint"] == shipped[1].name
    limit = 0.95 * predict_ms(tables[0], spec_of(smallest), smallest.token_counts)
    tight = select("--max-latency-ms", limit)
    assert tight["predicted_ms"] < limit and tight["gmacs"] < roomy["gmacs"]
    assert "accuracy at these counts was not measured" in tight["reason"]
    call = ("select", "--profile", board, "--max-latency-ms", 1)
    assert "the least possible on my_board" in error_of(program, *call, code=1)
    by_gmacs = select()
    chosen = next(one for one in shipped if one.name == by_gmacs["checkpoint"])
    expected = predict_ms(tables[0], spec_of(chosen), chosen.token_counts)
    assert by_gmacs["predicted_ms"] == pytest.approx(expected, abs=1e-3)


@pytest.mark.usefixtures("instant")
def test_convert_holds_a_limit_and_says_so_in_the_manifest(
    calibrated: Path, weights: Path, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = calibrated.parent / "out"
    # With the margin for predictions too little for the checkpoint's own counts.
    limit_ms = load_profile(str(calibrated)).latency[1].tofe[0].ms
    words = (
        "convert", "--profile", calibrated, "--checkpoint", weights, "--out", out, "--waive", "a test",
        "--precision", "fp32", "--max-latency-ms", limit_ms, "--on", "host",
    )  # fmt: skip
    code, said, _ = program(*words, "--json")
    document = json.loads(said)
    assert code == 0 and document["predicted_ms"] <= 0.95 * limit_ms
    assert all(count < own for count, own in zip(document["token_counts"], [9, 5, 3]))
    manifest = open_artifact(Path(document["artifact"])).manifest
    assert "_".join(map(str, manifest.token_counts or [])) in manifest.artifact
    assert manifest.latency is not None and manifest.latency == document["latency"]
    expected = {"measured_ms": 1.0, "device": "host", "limit_ms": limit_ms, "source": "made up for a test"}
    assert {key: manifest.latency[key] for key in expected} == expected
    monkeypatch.setattr(Instant, "ms", 3.0)
    message = error_of(program, *words, "--out", calibrated.parent / "late", code=1)
    assert "not written, it takes 3.00 ms on host where" in message
    assert f"--max-latency-ms {limit_ms * limit_ms / 3:.3g}" in message
    assert not (calibrated.parent / "late").exists()

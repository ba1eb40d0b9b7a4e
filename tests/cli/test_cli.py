"""The command line: what each command prints, its JSON keys, wrong calls, Ctrl-C."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Program, TinyModel, document_of, refusal
from tiny_run import stand_in, write_dense

from tofe_edge.cli import COMMANDS, main
from tofe_edge.evaluation.golden import golden_path_of
from tofe_edge.io.artifact import open_artifact
from tofe_edge.model import zoo
from tofe_edge.model.checkpoint import Checkpoint

PROGRAM = [sys.executable, "-m", "tofe_edge"]
DEADLINE_SECONDS = 300

CONVERT_KEYS = (
    "artifact batch checkpoint delegates fallback_ops fp32_layers gmacs int8_mode latency left_out manifest methods normalized "
    "output output_shape parity precision predicted_ms preprocessing profile quantization reason reproducible selection size_bytes "
    "sources target token_counts warnings"
)
PROFILE_KEYS = (
    "batch cpu_ms gmacs latency_ms load_ms machine method model on operators peak_rss_bytes planned_memory_bytes runs stages "
    "threads warm_up_runs"
)
PARITY_KEYS = (
    "analysis decided_agreement decided_images failures gates images kept_overlap left_out model near_ties passed psnr_db "
    "reference_device snr_db source top1_agreement top1_artifact top1_reference unreadable waiver "
    "warnings"
)
EVALUATE_KEYS = (
    "checkpoint device gmacs images left_out mean_kept mean_reused mode preprocessing sources top1 top1_interval top5 unreadable warnings "
    "wrote"
)
CHECKPOINT_KEYS = (
    "accuracy backbone dense_gmacs gmacs name overrides path preprocessing reduction selects_before sha256 token_counts "
    "training"
)
DEVICE_KEYS = "budget cpu defaults engines latency memory name peaks soc title"
JSON_KEYS = {
    "run MODEL IMAGE": "image kept latency_ms method top5",
    "run MODEL --self-test": "methods passed",
    "profile MODEL --runs 3 --cpus 0": PROFILE_KEYS,
    "parity MODEL --checkpoint CKPT --device cpu": PARITY_KEYS,
    "parity MODEL --checkpoint CKPT --data DATA --device cpu": PARITY_KEYS,
    "evaluate CKPT --data DATA --device cpu": EVALUATE_KEYS,
    "evaluate CKPT --data DATA --device cpu --mode instance": f"{EVALUATE_KEYS} distribution",
    "tokens CKPT --image IMAGE --device cpu": "checkpoint device images left_out mode patch_tokens preprocessing sources summary "
    "unreadable warnings wrote",
    "select --profile jetson_orin": "budget_gmacs budget_source checkpoint gmacs predicted_ms reason runners_up token_counts",
    "checkpoints": CHECKPOINT_KEYS,
    "checkpoints CKPT": CHECKPOINT_KEYS,
    "devices": DEVICE_KEYS,
    "devices jetson_orin": DEVICE_KEYS,
}
"""The contract: keys may be added, never renamed."""


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, weights: Path) -> None:
    """A zoo that holds the tiny checkpoint alone, under the name of its header."""
    folder = tmp_path / "zoo"
    folder.mkdir()
    shutil.copy(weights, folder / "tiny.safetensors")
    monkeypatch.setattr(zoo, "_FOLDER", folder)


@pytest.mark.parametrize("call", JSON_KEYS)
def test_json_keys(call: str, program: Program, two_budgets: Path, weights: Path, image_folder: Path) -> None:
    paths = {
        "MODEL": two_budgets,
        "CKPT": weights,
        "DATA": image_folder,
        "IMAGE": image_folder / "0" / "0.png",
    }
    document = document_of(program, *(paths.get(word, word) for word in call.split()))
    assert set(document[0] if isinstance(document, list) else document) == set(JSON_KEYS[call].split())


def test_convert_writes_model_manifest_and_golden_vectors(tmp_path: Path, tiny_checkpoint: Checkpoint) -> None:
    out = tmp_path / "new" / "out"
    call = ["convert", "--checkpoint", str(tiny_checkpoint.path), "--precision", "fp32", "--out", str(out), "--json"]
    done = subprocess.run([*PROGRAM, *call], capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert set(document) == set(CONVERT_KEYS.split())
    assert document["checkpoint"] == tiny_checkpoint.name
    assert document["token_counts"] == [9, 5, 3] and document["delegates"] == 4
    model, manifest = Path(document["artifact"]), Path(document["manifest"])
    assert sorted(out.iterdir()) == sorted([model, manifest, golden_path_of(model)])
    assert model.stat().st_size == document["size_bytes"]
    stored = json.loads(manifest.read_text())
    assert stored["parity"]["passed"] is document["parity"]["passed"] is True
    assert str(tiny_checkpoint.path.parent) not in json.dumps(stored)


def test_run_mixes_options_and_images(
    program: Program, two_budgets: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = (image_folder / "0" / f"{number}.png" for number in range(3))
    third = third.rename(image_folder / "0" / "-3.png")
    document = document_of(program, "run", two_budgets, "--deadline-ms", 1e4, first, "--threads", 1, second)
    assert [entry["image"] for entry in document] == [str(first), str(second)]
    for entry in document:
        assert [best.keys() for best in entry["top5"]] == [{"index", "name", "probability"}] * 5
        probabilities = [best["probability"] for best in entry["top5"]]
        assert probabilities == sorted(probabilities, reverse=True) and 0 < sum(probabilities) <= 1
    (plain,) = document_of(program, "run", "--threads", 1, two_budgets, first)
    assert plain["kept"] == [9, 5, 3] and plain["top5"] != document[1]["top5"]
    monkeypatch.chdir(third.parent)
    code, out, _ = program("run", "--json", two_budgets, "--", "-3.png")
    assert code == 0 and json.loads(out)[0]["image"] == "-3.png"


def test_parity_counts_unreadable_ones(program: Program, two_budgets: Path, weights: Path, image_folder: Path) -> None:
    broken = image_folder / "0" / "broken.png"
    broken.write_bytes(b"")
    call = ("parity", two_budgets, "--checkpoint", weights, "--device", "cpu")
    document = document_of(program, *call, "--data", image_folder)
    assert document["images"] == 6 and document["unreadable"] == [str(broken)]
    assert 0 <= document["top1_reference"] == document["top1_artifact"] <= 1
    document = document_of(program, *call)
    assert document["images"] == 32 and document["top1_reference"] is None and document["passed"] is True
    assert document["top1_agreement"] == 1 and document["kept_overlap"] == [1, 1, 1]


def test_train(tmp_path: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch, program: Program) -> None:
    stand_in(monkeypatch)
    out = tmp_path / "trained" / "net.safetensors"
    document = document_of(
        program, "train", "--weights", write_dense(tmp_path), "--data", f"{image_folder}:2", "--target-gmacs", 0.002,
        "--out", out, "--set", "device=cpu", "--set", "epochs=1", "--set", "fixed_epochs=0.5", "--set", "batch_size=4",
        "--set", "held_out=2",
    )  # fmt: skip
    assert document.keys() == {"checkpoint", "token_counts", "gmacs", "accuracy", "training"}
    assert document["checkpoint"] == str(out) and out.is_file()
    assert document["training"]["data"] == ["images x2"] and document["training"]["steps"] == 2
    assert document["accuracy"] is None


def test_the_dense_form_of_a_checkpoint(
    program: Program, tiny_model: TinyModel, weights: Path, tiny_dense_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    model = tiny_model("--dense")
    manifest = open_artifact(model).manifest
    assert (manifest.checkpoint, manifest.token_counts, manifest.delegates) == ("tiny_dense", None, 1)
    assert manifest.gmacs == pytest.approx(tiny_dense_checkpoint.gmacs, abs=1e-6)
    report = document_of(program, "parity", model, "--checkpoint", weights, "--device", "cpu")
    assert report["passed"]
    call = ("package", model, "--platform", "android", "--source", "--checkpoint", weights, "--out", tmp_path)
    bundle = Path(document_of(program, *call)["bundle"])
    (provenance,) = bundle.rglob("provenance.json")
    assert json.loads(provenance.read_text())["weights"]["accuracy"] is None, "it was measured of the net with ToFe"


@pytest.mark.usefixtures("shipped")
def test_no_dense_net_fits(program: Program) -> None:
    error = refusal(program, "convert", "--dense", "--profile", "raspberry_pi_5", code=1)
    assert "no checkpoint to choose from" in error


@pytest.mark.usefixtures("shipped")
def test_what_is_shipped_is_listed_and_chosen(program: Program, tiny_checkpoint: Checkpoint) -> None:
    chosen = document_of(program, "select", "--profile", "jetson_orin")
    assert chosen["checkpoint"] == tiny_checkpoint.name and chosen["budget_gmacs"] > chosen["gmacs"]
    assert chosen["budget_source"] == "profile jetson_orin"
    (listed,) = document_of(program, "checkpoints")
    assert listed["name"] == "tiny" and listed["token_counts"] == [9, 5, 3]
    assert listed["sha256"] == tiny_checkpoint.sha256()
    _, table, _ = program("checkpoints")
    assert "tiny" in table and "9,5,3" in table and "70.5 % on noise" in table


def test_devices_has_had_another_name(program: Program) -> None:
    code, out, err = program("profiles", "--json")
    assert (code, err) == (0, "tofe-edge: hint: `profiles` is now called `devices`\n")
    names = [device["name"] for device in json.loads(out)]
    assert "jetson_orin" in names and names == sorted(names)


def test_help_names_every_command_and_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom tofe_edge.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'numpy', 'torch', 'timm', 'executorch', 'torchao', 'coremltools', 'sklearn', 'yaml'} & sys.modules.keys()\n"
        "sys.exit(f'imported {sorted(heavy)}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(f"\n    {command}" in done.stdout for command in COMMANDS)
    said = "Exit codes: 0 done; 1 a gate failed; 2 the input or the call is wrong; 3 a device"
    assert said in " ".join(done.stdout.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_the_json_switch(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert "--json" in capsys.readouterr().out


@pytest.mark.parametrize(
    "call",
    ["", "fly", "run", "run x.pte --what", "profile x.pte --runs 0", "convert --what", "--json select", "-- select"],
)
def test_a_wrong_call_is_exit_code_2_and_one_line(call: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(call.split())
    assert ended.value.code == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert captured.out == "" and line.startswith("tofe-edge") and line.endswith("--help`")


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT to a process")
def test_ctrl_c_ends_convert_with_one_line_and_an_empty_folder(tmp_path: Path, weights: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    process = subprocess.Popen(
        [*PROGRAM, "convert", "--checkpoint", str(weights), "--precision", "fp32", "--out", str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # Whoever runs the tests in the background may have SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not any(out.iterdir()):
            assert process.poll() is None, "it ended before it could be interrupted"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        try:
            stdout, stderr = process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            # If a library catches everything around one of its imports, the interrupt is lost; one presses again, but not
            # while Python ends, which can take long on a busy machine.
            if any(out.iterdir()):
                process.send_signal(signal.SIGINT)
            stdout, stderr = process.communicate(timeout=DEADLINE_SECONDS)
    finally:
        process.kill()
    # A shell reads 130 either way: CPython ends itself by SIGINT if the interrupt landed in an exec()ed string,
    # as imports run some, even if it was handled.
    assert process.returncode in (130, -signal.SIGINT)
    assert stdout == ""
    assert stderr == "tofe-edge: interrupted\n"
    assert list(out.iterdir()) == []

"""Linux bundles on the machines that they are for: this one, and 64-bit ARM under emulation."""

import ctypes
import io
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Program, document_of, need
from linux_runners import Machine, real_machine
from PIL import Image

from tofe_edge.cli import main
from tofe_edge.io.artifact import open_artifact
from tofe_edge.io.images import read_image
from tofe_edge.io.preprocessing import preprocess
from tofe_edge.runtimes.loading import open_model

pytestmark = pytest.mark.toolchain

_SET_MDWE, _REFUSE_EXEC_GAIN = 65, 1
"""prctl of Linux 6.3: no memory of this process becomes executable that was not mapped so."""


@pytest.fixture(scope="module", params=["host", "aarch64"])
def machine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    return real_machine(request.param, tmp_path_factory.mktemp("runner") / "built")


@pytest.fixture(scope="module")
def bundle(machine: Machine, two_budgets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    call = ["package", two_budgets, "--platform", "linux", "--name", "net", "--arch", machine.arch]
    assert main(list(map(str, [*call, "--runner", machine.runner, "--out", out]))) == 0
    return out / f"net-linux-{machine.arch}.tar.gz"


@pytest.fixture
def unpacked(bundle: Path, tmp_path: Path) -> Path:
    """In an empty folder, by the system's own program."""
    folder = tmp_path / "empty"
    folder.mkdir()
    subprocess.run([need("tar", "apt-get install tar"), "-xzf", bundle], cwd=folder, check=True)
    (top,) = folder.iterdir()
    return top


def test_it_runs_and_tests_itself_wherever_it_lies(machine: Machine, unpacked: Path, tmp_path: Path) -> None:
    done = machine.run(unpacked / "tofe_runner", "model/net.pte", "--self-test", "model/net.golden", cwd=unpacked)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["passed"] and [one["images"] for one in found["methods"]] == [4, 4]
    moved = unpacked.rename(tmp_path / "else where")
    picture = moved / "model" / "net.golden" / "0.png"
    done = machine.run(moved / "tofe_runner", moved / "model" / "net.pte", "--image", picture, "--top", "3", cwd="/")
    assert done.returncode == 0 and len(json.loads(done.stdout)["top"]) == 3, done.stderr


def test_nothing_outside_the_bundle_and_the_system_is_loaded(machine: Machine, unpacked: Path) -> None:
    if machine.emulator:
        pytest.skip("the loader's list names the files of the machine that emulates")
    done = subprocess.run(
        [unpacked / "tofe_runner"], env={"LD_TRACE_LOADED_OBJECTS": "1"}, capture_output=True, text=True
    )
    paths = [line.split(" => ")[1].split(" (")[0] for line in done.stdout.splitlines() if " => " in line]
    ours = {Path(path).name for path in paths if path.startswith(f"{unpacked}/lib/")}
    assert ours == {one.name for one in (unpacked / "lib").iterdir()} - {"libtofe.so"}
    assert all(path.startswith((f"{unpacked}/lib/", "/lib", "/usr/lib")) for path in paths)


def test_sums_can_be_verified_without_this_program(unpacked: Path) -> None:
    sha256sum = need("sha256sum", "apt-get install coreutils")
    done = subprocess.run([sha256sum, "--strict", "-c", "SHA256SUMS"], cwd=unpacked, capture_output=True, text=True)
    assert done.returncode == 0 and "lib/libtofe.so: OK" in done.stdout


def test_check_runs_the_bundles_runner(machine: Machine, bundle: Path, program: Program) -> None:
    found = document_of(program, "package", "--check", bundle, "--run-program")
    assert found["passed"] and found["self_test"]["ran"] and found["program_was_run"]
    methods = found["self_test"]["methods"]
    assert len(methods) == 2 and all(one["passed"] and one["images"] == 4 for one in methods.values())


@pytest.fixture
def example(machine: Machine, unpacked: Path) -> Path:
    make = need("make", "apt-get install make")
    command = [make, "-C", str(unpacked / "example"), f"CC={machine.compiler}", "CFLAGS=-O2 -Werror -pedantic"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return unpacked / "example" / "classify"


def classified(machine: Machine, example: Path, stdin: bytes) -> tuple[int, list[str], str]:
    """Exit code, lines and errors of the example with these bytes on stdin."""
    command = [*machine.emulator, str(example), str(example.parents[1] / "model" / "net.pte")]
    done = subprocess.run(command, input=stdin, capture_output=True, env={}, timeout=300)
    return done.returncode, done.stdout.decode().splitlines(), done.stderr.decode()


def ppm(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PPM")
    return stream.getvalue()


def test_the_example_classifies_a_stream_as_python_does(machine: Machine, example: Path, two_budgets: Path) -> None:
    artifact = open_artifact(two_budgets)
    images = [read_image(path) for path in sorted(two_budgets.with_suffix(".golden").glob("*.png"))]
    predict, spec = open_model(artifact, 1), artifact.manifest.preprocessing
    logits = [predict(preprocess(image, spec)).logits.astype(np.float64) for image in images]
    code, lines, errors = classified(machine, example, b"".join(map(ppm, images)))
    assert (code, len(lines)) == (0, 4), errors
    for line, one in zip(lines, logits, strict=True):
        share = 100 * np.exp(one).max() / np.exp(one).sum()
        best = artifact.manifest.class_names[int(one.argmax())]
        label, percent = line.split(", ")[0].rsplit(" ", 1)
        assert label == best and float(percent.rstrip("%")) == pytest.approx(share, abs=0.06)


WHOLE = ppm(Image.new("RGB", (70, 66), (10, 200, 30)))


@pytest.mark.parametrize(
    "stdin",
    [
        *(WHOLE[:-1], b"P5\n70 66\n255\n" + bytes(70 * 66), b"P6\n70 66\n65535\n" + WHOLE[13:]),
        *(b"P6\n-70 66\n255\n" + WHOLE[13:], b"P6\n99999999999999999999 1\n255\n", b"P6\n70 66\n255"),
        *(b"P6 0 66 255 ", b"P6\n# endless", b"GIF89a"),
    ],
)
def test_the_example_refuses_what_is_no_ppm(machine: Machine, example: Path, stdin: bytes) -> None:
    code, lines, errors = classified(machine, example, WHOLE.replace(b"P6\n", b"P6\n# comment\n", 1) + stdin)
    assert (code, len(lines)) == (4, 1) and "is not a whole PPM" in errors


def test_the_example_tests_itself_and_reports_errors(machine: Machine, example: Path) -> None:
    folder = example.parents[1] / "model"
    done = machine.run(example, folder / "net.pte", "--self-test", folder / "net.golden")
    assert (done.returncode, done.stdout) == (0, "self-test passed\n")
    done = machine.run(example, folder / "none.pte")
    assert done.returncode == 3 and done.stderr.startswith("classify: ") and "none.json" in done.stderr
    assert machine.run(example).returncode == 2


def test_it_runs_where_no_memory_may_become_executable(machine: Machine, unpacked: Path) -> None:
    """As the units ask for with ``MemoryDenyWriteExecute``."""
    if machine.emulator:
        pytest.skip("the emulator makes memory executable")
    libc = ctypes.CDLL(None, use_errno=True)

    def forbid() -> None:
        if libc.prctl(_SET_MDWE, _REFUSE_EXEC_GAIN, 0, 0, 0) != 0:
            os._exit(77)

    done = machine.run(
        unpacked / "tofe_runner", "model/net.pte", "--self-test", "model/net.golden", cwd=unpacked, preexec_fn=forbid
    )
    if done.returncode == 77:
        pytest.skip("needs Linux 6.3 or newer")
    assert done.returncode == 0, done.stderr


def test_the_units_are_what_systemd_takes_and_calls_safe(machine: Machine, unpacked: Path) -> None:
    analyze = need("systemd-analyze", "apt-get install systemd")
    units = sorted((unpacked / "systemd").iterdir())
    for unit in units:
        # Where the bundle is meant to lie there is nothing here.
        text = unit.read_text().replace(f"/opt/net-linux-{machine.arch}", str(unpacked))
        assert str(unpacked) in text
        unit.write_text(text)
    instances = [unit.parent / unit.name.replace("@", "@srv-a") for unit in units]
    for unit, instance in zip(units, instances, strict=True):
        unit.rename(instance)
    done = subprocess.run([analyze, "verify", "--man=no", *instances], capture_output=True, text=True)
    said: list[Any] = [line for line in done.stderr.splitlines() if "net-" in line]
    assert (done.returncode, said) == (0, [])
    for unit in instances:
        done = subprocess.run(
            [analyze, "security", "--offline=yes", "--no-pager", "--threshold=10", unit], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout[-400:]

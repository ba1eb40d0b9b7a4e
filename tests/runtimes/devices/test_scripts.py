"""The scripts that run on devices, in the shells that devices have."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import processes
import pytest
from local_shell import LocalShell, has

from tofe_edge.runtimes.devices import scripts
from tofe_edge.runtimes.devices.deploy import parse_facts
from tofe_edge.runtimes.devices.process import OverdueError, run_program
from tofe_edge.runtimes.devices.shell import Answer, script

SECRET = "0" * 32
SHELLS = (("dash",), ("bash",), ("busybox", "sh"), ("mksh",))


@pytest.fixture(params=SHELLS, ids="-".join)
def device(request: pytest.FixtureRequest, tmp_path: Path) -> LocalShell:
    """This machine with that shell, and a folder whose name wants quotes for its temporary files."""
    if not has(request.param[0]):
        pytest.skip(f"{request.param[0]} is not installed; `apt-get install {request.param[0]}`")
    temporary = tmp_path / "it's $(touch hit) a device"
    temporary.mkdir()
    return LocalShell({"PATH": os.environ["PATH"], "TMPDIR": str(temporary)}, request.param)


def temporary_of(device: LocalShell) -> Path:
    return Path(device.environment["TMPDIR"])


def run(device: LocalShell, text: str, zero: str, *arguments: str) -> Answer:
    return device.run(script(text, zero, *arguments), timeout_s=60)


def make(device: LocalShell, *roots: str) -> Path:
    answer = run(device, scripts.MAKE, SECRET, *roots)
    assert answer.code == 0, answer
    return Path(answer.stdout.decode().rstrip("\n"))


@pytest.fixture
def runner(device: LocalShell) -> Path:
    """A folder on the device with a stand-in for the runner: a copy of this machine's ``sleep`` or ``sh``."""
    return make(device)


def put_runner(folder: Path, program: str) -> None:
    (folder / scripts.RUNNER).write_bytes(Path(program).resolve().read_bytes())


def test_a_folder_is_made_for_its_owner_alone_and_removed(device: LocalShell) -> None:
    folder = make(device)
    assert folder == temporary_of(device) / f"{scripts.PREFIX}{SECRET}"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in folder.iterdir()] == ["lib"]
    (folder / "lib" / "file").write_bytes(b"kept")
    assert make(device) == folder  # after a broken link: what is there stays
    assert (folder / "lib" / "file").read_bytes() == b"kept"
    assert run(device, scripts.REMOVE, SECRET).code == 0
    assert list(temporary_of(device).iterdir()) == []
    assert run(device, scripts.REMOVE, SECRET).code == 0  # gone is gone


def test_the_first_root_that_will_do_is_taken(device: LocalShell, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    device.environment = {**device.environment, "TMPDIR": "relative", "HOME": str(tmp_path)}
    assert make(device, str(tmp_path / "missing"), str(tmp_path / "file")).parent == tmp_path
    assert run(device, scripts.REMOVE, SECRET).code == 0
    device.environment = {**device.environment, "HOME": "/proc"}
    answer = run(device, scripts.MAKE, SECRET, str(tmp_path / "missing"))
    assert (answer.code, answer.stdout) == (1, b"") and answer.stderr


def test_a_link_or_file_of_that_name_is_not_followed(device: LocalShell, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_bytes(b"mine")
    trap = temporary_of(device) / f"{scripts.PREFIX}{SECRET}"
    trap.symlink_to(victim)
    device.environment = {**device.environment, "HOME": str(tmp_path)}
    assert make(device).parent == tmp_path
    assert run(device, scripts.REMOVE, SECRET).code == 0
    assert (victim / "file").read_bytes() == b"mine"
    assert not trap.is_symlink()


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Path]:
    """A place for a small file system of its own."""
    place = tmp_path / "mounted"
    place.mkdir()
    yield place
    subprocess.run(["umount", str(place)], capture_output=True, check=False)


@pytest.mark.parametrize("options", ["noexec", "ro", "size=4k,nr_inodes=1"])
def test_a_root_that_is_read_only_full_or_noexec_is_passed_over(device: LocalShell, mount: Path, options: str) -> None:
    command = ["mount", "-t", "tmpfs", "-o", options, "none", str(mount)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("file systems cannot be mounted here; run the tests as root of a machine or privileged container")
    plain = device.environment["TMPDIR"]
    device.environment = {**device.environment, "TMPDIR": str(mount), "HOME": plain}
    assert make(device).parent == Path(plain)
    assert list(mount.iterdir()) == []


def test_sums_of_what_is_there(device: LocalShell) -> None:
    folder = make(device)
    (folder / "lib" / "a.so").write_bytes(b"one")
    answer = run(device, scripts.SUMS, str(folder), "lib/a.so", "missing")
    assert answer.code == 0
    assert answer.stdout.decode().split() == [hashlib.sha256(b"one").hexdigest(), "lib/a.so"]
    assert run(device, scripts.SUMS, str(folder / "nowhere"), "a").code == 1


def test_a_missing_tool_for_sums_is_reported(device: LocalShell, tmp_path: Path) -> None:
    if device.sh[0] == "busybox":
        pytest.skip("busybox brings the tool along")
    folder = make(device)
    shell = subprocess.run(["sh", "-c", f"command -v {device.sh[0]}"], capture_output=True, text=True, check=True)
    device.sh = (shell.stdout.strip(),)
    device.environment = {"PATH": str(tmp_path)}
    assert run(device, scripts.SUMS, str(folder), "a").code == 3


@pytest.mark.parametrize(("end", "code"), [("exit 0", 0), ("exit 3", 3), ("exit 5", 5), ("kill -SEGV $$", 128 + 11)])
def test_the_exit_code_and_output_are_the_runners(device: LocalShell, runner: Path, end: str, code: int) -> None:
    put_runner(runner, "/bin/sh")
    text = f'printf "%s|" "$0" "$@"; echo no >&2; {end}'
    answer = run(device, scripts.RUN, str(runner), "60", "-c", text, "a b", "$(id)")
    assert (answer.code, answer.stdout) == (code, b"a b|$(id)|")
    assert answer.stderr.startswith("no\n") and (answer.stderr == "no\n" or code > 128)
    assert processes.until(lambda: not processes.working_in(runner))


def test_a_missing_folder_has_its_own_code(device: LocalShell, tmp_path: Path) -> None:
    assert run(device, scripts.RUN, str(tmp_path / "gone"), "60").code == scripts.GONE


def test_a_runner_ends_with_its_link(device: LocalShell, runner: Path) -> None:
    put_runner(runner, "/bin/sleep")
    words = script(scripts.RUN, str(runner), "60", "100")
    with pytest.raises(OverdueError):
        run_program(["env", f"PATH={os.environ['PATH']}", *device.sh, *words[1:]], timeout_s=1)
    assert processes.until(lambda: not processes.programs_in(runner))
    assert processes.until(lambda: not processes.working_in(runner))


def test_a_runner_ends_when_its_cpu_time_is_used_up(device: LocalShell, runner: Path) -> None:
    put_runner(runner, "/bin/sh")
    answer = run(device, scripts.RUN, str(runner), "1", "-c", "while :; do :; done")
    assert answer.code in (128 + 9, 128 + 24)


@pytest.mark.parametrize("text", [scripts.MAKE, scripts.REMOVE], ids=["make", "remove"])
def test_a_runner_left_behind_is_ended(device: LocalShell, runner: Path, text: str) -> None:
    put_runner(runner, "/bin/sleep")
    (runner / scripts.RUNNER).chmod(0o700)
    left = subprocess.Popen([runner / scripts.RUNNER, "100"])
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"], cwd=runner)
    try:
        assert run(device, text, SECRET).code == 0
        assert left.wait(10) == -9
        assert bystander.poll() is None
    finally:
        left.kill()
        bystander.kill()
        bystander.wait()


def test_facts_are_this_machines(device: LocalShell) -> None:
    facts = parse_facts(run(device, scripts.FACTS, "facts").stdout.decode())
    here = os.uname()
    assert (facts.arch, facts.system, facts.kernel) == (here.machine, here.sysname, here.release)
    assert facts.cores == os.cpu_count()
    assert not facts.android

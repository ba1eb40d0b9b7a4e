"""A real sshd on a loopback port and the system's ssh: measurements are whole, and nothing stays behind."""

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import processes
import pytest
import ssh_server
from conftest import shell_script
from local_shell import check_link
from ssh_server import SshServer

from tofe_edge.errors import DeviceError, InputError, TofeEdgeError
from tofe_edge.io.artifact import Artifact
from tofe_edge.runtimes.devices import process
from tofe_edge.runtimes.devices.address import SshAddress, parse_address
from tofe_edge.runtimes.devices.opening import RemoteBench, open_bench, open_remote
from tofe_edge.runtimes.devices.shell import SHORT_S, LinkDropped
from tofe_edge.runtimes.devices.ssh import SshShell, connected
from tofe_edge.runtimes.timing import TimingRequest

NAMES = (
    "$(touch hit).pte",
    "a'b\".pte",
    "-oProxyCommand=touch hit",
    "with spaces and\nlines.pte",
    "`touch hit`;touch hit",
    "é&|*",
)
MANY = TimingRequest(runs=1_000_000)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SshServer]:
    with ssh_server.serving(tmp_path, monkeypatch) as server:
        yield server


@contextmanager
def bench_on(
    server: SshServer, pauses_s: Sequence[float] = (0.1, 1.0, 1.0), timeout_s: float = 300.0
) -> Iterator[RemoteBench]:
    """As :func:`open_bench`, but with less patience."""
    with connected(address_of(server)) as shell, open_remote(shell, pauses_s=pauses_s, timeout_s=timeout_s) as bench:
        yield bench


def address_of(server: SshServer) -> SshAddress:
    address = parse_address(server.address)
    assert isinstance(address, SshAddress)
    return address


def nothing_left(server: SshServer) -> bool:
    return not list(server.device.iterdir()) and not processes.working_in(server.device)


def refused(server: SshServer, kind: type[TofeEdgeError] = DeviceError) -> str:
    """The one line with which a device cannot be opened."""
    with pytest.raises(kind) as caught, open_bench(server.address):
        pass
    message = str(caught.value)
    assert message.startswith(f"{server.address}: ")
    assert nothing_left(server)
    return message


@pytest.mark.usefixtures("runner_cache")
def test_models_are_timed_and_nothing_stays(server: SshServer, elastic_artifact: Artifact) -> None:
    with open_bench(server.address) as bench:
        assert bench.name == server.address
        for method in elastic_artifact.manifest.methods:
            timing = bench.time(elastic_artifact.path, TimingRequest(method, runs=7, warm_up=1))
            assert len(timing.latency.samples_ms) == 7
            assert timing.load_ms
            assert timing.peak_rss_bytes
            assert timing.machine is not None
            assert timing.machine.arch == os.uname().machine
            assert timing.machine.cores > 0
        (folder,) = server.device.iterdir()
        assert sum(path.suffix == ".pte" for path in folder.iterdir()) == 1
    assert nothing_left(server)


@pytest.mark.usefixtures("runner_cache")
def test_no_name_of_the_user_is_a_command(server: SshServer, elastic_artifact: Artifact, tmp_path: Path) -> None:
    with open_bench(server.address) as bench:
        for name in NAMES:
            model = tmp_path / name.replace("/", "")
            model.write_bytes(elastic_artifact.path.read_bytes())
            assert len(bench.time(model, TimingRequest(runs=2)).latency.samples_ms) == 2
            with pytest.raises(InputError, match="method"):
                bench.time(model, TimingRequest(method=name))
    assert nothing_left(server)
    assert not list(tmp_path.rglob("hit"))
    assert not Path("hit").exists()
    assert not Path("~/hit").expanduser().exists()


@pytest.mark.usefixtures("runner_cache")
def test_what_the_runner_refuses_names_the_users_file(server: SshServer, tmp_path: Path) -> None:
    model = tmp_path / "broken.pte"
    model.write_bytes(b"nothing of the kind" * 100)
    with open_bench(server.address) as bench:
        with pytest.raises(InputError, match=r"/broken\.pte: "):
            bench.time(model, TimingRequest())
        with pytest.raises(InputError, match="missing"):
            bench.time(tmp_path / "missing.pte", TimingRequest())


def interfere(server: SshServer, action: Callable[[], object]) -> threading.Thread:
    """Do something as soon as a runner runs on the device."""

    def wait_and_act() -> None:
        if processes.until(lambda: processes.programs_in(server.device), 60):
            action()

    thread = threading.Thread(target=wait_and_act, daemon=True)
    thread.start()
    return thread


@pytest.mark.usefixtures("runner_cache")
def test_broken_links_retry(server: SshServer, elastic_artifact: Artifact, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[int] = []

    def drop() -> None:
        seen.extend(processes.programs_in(server.device))
        assert server.drop_connections()

    runs = 4000
    with bench_on(server) as bench:
        thread = interfere(server, drop)
        timing = bench.time(elastic_artifact.path, TimingRequest(runs=runs))
        thread.join()
        assert len(timing.latency.samples_ms) == runs
        assert len(seen) == 1
        assert not processes.programs_in(server.device)
    assert nothing_left(server)
    assert capsys.readouterr().err.count("trying again") == 1


@pytest.mark.usefixtures("runner_cache")
def test_orphan_runners_end(server: SshServer, elastic_artifact: Artifact, capsys: pytest.CaptureFixture[str]) -> None:
    def vanish() -> None:
        # Stopped first, so that it takes no connection between the two.
        server.process.send_signal(signal.SIGSTOP)
        server.drop_connections()
        server.process.kill()

    with bench_on(server, pauses_s=(0.1,)) as bench:
        interfere(server, vanish)
        with pytest.raises(DeviceError, match="cannot be reached"):
            bench.time(elastic_artifact.path, MANY)
    assert processes.until(lambda: not processes.programs_in(server.device))
    (folder,) = server.device.iterdir()
    assert f"{folder} could not be removed there" in capsys.readouterr().err


@pytest.mark.usefixtures("runner_cache")
def test_a_measurement_that_takes_too_long_is_ended(server: SshServer, elastic_artifact: Artifact) -> None:
    with bench_on(server, timeout_s=2) as bench:
        with pytest.raises(DeviceError, match="took more than 2 s"):
            bench.time(elastic_artifact.path, MANY)
        assert processes.until(lambda: not processes.programs_in(server.device))
        assert len(bench.time(elastic_artifact.path, TimingRequest(runs=2)).latency.samples_ms) == 2
    assert nothing_left(server)


@pytest.mark.usefixtures("runner_cache")
def test_a_full_device_is_one_line(server: SshServer) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(server.device)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("file systems cannot be mounted here; run the tests as root of a machine or privileged container")
    try:
        assert "No space left on device" in refused(server)
    finally:
        subprocess.run(["umount", str(server.device)], check=True)


def test_a_wrong_key_of_the_device_is_refused(server: SshServer) -> None:
    ssh_server.new_host_key(server)
    assert "its host key is not the one in your known hosts" in refused(server)
    server.known_hosts.write_text("")
    assert "its host key is not the one in your known hosts" in refused(server)


def test_a_key_that_the_device_does_not_know_is_refused(server: SshServer) -> None:
    (server.folder / "authorized_keys").write_text("")
    assert "it refuses your key" in refused(server)


def test_a_device_that_is_off_is_said_to_be(server: SshServer) -> None:
    server.process.kill()
    server.process.wait()
    assert "cannot be reached" in refused(server)


@pytest.mark.parametrize("shared", [False, True])
def test_files_go_there_and_back(
    server: SshServer, tmp_path: Path, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Files may be larger than answers.
    monkeypatch.setattr(process, "_MOST_OUTPUT", 100_000)
    if not shared:
        check_link(SshShell(address_of(server)), tmp_path, server.device)
        return
    with connected(address_of(server)) as shell:
        check_link(shell, tmp_path, server.device)
        assert len(server.connections()) == 1
    assert processes.until(lambda: not server.connections())


@pytest.mark.parametrize(
    ("said", "code", "found", "again"),
    [
        ("ssh: Could not resolve hostname kitchen: Name or service not known", 255, "there is no such host", False),
        ("/home/me/.ssh/config: line 3: Bad configuration option: x", 255, "your ssh configuration is wrong", False),
        ("ssh: connect to host kitchen port 22: No route to host", 255, "cannot be reached", True),
        ("client_loop: send disconnect: Broken pipe", 255, "cannot be reached", True),
        ("", 255, "cannot be reached (ssh ended with 255)", True),
        ("This account is currently not available.", 1, "its login shell runs no sh", False),
        ("\x1b]0;owned\x07\x1b[31mPermission denied (publickey).", 255, "it refuses your key", False),
    ],
)
def test_what_ssh_says_is_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, code: int, found: str, again: bool
) -> None:
    (tmp_path / "said").write_text(said)
    shell_script(tmp_path / "ssh", f'cat "{tmp_path}/said" >&2\nexit {code}')
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(DeviceError) as caught:
        SshShell(SshAddress("kitchen", "pi", 2222)).run(["true"], timeout_s=SHORT_S)
    assert found in str(caught.value)
    assert str(caught.value).isprintable()
    assert isinstance(caught.value, LinkDropped) == again


def test_the_address_is_behind_the_options() -> None:
    command = SshShell(SshAddress("kitchen", "pi", 2222)).command("line")
    assert command[-3:] == ["--", "kitchen", "line"]
    assert "BatchMode=yes" in command
    assert not any("StrictHostKeyChecking" in word for word in command)

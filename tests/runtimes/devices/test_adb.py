"""The system's adb, its server and a loopback device: measurements are whole, and nothing stays behind."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import processes
import pytest
from adb_device import AdbDevice
from adb_server import adb, adb_server, attached, shell_environment
from conftest import shell_script
from local_shell import check_link

from tofe_edge.errors import DeviceError, InputError
from tofe_edge.io.artifact import Artifact
from tofe_edge.runtimes.devices.adb import AdbShell, connect, listed
from tofe_edge.runtimes.devices.address import AdbAddress
from tofe_edge.runtimes.devices.opening import open_bench, open_remote
from tofe_edge.runtimes.devices.shell import SHORT_S, LinkDropped
from tofe_edge.runtimes.timing import TimingRequest


@pytest.fixture(autouse=True)
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with adb_server(tmp_path, monkeypatch):
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The device's folder of temporary files."""
    path = tmp_path / "device"
    path.mkdir()
    return path


def nothing_left(folder: Path) -> bool:
    return not list(folder.iterdir()) and not processes.working_in(folder)


@pytest.mark.usefixtures("runner_cache")
@pytest.mark.parametrize("shell_v2", [True, False], ids=["shell v2", "shell v1"])
def test_models_are_timed(folder: Path, tmp_path: Path, elastic_artifact: Artifact, shell_v2: bool) -> None:
    model = tmp_path / "-s $(touch hit) it's.pte"
    model.write_bytes(elastic_artifact.path.read_bytes())
    broken = tmp_path / "broken.pte"
    broken.write_bytes(b"nothing of the kind" * 100)
    with attached(AdbDevice(shell_environment(folder), shell_v2=shell_v2)) as device, open_bench("adb") as bench:
        assert bench.name == f"adb://{device.serial}"
        timing = bench.time(model, TimingRequest(runs=7))
        assert len(timing.latency.samples_ms) == 7
        assert timing.machine is not None
        assert timing.machine.arch == os.uname().machine
        with pytest.raises(InputError, match=r"/broken\.pte: "):
            bench.time(broken, TimingRequest())
    assert nothing_left(folder)
    assert not list(tmp_path.rglob("hit"))


@pytest.mark.usefixtures("runner_cache")
def test_pulled_cables_retry(folder: Path, elastic_artifact: Artifact, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[int] = []

    def pull(device: AdbDevice) -> None:
        if processes.until(lambda: processes.programs_in(folder), 60):
            seen.extend(processes.programs_in(folder))
            device.drop()

    runs = 4000
    with attached(AdbDevice(shell_environment(folder))) as device:
        shell = connect(AdbAddress(device.serial))
        with open_remote(shell, pauses_s=(1.0, 2.0, 4.0, 8.0)) as bench:
            thread = threading.Thread(target=pull, args=(device,), daemon=True)
            thread.start()
            assert len(bench.time(elastic_artifact.path, TimingRequest(runs=runs)).latency.samples_ms) == runs
            thread.join()
    assert len(seen) == 1
    assert "trying again" in capsys.readouterr().err
    assert nothing_left(folder)


@pytest.mark.parametrize("shell_v2", [True, False], ids=["shell v2", "shell v1"])
def test_commands_and_files_go_there_and_back(folder: Path, tmp_path: Path, shell_v2: bool) -> None:
    with attached(AdbDevice(shell_environment(folder), shell_v2=shell_v2)) as device:
        check_link(connect(AdbAddress(device.serial)), tmp_path, folder)


@pytest.mark.usefixtures("runner_cache")
def test_android_takes_no_runner_for_another_c_library(folder: Path, tmp_path: Path) -> None:
    text = "case $1 in *release) echo 15;; *manufacturer) echo Some;; *) echo Phone;; esac"
    getprop = shell_script(tmp_path / "getprop", text)
    environment = {**shell_environment(folder), "PATH": f"{getprop.parent}:{os.environ['PATH']}"}
    with attached(AdbDevice(environment)):
        with pytest.raises(InputError, match="Android needs a runner of your own, --runner DIR"), open_bench("adb"):
            pass
        runner = Path("/bin/sh").resolve()
        with (
            pytest.raises(InputError, match=r"is built for Linux with glibc, but .* runs Android"),
            open_bench("adb", runner),
        ):
            pass
    assert nothing_left(folder)


def refused(address: AdbAddress, kind: type[DeviceError] | type[InputError] = DeviceError) -> str:
    with pytest.raises(kind) as caught:
        connect(address)
    return str(caught.value)


def test_which_device_is_meant_must_be_clear(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no device; plug one in" in refused(AdbAddress())
    with attached(AdbDevice(shell_environment(folder))) as one, attached(AdbDevice(shell_environment(folder))) as other:
        message = refused(AdbAddress(), InputError)
        assert "2 devices" in message and one.serial in message and other.serial in message
        assert connect(AdbAddress(other.serial)).serial == other.serial
        assert "`adb connect 127.0.0.1:1`" in refused(AdbAddress("127.0.0.1:1"))
        assert "plug it in" in refused(AdbAddress("R58M12"))
        monkeypatch.setenv("ANDROID_SERIAL", one.serial)
        assert connect(AdbAddress()).serial == one.serial


def test_a_device_that_does_not_trust_this_computer(folder: Path) -> None:
    device = AdbDevice(shell_environment(folder), trusting=False)
    with attached(device):
        assert processes.until(lambda: "unauthorized" in adb("devices"))
        assert "unlock it and accept the key" in refused(AdbAddress(device.serial))
        with pytest.raises(DeviceError, match="unlock it and accept the key") as caught:
            AdbShell(device.serial).run(["true"], timeout_s=SHORT_S)
        assert not isinstance(caught.value, LinkDropped)


def test_a_device_that_is_gone_is_a_broken_link(folder: Path) -> None:
    with attached(AdbDevice(shell_environment(folder))) as device:
        shell = connect(AdbAddress(device.serial))
        adb("disconnect", device.serial)
        for action in (
            lambda: shell.run(["true"], timeout_s=SHORT_S),
            lambda: shell.push(Path("/bin/sh"), str(folder / "file"), timeout_s=SHORT_S, on_bytes=lambda count: None),
            lambda: shell.read(str(folder / "file"), timeout_s=SHORT_S),
        ):
            with pytest.raises(LinkDropped, match="the link broke"):
                action()


def test_a_list_of_devices_is_read() -> None:
    text = (
        "* daemon not running; starting now at tcp:5037\n* daemon started successfully\nList of devices attached\n"
        "R58M12\tdevice\nadb-X (2)._adb-tls-connect._tcp\tdevice\nemulator-5554\toffline\n0123\tno permissions (user in plugdev group); see [http://x]\n\n"
    )
    assert listed(text) == {
        "R58M12": "device",
        "adb-X (2)._adb-tls-connect._tcp": "device",
        "emulator-5554": "offline",
        "0123": "no permissions (user in plugdev group); see [http://x]",
    }
    assert listed("") == {}


def test_a_device_over_wifi_is_found_by_its_whole_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its serial has blanks; adb puts a tab behind it."""
    serial = "adb-X (2)._adb-tls-connect._tcp"
    shell_script(
        folder / "adb", f"[ $1 = devices ] && printf 'List of devices attached\\n{serial}\\tdevice\\n'; exit 0"
    )
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    assert connect(AdbAddress(None)).serial == connect(AdbAddress(serial)).serial == serial

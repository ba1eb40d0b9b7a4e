"""A session keeps its promises whichever call the link breaks in: whole results, whole files, nothing left behind."""

import os
import shutil
from pathlib import Path

import processes
import pytest
from local_shell import LocalShell

from tofe_edge.errors import DeviceError, InputError
from tofe_edge.runtimes.devices.scripts import RUNNER
from tofe_edge.runtimes.devices.session import Parcel, Session, stay
from tofe_edge.runtimes.devices.shell import Answer, LinkDropped

CODE = "cat model; wc -c <lib/one.so; echo complaint >&2; exit 4"
WHOLE = Answer(4, b"the model2000\n", "complaint\n")
AT_ONCE = (0.0, 0.0, 0.0)


@pytest.fixture
def device(tmp_path: Path) -> LocalShell:
    temporary = tmp_path / "device"
    temporary.mkdir()
    return LocalShell({"PATH": os.environ["PATH"], "TMPDIR": str(temporary)})


@pytest.fixture
def parcels(tmp_path: Path) -> list[Parcel]:
    """A shell as the runner, a library, and a model that a user gave a name of their own."""
    model = tmp_path / "-oProxyCommand=$(touch hit) it's.pte"
    model.write_bytes(b"the model")
    library = tmp_path / "one.so"
    library.write_bytes(bytes(2000))
    return [Parcel(Path("/bin/sh").resolve(), RUNNER), Parcel(library, "lib/one.so"), Parcel(model, "model")]


def left_on(device: LocalShell) -> list[Path]:
    return list(Path(device.environment["TMPDIR"]).iterdir())


def run(session: Session, parcels: list[Parcel], code: str = CODE, timeout_s: float = 60) -> Answer:
    return session.run(parcels, ["-c", code], cpu_s=60, timeout_s=timeout_s)


def test_files_go_there_once_and_nothing_stays(device: LocalShell, parcels: list[Parcel]) -> None:
    with stay(device, AT_ONCE) as session:
        for _ in range(3):
            assert run(session, parcels) == WHOLE
        pushed = [call for call in device.calls if call.startswith("push")]
        assert len(pushed) == 3
        assert len(left_on(device)) == 1
        parcels[2].local.write_bytes(b"another")
        assert run(session, parcels, "cat model").stdout == b"another"
        names = {path.name for path in left_on(device)[0].rglob("*")}
        assert names == {RUNNER, "lib", "one.so", "model"}
    assert left_on(device) == []


@pytest.mark.parametrize("moment", ["before", "after"])
def test_wherever_the_link_breaks_the_result_is_whole(
    device: LocalShell, parcels: list[Parcel], moment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with stay(device, AT_ONCE) as session:
        run(session, parcels)
    for broken in range(len(device.calls)):
        device.calls.clear()
        device.broken = lambda number, broken=broken: moment if number == broken else ""  # type: ignore[misc]
        with stay(device, AT_ONCE) as session:
            assert run(session, parcels) == WHOLE
        assert left_on(device) == [], f"broken {moment} call {broken}"
        said = capsys.readouterr().err
        assert said.count("\n") <= 1
        assert "could not be removed" not in said


def test_a_device_that_started_anew_gets_everything_again(device: LocalShell, parcels: list[Parcel]) -> None:
    with stay(device, AT_ONCE) as session:
        run(session, parcels)
        (folder,) = left_on(device)
        shutil.rmtree(folder)
        assert run(session, parcels) == WHOLE
    assert left_on(device) == []


def test_lasting_breaks_fail(device: LocalShell, parcels: list[Parcel], capsys: pytest.CaptureFixture[str]) -> None:
    device.broken = lambda number: "before" if number >= 3 else ""
    with pytest.raises(DeviceError, match="the link broke"), stay(device, AT_ONCE) as session:
        run(session, parcels)
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "trying again" in line] == lines[:-1]
    assert len(lines) == len(AT_ONCE) + 1
    (folder,) = left_on(device)
    assert lines[-1].startswith(f"tofe-edge: warning: local: {folder} could not be removed there (")


def test_a_file_that_arrives_damaged_is_sent_again(device: LocalShell, parcels: list[Parcel]) -> None:
    damaged: list[bytes] = []

    def damage(content: bytes) -> bytes:
        if len(content) == 2000 and not damaged:
            damaged.append(content)
            return content[:-1] + b"\1"
        return content

    device.damage = damage
    with stay(device, AT_ONCE) as session:
        assert run(session, parcels) == WHOLE
    assert damaged


def without_sums(device: LocalShell, folder: Path) -> None:
    """Leave the device without any tool for checksums."""
    folder.mkdir()
    for name in ("sh", "cat", "chmod", "mkdir", "rm", "readlink", "test", "wc", "env"):
        (folder / name).symlink_to(shutil.which(name, path="/bin:/usr/bin") or "/nowhere")
    device.environment = {**device.environment, "PATH": str(folder)}


@pytest.mark.parametrize("sums", [True, False])
def test_damaged_files_never_run(device: LocalShell, parcels: list[Parcel], tmp_path: Path, sums: bool) -> None:
    if not sums:
        without_sums(device, tmp_path / "programs")
    device.damage = lambda content: content[:-1]
    with pytest.raises(DeviceError, match="arrived damaged"), stay(device, AT_ONCE) as session:
        run(session, parcels)
    assert not any("wc -c" in call for call in device.calls)
    assert any(call.startswith("read") for call in device.calls) == (not sums)
    assert left_on(device) == []


def test_files_are_read_back_if_no_tool_makes_sums(device: LocalShell, parcels: list[Parcel], tmp_path: Path) -> None:
    without_sums(device, tmp_path / "programs")
    with stay(device, AT_ONCE) as session:
        assert run(session, parcels) == WHOLE
    assert any(call.startswith("read") for call in device.calls)


def test_a_runner_that_takes_too_long_is_ended(device: LocalShell, parcels: list[Parcel]) -> None:
    with pytest.raises(DeviceError, match="took more than 1 s; ask for fewer runs"), stay(device, AT_ONCE) as session:
        run(session, parcels, "while :; do :; done", timeout_s=1)
    assert not processes.programs_in(Path(device.environment["TMPDIR"]))
    assert left_on(device) == []


@pytest.mark.parametrize("again", [False, True])
def test_an_interruption_leaves_nothing_behind_and_a_second_one_says_what(
    device: LocalShell, parcels: list[Parcel], again: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(number: int) -> str:
        if device.calls and device.calls[-1].startswith("push"):
            if not again:
                device.broken = lambda number: ""
            raise KeyboardInterrupt
        return ""

    device.broken = interrupt
    with pytest.raises(KeyboardInterrupt), stay(device, AT_ONCE) as session:
        run(session, parcels)
    said = [f"{folder} could not be removed there (interrupted)" for folder in left_on(device)]
    assert len(said) == again and all(line in capsys.readouterr().err for line in said)


def test_a_device_without_room_is_one_line(device: LocalShell, parcels: list[Parcel]) -> None:
    device.environment = {**device.environment, "TMPDIR": "/nowhere", "HOME": "/proc"}
    with pytest.raises(DeviceError, match=r"no folder there takes files.*\$TMPDIR") as caught, stay(device) as session:
        run(session, parcels)
    assert not isinstance(caught.value, LinkDropped)


def test_a_missing_file(
    device: LocalShell, tmp_path: Path, parcels: list[Parcel], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match="missing"), stay(device, AT_ONCE) as session:
        run(session, [*parcels, Parcel(tmp_path / "missing", "missing")])
    assert left_on(device) == []
    assert capsys.readouterr().err == ""


def test_who_never_came_leaves_nothing(device: LocalShell, capsys: pytest.CaptureFixture[str]) -> None:
    device.broken = lambda number: "before"
    with stay(device, AT_ONCE):
        pass
    assert device.calls == []
    assert capsys.readouterr().err == ""

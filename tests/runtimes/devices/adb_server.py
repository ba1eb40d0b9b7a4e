"""adb's own server, on a port and with keys of the test's."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import processes
import pytest
from adb_device import AdbDevice
from conftest import need
from ssh_server import free_port


@contextmanager
def adb_server(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let ``adb`` start a server of its own here, and end it; the test skips where there is no adb."""
    need("adb", "apt-get install adb")
    patch.setenv("HOME", str(folder))  # adb makes its key there
    patch.setenv("ANDROID_ADB_SERVER_PORT", str(free_port()))
    patch.delenv("ANDROID_SERIAL", raising=False)
    try:
        yield
    finally:
        adb("kill-server")


@contextmanager
def attached(device: AdbDevice) -> Iterator[AdbDevice]:
    """A device that adb's server is connected to."""
    with device.running():
        adb("connect", device.serial)
        assert processes.until(lambda: device.serial in adb("devices"))
        yield device


def adb(*words: str) -> str:
    """What ``adb`` prints."""
    return subprocess.run(["adb", *words], capture_output=True, text=True, check=False).stdout


def shell_environment(device: Path) -> dict[str, str]:
    """That of a device whose folder for temporary files is ``device``."""
    return {"PATH": os.environ["PATH"], "TMPDIR": str(device)}

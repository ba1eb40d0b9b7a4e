"""A real sshd on a loopback port, with keys and a temporary folder of its own, and an ``ssh`` that knows it."""

import contextlib
import getpass
import os
import shlex
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import processes
import pytest
from conftest import shell_script

_PRIVILEGE_SEPARATION = Path("/run/sshd")

_SERVER = """\
Port {port}
ListenAddress 127.0.0.1
HostKey "{folder}/host_key"
AuthorizedKeysFile "{folder}/authorized_keys"
PidFile none
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
SetEnv TMPDIR="{device}"
"""

_CLIENT = """\
Host *
  IdentityFile "{folder}/key"
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile "{folder}/known_hosts"
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
"""


@dataclass(frozen=True)
class SshServer:
    """The server, and what a test may look at or change."""

    process: subprocess.Popen[bytes]
    port: int
    folder: Path
    device: Path
    """Stands for the device's folder of temporary files."""

    @property
    def address(self) -> str:
        """For ``--on``."""
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}"

    @property
    def known_hosts(self) -> Path:
        """The client's file of host keys."""
        return self.folder / "known_hosts"

    def connections(self) -> list[int]:
        """The processes that serve them."""
        return processes.descendants(self.process.pid, "sshd")

    def drop_connections(self) -> int:
        """End the server's side of every connection at once, as if the network were gone; how many processes it were."""
        found = self.connections()
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(found)


@contextmanager
def serving(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[SshServer]:
    """Start the server and put the ``ssh`` that knows it first on PATH; the test skips where there is no sshd."""
    server = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
    client = shutil.which("ssh")
    if server is None or client is None:
        pytest.skip("sshd or ssh is not installed; `apt-get install openssh-server openssh-client`")
    if os.geteuid() == 0 and not _PRIVILEGE_SEPARATION.is_dir():
        try:
            _PRIVILEGE_SEPARATION.mkdir(mode=0o755)
        except OSError as error:
            pytest.skip(
                f"sshd needs {_PRIVILEGE_SEPARATION} ({error.strerror}); `mkdir -m 755 {_PRIVILEGE_SEPARATION}`"
            )
    device = folder / "device"
    device.mkdir()
    for name in ("host_key", "key"):
        _make_key(folder / name)
    (folder / "authorized_keys").write_bytes((folder / "key.pub").read_bytes())
    port = free_port()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'host_key.pub').read_text()}")
    (folder / "sshd_config").write_text(_SERVER.format(port=port, folder=folder, device=device))
    (folder / "ssh_config").write_text(_CLIENT.format(folder=folder))
    _put_on_path(folder, patch, client)
    with (folder / "sshd.log").open("wb") as log:
        process = subprocess.Popen([server, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=log)
    try:
        if not processes.until(lambda: answers(port) or process.poll() is not None) or process.poll() is not None:
            pytest.fail(f"sshd does not start: {(folder / 'sshd.log').read_text()}")
        server_here = SshServer(process, port, folder, device)
        yield server_here
        server_here.drop_connections()
    finally:
        process.kill()
        process.wait()


def _make_key(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)


def new_host_key(server: SshServer) -> None:
    """Let the client expect another key than the server's."""
    _make_key(server.folder / "other_key")
    server.known_hosts.write_text(f"[127.0.0.1]:{server.port} {(server.folder / 'other_key.pub').read_text()}")


def _put_on_path(folder: Path, patch: pytest.MonkeyPatch, client: str) -> None:
    # OpenSSH finds a user's configuration through the password file, not through HOME.
    programs = folder / "bin"
    programs.mkdir()
    shell_script(programs / "ssh", f'exec {shlex.quote(client)} -F {shlex.quote(str(folder / "ssh_config"))} "$@"')
    patch.setenv("PATH", f"{programs}:{os.environ['PATH']}")


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    """Whether somebody listens on a loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0

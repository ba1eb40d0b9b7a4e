"""Opening a bench at an address: the one place that knows every way to reach a device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from tofe_edge.errors import InputError
from tofe_edge.runtimes.devices import adb, ssh
from tofe_edge.runtimes.devices.address import AdbAddress, SshAddress, parse_address
from tofe_edge.runtimes.devices.deploy import choose_runner
from tofe_edge.runtimes.devices.facts import read_facts
from tofe_edge.runtimes.devices.remote_bench import RemoteBench
from tofe_edge.runtimes.devices.session import PAUSES_S, stay
from tofe_edge.runtimes.devices.shell import Shell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tofe_edge.runtimes.bench import Bench

TIMEOUT_S = 600.0


@contextmanager
def open_bench(address: str, runner: Path | None = None, *, timeout_s: float = TIMEOUT_S) -> Iterator[Bench]:
    """Open the bench at an address: ``host``, ``ssh://[user@]host[:port]``, ``adb`` or ``adb://SERIAL``.

    Args:
        runner: the user's own build of the native runner for the device: the program, or the folder that it is in.
        timeout_s: seconds that one measurement may take, in addition to the duration that is asked for.

    Yields:
        A bench for any number of measurements. Nothing of it stays on the device.

    Raises:
        InputError: the address or the runner is wrong, or a program to reach or build with is missing.
        DeviceError: the device cannot be reached or used.
    """
    place = parse_address(address)
    if isinstance(place, (SshAddress, AdbAddress)):
        reached: AbstractContextManager[Shell] = (
            ssh.connected(place) if isinstance(place, SshAddress) else nullcontext(adb.connect(place))
        )
        with reached as shell, open_remote(shell, runner, timeout_s=timeout_s) as bench:
            yield bench
        return
    if runner is not None:
        raise InputError("a runner is for other devices; on host models run in the Python runtime")
    from tofe_edge.runtimes.bench import HostBench

    yield HostBench()


@contextmanager
def open_remote(
    shell: Shell, runner: Path | None = None, *, timeout_s: float = TIMEOUT_S, pauses_s: Sequence[float] = PAUSES_S
) -> Iterator[RemoteBench]:
    """Open the bench behind a shell; see :func:`open_bench`.

    Args:
        pauses_s: seconds to wait before each further attempt after the link broke.
    """
    facts = read_facts(shell)
    fitting = choose_runner(shell, facts, runner)
    with stay(shell, pauses_s) as session:
        bench = RemoteBench(session, fitting, facts, timeout_s)
        bench.prepare()
        yield bench

"""Opening a bench at an address, and the bench on another device: the native runner there, called from here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

from tofe_edge.errors import DeviceError, InputError
from tofe_edge.io.files import sha256_of
from tofe_edge.runtimes.bench import Bench, HostBench
from tofe_edge.runtimes.devices import adb, ssh
from tofe_edge.runtimes.devices.address import AdbAddress, SshAddress, parse_address
from tofe_edge.runtimes.devices.deploy import DeviceFacts, Runner, choose_runner, read_facts
from tofe_edge.runtimes.devices.scripts import RUNNER
from tofe_edge.runtimes.devices.session import PAUSES_S, Parcel, Session, stay
from tofe_edge.runtimes.devices.shell import Answer, Shell, last_line
from tofe_edge.runtimes.native_runner import arguments, failure, read_result
from tofe_edge.runtimes.timing import Machine, Timing, TimingRequest

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


_SIGNAL = 128
_ENDED_FROM_OUTSIDE = {_SIGNAL + 9: "SIGKILL", _SIGNAL + 24: "SIGXCPU"}


class RemoteBench:
    """Models are timed on a device, one after the other; see :class:`tofe_edge.runtimes.bench.Bench`."""

    def __init__(self, session: Session, runner: Runner, facts: DeviceFacts, timeout_s: float) -> None:
        self.facts = facts
        """Facts of the device, from the first contact."""
        self._session = session
        self._timeout_s = timeout_s
        self._runner = [
            Parcel(runner.program, RUNNER),
            *(Parcel(library, f"lib/{_safe(library)}") for library in runner.libraries),
        ]

    @property
    def name(self) -> str:
        """The device's address."""
        return self._session.name

    def prepare(self) -> None:
        """Have the runner on the device before the first model; saves nothing, but tells earlier what is wrong.

        Raises:
            DeviceError: the device does not take it.
        """
        self._session.bring(self._runner)

    def time(self, model: Path, request: TimingRequest) -> Timing:
        """Time a program on the device; see :meth:`tofe_edge.runtimes.bench.Bench.time`. Every element of the input is 0.5."""
        # Under its sum, so that many methods of one file cost one copy; the user's name for it stays here.
        name = f"{sha256_of(model)}.pte"
        timeout_s = self._timeout_s + (request.duration_s or 0.0)
        cpu_s = timeout_s * request.threads
        answer = self._session.run(
            [*self._runner, Parcel(model, name)],
            arguments(name, request),
            cpu_s=cpu_s,
            timeout_s=timeout_s,
            expected_s=request.duration_s,
        )
        if answer.code:
            raise self._failure(model, name, answer)
        try:
            timing = read_result(answer.stdout.decode("utf-8"), request)
        except (ValueError, KeyError, TypeError) as error:
            raise DeviceError(
                f"{self.name}: the result of {self._runner[0].local} cannot be read ({error}); build it again"
            ) from error
        return replace(timing, warm_up=request.warm_up, machine=self._machine(timing.machine))

    def _machine(self, told: Machine | None) -> Machine:
        """Return what the runner reported of its machine, completed from the first contact."""
        facts = self.facts
        arch, cores, cpu_model = (told.arch, told.cores, told.cpu_model) if told else ("", 0, "")
        return Machine(arch or facts.arch, cores or facts.cores, cpu_model or facts.cpu_model, facts.board)

    def _failure(self, model: Path, name: str, answer: Answer) -> InputError | DeviceError:
        if answer.code in _ENDED_FROM_OUTSIDE:
            return DeviceError(
                f"{self.name}: ended the native runner with {_ENDED_FROM_OUTSIDE[answer.code]}: too little memory, or "
                "too much time; try fewer runs"
            )
        # The device's shell counts signals from 128, Python below 0.
        code = _SIGNAL - answer.code if answer.code > _SIGNAL else answer.code
        told = last_line(answer.stderr).replace(name, str(model))
        found = failure(f"{self.name}: {self._runner[0].local}", str(model), code, told)
        return found if isinstance(found, InputError) else DeviceError(_from(self.name, str(found)))


def _from(name: str, message: str) -> str:
    return message if message.startswith(name) else f"{name}: {message}"


def _safe(library: Path) -> str:
    """Return the library's name, which the loader on the device must find again.

    Raises:
        InputError: it has characters that no library's name has.
    """
    allowed: Callable[[str], bool] = lambda one: one.isascii() and (one.isalnum() or one in "_.+-")  # noqa: E731
    if not all(map(allowed, library.name)) or library.name.startswith(("-", ".")):
        raise InputError(
            f"{library}: has a name that no library has; the runner's lib folder must hold libraries alone"
        )
    return library.name

"""A bench on another device: the native runner there, called from here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tofe_edge.errors import DeviceError, InputError
from tofe_edge.io.files import sha256_of
from tofe_edge.runtimes.devices.deploy import Runner
from tofe_edge.runtimes.devices.facts import DeviceFacts
from tofe_edge.runtimes.devices.scripts import RUNNER
from tofe_edge.runtimes.devices.session import Parcel, Session
from tofe_edge.runtimes.devices.shell import Answer, last_line
from tofe_edge.runtimes.native_runner import arguments, failure, read_result
from tofe_edge.runtimes.timing import Machine, Timing, TimingRequest

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
            timing = read_result(answer.stdout.decode("utf-8"), None)
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

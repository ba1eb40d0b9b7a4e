"""The first run of a model of unknown origin: in a process of its own, with limits of time and memory.

A model file is code. A checksum tells what changed by accident, not who made it, and runtimes end the process on programs
that contradict themselves, or take all the memory that a program asks for. What this user has converted, or what has been
tried once, is known by its digest and costs a look at one file.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np

from tofe_edge.errors import DeviceError, InputError, TofeEdgeError, first_line
from tofe_edge.io.artifact import Artifact, open_artifact
from tofe_edge.io.progress import warn
from tofe_edge.io.targets import target_of

_START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from tofe_edge.runtimes.trial import run; run(sys.argv[2])"
"""The path of this process, and not the working directory, which may hold anything."""
_LIMIT_S, _S_PER_GMAC, _LONGEST_S = 45, 1, 600
"""CPU time; the slowest board that runs a model does some GMACs per second."""
_SPARE_BYTES, _PER_IMAGE_BYTES, _COPIES = 1 << 30, 64 << 20, 4
"""A runtime holds weights in its own order beside the file's, and what a run computes."""
_NO_MEMORY = 12
"""Exit code of a trial that could not get memory."""
_ADVICE = "it is damaged or made to do harm: convert it from its checkpoint yourself"


class TrialError(DeviceError):
    """A model has ended the process that tried it, or gone beyond its limits."""


def trust(sha256: str) -> None:
    """Note that a model of this digest needs no trial. If it cannot be noted, a warning says so."""
    note = _note(sha256)
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        note.touch()
    except OSError as error:
        warn(
            f"{note.parent}: cannot be written ({error.strerror or error}), so models are tried each time; set XDG_STATE_HOME"
        )


def try_first(artifact: Artifact) -> None:
    """Load and run every method of a model once in a process of its own, unless it is trusted; then trust it.

    Raises:
        TrialError: it ended that process, or went beyond the limits.
        InputError, DeviceError: as loading and running raise them.
    """
    if _note(artifact.manifest.sha256).exists():
        return
    command = [
        sys.executable,
        "-P",
        "-c",
        _START,
        json.dumps([str(one) for one in sys.path]),
        str(artifact.path.absolute()),
    ]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=2 * _LONGEST_S)
    except subprocess.TimeoutExpired:
        raise TrialError(f"{artifact.path}: did not end its first run; {_ADVICE}") from None
    said = first_line(done.stdout.decode(errors="replace").strip().rpartition("\n")[2])
    said = said.replace(str(artifact.path.absolute()), str(artifact.path))
    if done.returncode == 0:
        trust(artifact.manifest.sha256)
    elif done.returncode == InputError.exit_code:
        raise InputError(said)
    elif done.returncode == DeviceError.exit_code:
        raise DeviceError(said)
    else:
        raise TrialError(f"{artifact.path}: {_how_it_ended(done.returncode, done.stderr)}; {_ADVICE}")


def _how_it_ended(code: int, stderr: bytes) -> str:
    if code == -getattr(signal, "SIGXCPU", 0):
        return "took more CPU time in its first run than a model of its size can need"
    if code == _NO_MEMORY or any(word in stderr for word in (b"bad_alloc", b"allocate memory")):
        return "asked for more memory in its first run than a model of its size can need"
    try:
        return f"ended the process of its first run ({signal.Signals(-code).name})"
    except ValueError:
        return f"ended the process of its first run (exit code {code})"


def run(path: str) -> None:
    """The trial itself; exits with the code of an error, whose line is the last on stdout."""
    code = 0
    try:
        artifact = open_artifact(Path(path))
        manifest, target = artifact.manifest, target_of(artifact.manifest)
        size = manifest.preprocessing.image_size
        _set_limits(artifact)
        for name in manifest.methods:
            model = target.open(artifact, 1, name, None)
            model.predict([np.zeros((1, 3, size, size), np.float32)])
    except TofeEdgeError as error:
        code = error.exit_code
        print(f"\n{first_line(error)}")
    except MemoryError:
        code = _NO_MEMORY
    sys.stdout.flush()
    # Without what runtimes do at exit: it is no part of the trial.
    os._exit(code)


def _set_limits(artifact: Artifact) -> None:
    """Bound this process; a system without such limits (Windows), or that refuses them (macOS), goes without."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        import torch  # noqa: F401 -- and what it reserves, before the rest is bounded

        manifest = artifact.manifest
        work = sum(method.gmacs for method in manifest.methods.values()) * manifest.batch
        seconds = int(min(_LIMIT_S + _S_PER_GMAC * work, _LONGEST_S) + sum(os.times()[:2]))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
        allowed = _SPARE_BYTES + _PER_IMAGE_BYTES * manifest.batch + _COPIES * manifest.size_bytes
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        held = pages * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + allowed, held + allowed))


def _note(sha256: str) -> Path:
    given = os.environ.get("XDG_STATE_HOME", "")
    base = Path(given) if Path(given).is_absolute() else Path.home() / ".local" / "state"
    return base / "tofe-edge" / "trusted" / sha256

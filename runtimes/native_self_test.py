"""The self-test of the native runner: it replays the golden vectors of a model as it does on a device, without Python."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tofe_edge.errors import DeviceError
from tofe_edge.runtimes.native_runner import SELF_TEST_FAILED, as_argument, call, failure


@dataclass(frozen=True)
class MethodVerdict:
    """The verdict on one method; figures as in :class:`tofe_edge.evaluation.parity.Parity`."""

    method: str
    passed: bool
    images: int
    snr_db: float
    """Infinite if the logits are those of the vectors to the bit, minus infinite if they are not finite."""
    kept_overlap: tuple[float, ...]
    failures: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return all figures; an infinite SNR becomes ``null``."""
        return {**asdict(self), "snr_db": self.snr_db if math.isfinite(self.snr_db) else None}


def self_test_alone(
    binary: Path, model: Path, golden: Path, emulator: Sequence[str] = (), *, threads: int = 1, timeout_s: float = 600.0
) -> tuple[MethodVerdict, ...]:
    """Let the runner read manifest, images and golden vectors itself and replay them.

    Args:
        model: with its manifest beside it.
        golden: folder of its golden vectors.

    Returns:
        One verdict per method; the runner computes what it should if all have ``passed``.

    Raises:
        InputError: the model, its manifest or the vectors are missing or damaged, or the runner was built without the
            headers for them; the runner's own line.
        DeviceError: the runner cannot be started, fails or takes too long.
    """
    words = [as_argument(str(model)), "--self-test", str(golden), "--threads", str(threads)]
    done = call(binary, model, words, emulator, timeout_s)
    if done.returncode not in (0, SELF_TEST_FAILED):
        raise failure(str(binary), str(model), done.returncode, done.stderr)
    try:
        return tuple(
            MethodVerdict(
                method=str(one["method"]),
                passed=bool(one["passed"]),
                images=int(one["images"]),
                # JSON has no infinity: null is either, and the verdict tells which.
                snr_db=(math.inf if one["passed"] else -math.inf) if one["snr_db"] is None else float(one["snr_db"]),
                kept_overlap=tuple(float(share) for share in one["kept_overlap"]),
                failures=tuple(str(text) for text in one["failures"]),
            )
            for one in json.loads(done.stdout)["methods"]
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DeviceError(f"{binary}: its verdict cannot be read ({error}); build it again") from error

"""Parts of the native runner as functions: see native_probe.cpp."""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
import pytest
from native_builds import INCLUDE, compiled, sources

from tofe_edge.io.preprocessing import Preprocessing
from tofe_edge.runtimes.native_build import Target

Pixels = npt.NDArray[np.uint8]

_PARTS = [
    f"{name}.cpp" for name in ("files", "image", "json", "machine", "manifest", "prediction", "preprocess", "sha256")
]
_SANITIZED = ("-fsanitize=address,undefined", "-fno-sanitize-recover")


class RefusedError(Exception):
    """What the runner would end with: an exit code and a line."""

    def __init__(self, answer: str) -> None:
        code, self.message = answer.removeprefix("-").split(" ", 1)
        self.code = int(code)
        super().__init__(answer)


@dataclass(frozen=True)
class Probe:
    """A running probe."""

    questions: IO[bytes]
    answers: IO[bytes]

    def sha256(self, content: bytes, pieces: list[int]) -> str:
        """The checksum, fed in pieces of these sizes and the rest."""
        return self._ask(f"sha256 {len(content)} {' '.join(map(str, pieces))}", content).decode()

    def resized(self, image: Pixels, size: tuple[int, int], window: tuple[int, int, int, int], how: str) -> Pixels:
        """``image`` resized to ``size`` (width, height), of it the window (left, top, width, height)."""
        words = " ".join(map(str, (*size, *window, how, image.shape[1], image.shape[0])))
        answer = self._ask(f"resized {words}", image.tobytes())
        return np.frombuffer(answer, np.uint8).reshape(window[3], window[2], 3)

    def preprocessed(self, image: Pixels, spec: Preprocessing) -> npt.NDArray[np.float32]:
        """The input that the model gets: ``(1, 3, image_size, image_size)``."""
        numbers = (*spec.mean, *spec.std)
        words = [spec.image_size, repr(spec.crop_pct), int(spec.resize == "short_side"), *map(repr, numbers)]
        words += [spec.interpolation, image.shape[1], image.shape[0]]
        answer = self._ask(f"preprocessed {' '.join(map(str, words))}", image.tobytes())
        return np.frombuffer(answer, np.float32).reshape(1, 3, spec.image_size, spec.image_size)

    def decoded(self, path: Path) -> Pixels:
        """An image file as ``(height, width, 3)``."""
        answer = self._ask(f"decoded {path}")
        width, height = map(int, answer[: answer.index(b"\n")].split())
        return np.frombuffer(answer, np.uint8, offset=answer.index(b"\n") + 1).reshape(height, width, 3)

    def kept(self, content: bytes, dtype: str, size: int, *shape: int) -> list[int]:
        """The tokens kept: two of four. ``content`` is two logits and a selection of ``size`` bytes, type and shape."""
        words = " ".join(map(str, (len(content), dtype, size, *shape)))
        return [int(one) for one in self._ask(f"kept {words}", content).split()]

    def ranked(self, logits: Sequence[float]) -> str:
        """The names of the classes ``a`` and ``b``, the likelier first."""
        return self._ask("ranked", np.asarray(logits, np.float32).tobytes()).decode()

    def has_digest(self, path: Path, schema: int) -> bool:
        """Whether a document has a digest, which is right."""
        return self._ask(f"digest {schema} {path}") == b"1"

    def cpus(self, text: str) -> list[int]:
        """The cores of a list."""
        return [int(one) for one in self._ask(f"cpus {text}").split()]

    def _ask(self, question: str, content: bytes = b"") -> bytes:
        self.questions.write(question.encode() + b"\n" + content)
        self.questions.flush()
        answer = self.answers.readline().decode().rstrip("\n")
        if not answer or answer.startswith("-"):
            raise RefusedError(answer or "-0 the probe ended")
        return self.answers.read(int(answer))


@contextmanager
def probe(target: Target, factory: pytest.TempPathFactory) -> Iterator[Probe]:
    """The probe for ``host``, with checks of memory and arithmetic compiled in, or for ``aarch64``."""
    # Only this folder of this machine's headers: the others are not those of the target.
    headers = factory.mktemp("headers")
    for name in ("stb", "nlohmann"):
        (headers / name).symlink_to(INCLUDE / name)
    checks = _SANITIZED if target == "host" else ()
    command = [
        str(Path(__file__).with_suffix(".cpp")), *sources(*_PARTS), "-std=c++17", "-O1", "-ffp-contract=off", "-Wall", "-Wextra",
        "-Werror", *checks, f"-I{sources('')[0]}", f"-isystem{headers}",
    ]  # fmt: skip
    built = compiled(target, "probe", command)
    with subprocess.Popen([*built.emulator, built.binary], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        yield Probe(process.stdin, process.stdout)

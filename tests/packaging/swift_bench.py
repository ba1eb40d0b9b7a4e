"""A packaged Swift library, built by SwiftPM on Linux with doubles of Apple's frameworks that play back recorded runs."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from apple_vectors import noise, vectors_for
from PIL import Image

from tofe_edge.evaluation.golden import golden_path_of, read_golden
from tofe_edge.io.artifact import Artifact, open_artifact
from tofe_edge.io.preprocessing import normalize, resize_and_crop
from tofe_edge.runtimes.coreml_checks import IMAGE, LOGITS, function_name

_DOUBLES = Path(__file__).parent / "apple_doubles"
_ORDER = ("CryptoKit", "CoreGraphics", "ImageIO", "CoreVideo", "CoreML", "ExecuTorch")
"""Each may import those before it."""
_INSTALL = "apt-get install swiftlang (Debian 13 or newer), or set TOFE_EDGE_SWIFT to the program swift"
_REMOTE = re.compile(r"    dependencies: \[\n.*?\n    \],\n", re.DOTALL)
_PRODUCTS = re.compile(r"            dependencies: \[\n.*?\n            \],\n", re.DOTALL)
_MODULE = re.compile(r'^    name: "(\w+)"', re.MULTILINE)
_FLAGS = re.compile(r"linkerSettings: \[\.unsafeFlags\(\[.*?\]\)\]")


def need_swift() -> str:
    """SwiftPM; the test is skipped without it."""
    found = os.environ.get("TOFE_EDGE_SWIFT") or shutil.which("swift")
    # OpenStack's object store has a command of that name.
    if found is None or "Swift version" not in _output([found, "--version"]):
        pytest.skip(f"needs the Swift compiler: {_INSTALL}")
    return found


def _output(call: list[str]) -> str:
    try:
        return subprocess.run(call, capture_output=True, text=True, timeout=60, check=False).stdout
    except OSError:
        return ""


@dataclass(frozen=True)
class SwiftBench:
    """A built package with its tests."""

    swift: str
    folder: Path
    flags: tuple[str, ...]
    recorded: Path

    def test(self, only: str = "") -> subprocess.CompletedProcess[str]:
        """Run its XCTests, all or those of one class."""
        call = [self.swift, "test", *self.flags, *(["--filter", only] if only else [])]
        environment = {
            **os.environ,
            "TOFE_RECORDED": str(self.recorded),
            "XDG_CACHE_HOME": str(self.recorded / "caches"),
        }
        return _run(call, self.folder, environment)


def compile_doubles(swift: str, folder: Path) -> tuple[str, ...]:
    """Modules by the names of Apple's frameworks; the flags with which SwiftPM finds them."""
    flags = ["-Xswiftc", f"-I{folder}"]
    for name in _ORDER:
        shutil.copy(_DOUBLES / f"{name}.swift", folder)
        call = [f"{swift}c", "-parse-as-library", "-module-name", name, "-swift-version", "5", "-O", "-I", "."]
        done = _run(
            [*call, "-emit-module", "-emit-object", "-o", f"{name}.o", f"{name}.swift"], folder, dict(os.environ)
        )
        assert done.returncode == 0, done.stdout + done.stderr
        flags += ["-Xlinker", f"{folder / name}.o"]
    return tuple(flags)


def make_swift_bench(swift: str, flags: tuple[str, ...], bundle: Path, model: Path, folder: Path) -> SwiftBench:
    """A copy of a bundle with further tests, and a recording of what the runtimes here make of its inputs.

    Args:
        flags: of the doubles.
        bundle: what ``tofe-edge package`` wrote. ExecuTorch, which cannot be fetched here, is taken out of the copy's manifest.
    """
    artifact, package = open_artifact(model), folder / "package"
    shutil.copytree(bundle, package)
    manifest = package / "Package.swift"
    (module,) = _MODULE.findall(manifest.read_text())
    text = _PRODUCTS.sub("", _REMOTE.sub("", manifest.read_text()))
    manifest.write_text(_FLAGS.sub("linkerSettings: []", text))
    of_coreml = ["CompiledModelTests"] if artifact.manifest.target == "coreml" else []
    values = {"MODULE": module, **vectors_for(artifact.manifest.preprocessing)}
    for name in ("AppTests", "ChecksumTests", "LibraryTests", *of_coreml):
        source = (_DOUBLES / f"{name}.swift").read_text()
        for key, value in values.items():
            source = source.replace(f"@{key}@", value)
        (package / "Tests" / "ClassifierTests" / f"{name}.swift").write_text(source)
    record(artifact, folder / "recorded")
    return SwiftBench(swift, package, flags, folder / "recorded")


def _run(call: list[str], folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(call, cwd=folder, env=environment, capture_output=True, text=True, timeout=900, check=False)


def record(artifact: Artifact, folder: Path) -> None:
    """What the doubles play back: golden images decoded, and by function and input the raw outputs.

    One further input, noise that ``AppTests`` makes too, has logits that are known without a model.
    """
    golden = read_golden(golden_path_of(artifact.path), artifact)
    folder.mkdir()
    for method in artifact.manifest.methods:
        function = function_name(method) if artifact.manifest.target == "coreml" else method
        for vector in golden.of(method):
            (folder / vector.file).write_bytes(vector.png)
            rgba = Image.fromarray(vector.pixels).convert("RGBA").tobytes()
            (folder / vector.file).with_suffix(".rgba").write_bytes(rgba)
            _keep(artifact, vector.pixels, _outputs(artifact, method, vector.pixels), folder / function / vector.file)
        turned = Image.fromarray(noise(100, 80)[..., :3].copy()).transpose(Image.Transpose.ROTATE_270)
        pixels = np.asarray(resize_and_crop(turned, artifact.manifest.preprocessing))
        outputs = _outputs(artifact, method, pixels)
        logits = next(iter(outputs))
        outputs[logits] = np.arange(outputs[logits].size, dtype=np.float32).reshape(outputs[logits].shape) / 4
        _keep(artifact, pixels, outputs, folder / function / "noise")


def _input(artifact: Artifact, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    """What the runtime is given for a square: for images the pixels themselves."""
    if artifact.manifest.io == "image":
        return pixels
    values = normalize(pixels, artifact.manifest.preprocessing)[None]
    return np.ascontiguousarray(np.repeat(values, artifact.manifest.batch, axis=0))


def _outputs(artifact: Artifact, method: str, pixels: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[Any]]:
    """Raw outputs by the name of their file, logits first."""
    given = _input(artifact, pixels)
    if artifact.manifest.target == "executorch":
        import torch

        from tofe_edge.runtimes.executorch import load

        raw = load(artifact, 1, method).execute(torch.from_numpy(given))
        return {str(number): np.asarray(output) for number, output in enumerate(raw)}
    from tofe_edge.runtimes.mil import load_program, open_package

    program = load_program(open_package(artifact.path), function_name(method))
    if artifact.manifest.io == "image":
        given = np.ascontiguousarray(given.astype(np.float32).transpose(2, 0, 1)[None])
    found = program.run({IMAGE: given})
    names = [LOGITS, *sorted(name for name in found if name.startswith("tokenOrder"))]
    return {name: np.asarray(found[name]).astype(np.float32) for name in names}


def _keep(artifact: Artifact, pixels: npt.NDArray[np.uint8], outputs: dict[str, npt.NDArray[Any]], run: Path) -> None:
    run.mkdir(parents=True)
    (run / "input").write_bytes(_input(artifact, pixels).tobytes())
    for name, array in outputs.items():
        suffix = {np.dtype(np.float32): "f32", np.dtype(np.int64): "i64"}[array.dtype]
        (run / f"{name}.{suffix}").write_bytes(array.tobytes())

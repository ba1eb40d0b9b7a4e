"""The packaged Android library on a JVM: its own classes, with working doubles of Android and a recording of ExecuTorch."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from conftest import need
from packaged_models import need_file, unpack_zip
from PIL import Image

from tofe_edge.evaluation.golden import golden_path_of, read_golden
from tofe_edge.io.artifact import open_artifact
from tofe_edge.io.preprocessing import normalize
from tofe_edge.runtimes.executorch import load_methods

PACKAGE = "org.example.model"
"""What the doubles' ``Bench`` imports."""
_DOUBLES = Path(__file__).parent / "android_doubles"
_JSON = "/usr/share/java/com.android.json.jar"


@dataclass(frozen=True)
class Bench:
    """Runs commands of ``Bench.java``, or of ``EncoderBench.java``."""

    java: str
    classpath: str
    assets: Path
    files: Path
    recorded: Path
    main: str = "Bench"

    def run(self, *commands: str, assets: Path | None = None) -> list[str]:
        """The line that each command prints."""
        call = [self.java, "-Djava.awt.headless=true", f"-Drecorded={self.recorded}", "-cp", self.classpath, self.main]
        call += [str(assets or self.assets), str(self.files), *commands]
        done = subprocess.run(call, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()


def make_bench(aar: Path, model: Path, kotlinc: Path, folder: Path, encodes: bool = False) -> Bench:
    """Unpack an AAR, compile the doubles against its classes, and record what ExecuTorch makes of the golden inputs."""
    javac = need("javac", "apt-get install openjdk-17-jdk-headless")
    json = need_file(_JSON, "apt-get install libandroid-json-java")
    stdlib = kotlinc.resolve().parent.parent / "lib" / "kotlin-stdlib.jar"
    unpack_zip(aar, folder / "aar")
    (folder / "files").mkdir()
    classpath = os.pathsep.join(map(str, (folder / "doubles", folder / "aar" / "classes.jar", json, stdlib)))
    others = {"Bench.java", "Together.java"} if encodes else {"EncoderBench.java"}
    sources = sorted(str(path) for path in _DOUBLES.rglob("*.java") if path.name not in others)
    done = subprocess.run(
        [javac, "-nowarn", "-d", str(folder / "doubles"), "-cp", classpath, *sources],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    record(model, folder / "recorded")
    main = "EncoderBench" if encodes else "Bench"
    return Bench(need("java", ""), classpath, folder / "aar" / "assets", folder / "files", folder / "recorded", main)


def record(model: Path, folder: Path) -> None:
    """What ExecuTorch makes of the golden inputs, as the doubles' ``Module`` plays it back."""
    artifact = open_artifact(model)
    golden = read_golden(golden_path_of(model), artifact)
    for name, loaded in load_methods(artifact, 1, list(artifact.manifest.methods)).items():
        for vector in golden.of(name):
            values = normalize(vector.pixels, golden.preprocessing)[None]
            batch = np.ascontiguousarray(np.repeat(values, artifact.manifest.batch, axis=0))
            keep(folder / name / vector.file, batch, loaded.execute(torch.from_numpy(batch)))


def keep(folder: Path, batch: npt.NDArray[np.float32], outputs: list[object]) -> None:
    """One recorded run."""
    folder.mkdir(parents=True)
    (folder / "input").write_bytes(batch.tobytes())
    for number, output in enumerate(outputs):
        array = np.asarray(output)
        assert array.dtype in (np.float32, np.int64)
        (folder / f"{number}.{'f32' if array.dtype == np.float32 else 'i64'}").write_bytes(array.tobytes())


def as_bitmap(image: Image.Image, path: Path) -> str:
    """The image as ``Bench`` reads a bitmap; the words of a command that name it."""
    red, green, blue, alpha = image.convert("RGBA").split()
    path.write_bytes(Image.merge("RGBA", (alpha, red, green, blue)).tobytes())
    return f"{path}:{image.width}:{image.height}"

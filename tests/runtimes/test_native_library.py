"""libtofe, the C API of the native runner: a C99 program that uses it, here and on an emulated ARM."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import need
from native_builds import Built, compiled, runner
from native_programs import copy_of
from PIL import Image

from tofe_edge.evaluation.prediction import top_classes
from tofe_edge.io.artifact import Artifact
from tofe_edge.io.preprocessing import preprocess
from tofe_edge.runtimes.loading import open_model
from tofe_edge.runtimes.native_build import Target

pytestmark = pytest.mark.toolchain

CLIENT = Path(__file__).with_name("native_client.c")

NAMES = {
    "tofe_api_version", "tofe_class_count", "tofe_class_id", "tofe_classify_rgb", "tofe_close", "tofe_deadline_create",
    "tofe_deadline_destroy", "tofe_deadline_met", "tofe_deadline_method", "tofe_deadline_observe", "tofe_label",
    "tofe_last_error", "tofe_meets_deadline", "tofe_method", "tofe_open", "tofe_open_within", "tofe_output", "tofe_self_test",
    "tofe_value_count", "tofe_values_rgb", "tofe_vector_size",
}  # fmt: skip


@pytest.fixture(scope="module", params=["host", "aarch64"])
def client(request: pytest.FixtureRequest) -> Built:
    target: Target = request.param
    folder = runner(target).binary.parent
    command = [
        str(CLIENT), "-std=c99", "-D_POSIX_C_SOURCE=200809L", "-Wall", "-Wextra", "-Wpedantic", "-Werror", f"-I{folder}",
        f"-L{folder / 'lib'}", f"-Wl,-rpath,{folder / 'lib'}", f"-Wl,-rpath-link,{folder / 'lib'}", "-ltofe", "-lpthread",
    ]  # fmt: skip
    return compiled(target, "client", command)


@pytest.fixture(scope="module")
def model(elastic_artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_of(elastic_artifact, tmp_path_factory.mktemp("model"))


def painted() -> Image.Image:
    """What the client classifies."""
    x, y = np.meshgrid(np.arange(3 * 97), np.arange(81))
    return Image.fromarray((x * 7 + y * y * 3 + x * y).astype(np.uint8).reshape(81, 97, 3))


def test_an_application_gets_what_python_gets(client: Built, model: Path, elastic_artifact: Artifact) -> None:
    manifest = elastic_artifact.manifest
    name = list(manifest.methods)[1]
    done = client(str(model), str(model.with_suffix(".golden")), name)
    assert done.returncode == 0, done.stderr
    count, *lines, in_time, too_late = done.stdout.splitlines()
    by_cost = sorted(manifest.methods, key=lambda method: manifest.methods[method].gmacs)
    assert (in_time, too_late) == (by_cost[-1], by_cost[0])
    assert int(count) == len(manifest.class_names)
    wanted = open_model(elastic_artifact, 1, name)(preprocess(painted(), manifest.preprocessing))
    for line, best in zip(lines, top_classes(wanted.logits, manifest.class_names), strict=True):
        index, probability, identifier, label = line.split(" ", 3)
        assert (int(index), label) == (best.index, best.name)
        assert identifier == manifest.class_ids[best.index]
        assert float(probability) == pytest.approx(best.probability, abs=1e-5)


def test_no_damaged_model_is_opened(client: Built, model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "net.pte"
    content = bytearray(model.read_bytes())
    content[len(content) // 3] ^= 1
    copy.write_bytes(content)
    shutil.copy(model.with_suffix(".json"), tmp_path)
    done = client(str(copy), "none", "forward")
    assert done.returncode == 3 and "its checksum is not that of its manifest" in done.stdout


def test_the_library_shows_its_own_functions_alone() -> None:
    nm = need("nm", "apt-get install binutils")
    library = runner("host").binary.parent / "lib" / "libtofe.so"
    listed = subprocess.run(
        [nm, "-D", "--defined-only", str(library)], capture_output=True, text=True, check=True
    ).stdout
    assert {line.split()[-1].split("@")[0] for line in listed.splitlines()} == NAMES | {"TOFE_1"}
    header = (library.parent.parent / "tofe.h").read_text()
    assert all(f"{name}(" in header for name in NAMES)

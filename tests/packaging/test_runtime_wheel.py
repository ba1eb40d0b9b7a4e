"""The wheel for boards: what it says of itself is true, and its package classifies as the Python runtime does."""

import base64
import csv
import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from native_builds import runner
from PIL import Image

from tofe_edge.errors import InputError
from tofe_edge.io.artifact import open_artifact
from tofe_edge.io.preprocessing import preprocess
from tofe_edge.packaging.runtime_wheel import build, wheel_name
from tofe_edge.runtimes.loading import open_model
from tofe_edge.runtimes.native_build import Target

SCRIPT = """
import json, sys
import numpy as np
import tofe
pixels = np.load(sys.argv[2])
with tofe.open(sys.argv[1], threads=1) as net:
    net.self_test()
    best = net.classify(pixels[..., ::-1][..., ::-1], top=3)
    print(json.dumps([net.values(pixels).tolist(), [one.index for one in best], [one.label for one in best], net.output]))
for wrong in (pixels[..., 0], pixels.astype("float32")):
    try:
        net.classify(wrong)
    except ValueError as error:
        assert "is an array (H, W, 3) of uint8" in str(error)
"""


@pytest.mark.toolchain
def test_its_package_gives_what_the_python_runtime_gives(tiny_model: object, tmp_path: Path) -> None:
    assert callable(tiny_model)
    content = build(runner("host").binary.parent / "lib", os.uname().machine)
    zipfile.ZipFile(io.BytesIO(content)).extractall(tmp_path / "site")
    model, pixels = tiny_model(), np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8)
    np.save(tmp_path / "pixels.npy", pixels)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}

    def python(*words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([sys.executable, *words], env=environment, cwd=tmp_path, capture_output=True, text=True)

    done = python("-c", SCRIPT, str(model), "pixels.npy")
    assert done.returncode == 0, done.stderr
    values, best, labels, output = json.loads(done.stdout)
    artifact = open_artifact(model)
    manifest = artifact.manifest
    expected = open_model(artifact, 1, "forward")(preprocess(Image.fromarray(pixels), manifest.preprocessing)).output
    np.testing.assert_allclose(values, expected.ravel(), atol=1e-4)
    assert best == np.argsort(values)[::-1][:3].tolist() and labels == [manifest.class_names[index] for index in best]
    assert output == "logits"
    # Its commands.
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    assert labels[0] in python("-m", "tofe", "classify", str(model), "photo.png").stdout
    assert "median" in python("-m", "tofe", "bench", str(model), "--runs", "2").stdout
    missing = python("-m", "tofe", "self-test", "missing.pte")
    assert missing.returncode == 2 and missing.stderr.count("\n") == 1 and "cannot be opened" in missing.stderr


@pytest.mark.toolchain
@pytest.mark.parametrize("target", ["host", "aarch64"])
def test_what_it_says_of_itself(target: Target) -> None:
    arch = os.uname().machine if target == "host" else "aarch64"
    libraries = runner(target).binary.parent / "lib"
    content = build(libraries, arch)
    assert content == build(libraries, arch)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    (record,) = (name for name in files if name.endswith("/RECORD"))
    rows = {name: (digest, size) for name, digest, size in csv.reader(files[record].decode().splitlines())}
    assert set(rows) == set(files)
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        assert rows[name] == (("", "") if name == record else (f"sha256={digest}", str(len(data))))
    (tag,) = (
        line for name in files if name.endswith("/WHEEL") for line in files[name].decode().splitlines() if "Tag" in line
    )
    assert wheel_name(arch).endswith(tag.removeprefix("Tag: ") + ".whl")


def test_foreign_or_missing_libraries_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no libtofe\.so"):
        build(tmp_path, "aarch64")
    (tmp_path / "libtofe.so").write_bytes(Path(sys.executable).read_bytes())
    with pytest.raises(InputError, match="is built for"):
        build(tmp_path, "aarch64" if os.uname().machine != "aarch64" else "x86_64")

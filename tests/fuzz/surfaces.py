"""Everything that this program reads, with inputs that it takes, to be corrupted."""

import gzip
import hashlib
import io
import json
import os
import random
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from conftest import TINY_COUNTS, _saved, signed_again, tiny_tofe, write_images
from corrupt import corrupt, corrupt_json, corrupt_text
from made_once import share_in
from PIL import Image

import tofe_edge as te
from tofe_edge.cli import main
from tofe_edge.errors import InputError
from tofe_edge.evaluation.golden import golden_path_of, read_golden
from tofe_edge.io.artifact import manifest_path_of, open_artifact
from tofe_edge.io.dataset import find_samples
from tofe_edge.io.files import fingerprint_of
from tofe_edge.io.images import read_image
from tofe_edge.io.labels import read_labels
from tofe_edge.io.tensors import read_tensors
from tofe_edge.model.checkpoint import load_model, read_header
from tofe_edge.model.dense import describe_dense
from tofe_edge.packaging import check
from tofe_edge.packaging.archive import GZIP_HEAD, tar_bytes, tar_gz_bytes, unpack, zip_bytes
from tofe_edge.packaging.bundle import BundleFile
from tofe_edge.profiles import load_profile
from tofe_edge.profiles.loader import read_profile
from tofe_edge.runtimes import coreml, executorch
from tofe_edge.runtimes.devices import adb, deploy, ssh
from tofe_edge.runtimes.devices.address import AdbAddress, SshAddress
from tofe_edge.runtimes.devices.process import Ended
from tofe_edge.runtimes.native_runner import read_result
from tofe_edge.runtimes.timing import TimingRequest
from tofe_edge.training.recipe import read_recipe

Files = Mapping[str, bytes]
"""By path; the first one is what is read."""


@dataclass(frozen=True)
class Surface:
    """One kind of input.

    Attributes:
        inputs: good ones.
        read: what is read, given the first file; raises the program's own errors.
        change: a corrupted file: ``(name, content, dice)``.
        changed: names of files that are corrupted; empty: any.
        amend: what an attacker would put right in the folder, such as checksums.
        has_digest: a change that is read must read as the same.
        in_trial: it is read in a process of its own, whose end by a signal is an error like others.
        share: of the time.
    """

    name: str
    inputs: tuple[Files, ...]
    read: Callable[[Path], object]
    change: Callable[[str, bytes, random.Random], bytes] = lambda _, content, dice: corrupt(content, dice)
    changed: tuple[str, ...] = ()
    amend: Callable[[Path], object] = lambda _: None
    has_digest: bool = False
    in_trial: bool = False
    share: float = 1.0


def text(_: str, content: bytes, dice: random.Random) -> bytes:
    return corrupt_text(content, dice)


def values(_: str, content: bytes, dice: random.Random) -> bytes:
    return corrupt_json(content, dice)


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@contextmanager
def surfaces(folder: Path) -> Iterator[list[Surface]]:
    """All of them; good inputs are made in ``folder`` first."""
    share_in(folder)  # the compiled probe, too
    with ExitStack() as stack:
        yield [
            *_models(folder),
            *_weights(folder),
            *_images(folder),
            *_native(folder, stack),
            *_texts(folder),
            *_bundles(folder),
            *_devices(),
        ]


def _called(*words: object) -> None:
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        code = main([str(word) for word in words])
    assert code == 0, said.getvalue()


def _models(folder: Path) -> Iterator[Surface]:
    checkpoint = _saved(folder / "tiny.safetensors", TINY_COUNTS)
    for options in ([], ["--target", "coreml", "--option", "io=image"]):
        if not (folder / "models" / str(len(options))).exists():
            _called(
                "convert",
                "--checkpoint",
                checkpoint.path,
                "--precision",
                "fp32",
                *options,
                "--out",
                folder / "models" / str(len(options)),
            )
    program, package = tree(folder / "models" / "0"), tree(folder / "models" / "4")
    name = next(one for one in program if one.endswith(".pte"))
    program = {name: program.pop(name), **program}
    manifest = manifest_path_of(Path(name)).name
    inner = tuple(one for one in package if ".mlpackage/" in one)
    golden = tuple(one for one in program if ".golden/" in one)

    def of_package(path: Path) -> Path:
        return next(one for one in path.parents if one.suffix == ".mlpackage") if path.suffix != ".mlpackage" else path

    def opened(path: Path) -> object:
        artifact = open_artifact(path)
        vectors = read_golden(golden_path_of(path), artifact)
        return artifact.manifest.to_json(), [one.to_json() for one in vectors.vectors]

    def vouched(path: Path) -> None:
        place = manifest_path_of(path)
        document = json.loads(place.read_bytes())
        found = fingerprint_of(path)
        document["sha256"], document["size_bytes"] = found.sha256, found.size_bytes
        place.write_text(json.dumps(signed_again(document)))

    def signed(path: Path) -> None:
        place = manifest_path_of(path)
        place.write_text(json.dumps(signed_again(json.loads(place.read_bytes()))))

    def run(path: Path) -> object:
        artifact = open_artifact(path)
        size = artifact.manifest.preprocessing.image_size
        pixels = np.zeros((1, 3, size, size), np.float32)
        model = executorch.load(artifact, 1) if path.suffix == ".pte" else coreml.load(artifact, executor=True)
        return model.predict([pixels])[0].output.tobytes()

    def in_package(action: Callable[[Path], object]) -> Callable[[Path], object]:
        return lambda path: action(of_package(path))

    packaged = {one: package[one] for one in (*inner, *(one for one in package if one not in inner))}
    yield Surface("model, manifest, golden vectors (.pte)", (program,), opened, _by_kind, has_digest=True)
    yield Surface(
        "program that its manifest vouches for", (program,), run, changed=(name,), amend=vouched, in_trial=True, share=4
    )
    yield Surface("manifest with a right digest", (program,), opened, values, (manifest,), signed)
    yield Surface("golden vectors", (program,), opened, _by_kind, golden, has_digest=True)
    yield Surface("model, manifest (.mlpackage)", (packaged,), in_package(opened), _by_kind, has_digest=True)
    yield Surface(
        "package that its manifest vouches for",
        (packaged,),
        in_package(run),
        changed=inner,
        amend=in_package(vouched),
        in_trial=True,
        share=2,
    )


def _by_kind(name: str, content: bytes, dice: random.Random) -> bytes:
    return corrupt_text(content, dice) if name.endswith(".json") else corrupt(content, dice)


def _weights(folder: Path) -> Iterator[Surface]:
    content = (folder / "tiny.safetensors").read_bytes()

    def loaded(path: Path) -> object:
        model = load_model(read_header(path))
        return digest(b"".join(value.numpy().tobytes() for value in model.state_dict().values()))

    def header(_: str, content: bytes, dice: random.Random) -> bytes:
        """Its JSON header, with the length put right; or bytes anywhere."""
        if dice.random() < 0.5:
            return corrupt(content, dice)
        size = int.from_bytes(content[:8], "little")
        changed = corrupt_json(content[8 : 8 + size], dice)
        return len(changed).to_bytes(8, "little") + changed + content[8 + size :]

    yield Surface("checkpoint (.safetensors)", ({"tiny.safetensors": content},), loaded, header, has_digest=True)

    dense = {key: value for key, value in tiny_tofe().backbone.state_dict().items() if value.is_floating_point()}
    plain = io.BytesIO()
    torch.save({"model": dense, "epoch": 3}, plain)
    inputs = ({"net.pth": plain.getvalue()}, {"net.safetensors": content})

    def tensors(path: Path) -> object:
        return {key: value.shape for key, value in read_tensors(path).items()}

    def described(path: Path) -> object:
        return repr(describe_dense(path))

    yield Surface("dense weights (.pth, .safetensors)", inputs, tensors, header_or_bytes(header))
    yield Surface("dense weights as a net", inputs[1:], described, header, share=0.5)


def header_or_bytes(header: Any) -> Callable[[str, bytes, random.Random], bytes]:
    return lambda name, content, dice: (
        header(name, content, dice) if name.endswith(".safetensors") else corrupt(content, dice)
    )


def pictures() -> dict[str, bytes]:
    """A picture in every format."""
    coarse = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    image = Image.fromarray(coarse).resize((60, 44), Image.Resampling.BICUBIC)
    kinds: dict[str, tuple[str, str, dict[str, Any]]] = {
        "a.jpg": ("JPEG", "RGB", {}),
        "b.jpg": ("JPEG", "RGB", {"progressive": True}),
        "c.jpg": ("JPEG", "L", {"restart_marker_rows": 1}),
        "d.jpg": ("JPEG", "CMYK", {}),
        "a.png": ("PNG", "RGB", {}),
        "b.png": ("PNG", "P", {}),
        "c.png": ("PNG", "LA", {}),
        "a.gif": ("GIF", "P", {}),
        "a.bmp": ("BMP", "RGB", {}),
        "a.webp": ("WEBP", "RGB", {}),
        "b.webp": ("WEBP", "RGBA", {"lossless": True}),
        "a.tif": ("TIFF", "RGB", {"compression": "tiff_lzw"}),
        "b.tif": ("TIFF", "RGB", {"compression": "tiff_deflate"}),
        "c.tif": ("TIFF", "1", {"compression": "group4"}),
        "d.tif": ("TIFF", "RGB", {"compression": "jpeg"}),
        "e.tif": ("TIFF", "RGB", {}),
        "a.ppm": ("PPM", "RGB", {}),
    }
    found = {}
    for name, (kind, mode, options) in kinds.items():
        target = io.BytesIO()
        image.convert(mode).save(target, kind, **options)
        found[name] = target.getvalue()
    return found


def _images(folder: Path) -> Iterator[Surface]:
    def read(path: Path) -> object:
        image = read_image(path)
        return image.size, digest(image.tobytes())

    yield Surface("images", tuple({name: content} for name, content in pictures().items()), read, share=2)

    shard = io.BytesIO()
    with tarfile.open(fileobj=shard, mode="w") as archive:
        for number, (name, content) in enumerate(list(pictures().items())[:6]):
            for suffix, part in ((Path(name).suffix, content), (".cls", str(number % 3).encode())):
                entry = tarfile.TarInfo(f"{number:04}{suffix}")
                entry.size = len(part)
                archive.addfile(entry, io.BytesIO(part))
    whole = shard.getvalue()

    def samples(path: Path) -> object:
        return [
            (sample.label, digest(_pixels(sample))) for sample in find_samples(path, ("0", "1", "2"), allow_empty=True)
        ]

    def headers(_: str, content: bytes, dice: random.Random) -> bytes:
        """Bytes anywhere, or in a header whose checksum is put right."""
        if dice.random() < 0.5:
            return corrupt(content, dice)
        changed = bytearray(content)
        begin = dice.randrange(len(content) // 512) * 512
        changed[begin + dice.randrange(500)] = dice.randrange(256)
        changed[begin + 148 : begin + 156] = b" " * 8
        changed[begin + 148 : begin + 156] = b"%06o\0 " % sum(changed[begin : begin + 512])
        return bytes(changed)

    yield Surface("tar of images", ({"set-0000.tar": whole},), samples, headers)

    write_images(folder / "table", 2) if not (folder / "table").exists() else None
    table = b"path,label\n" + b"".join(
        f'"{label}/{number}.png",{label}\n'.encode() for label in "01" for number in range(2)
    )
    files = {"table.csv": table, **tree(folder / "table")}
    other = {"table.csv": b"\xef\xbb\xbf" + table.replace(b"\n", b"\r\n"), **tree(folder / "table")}
    yield Surface("table of images (.csv)", (files, other), samples, text, ("table.csv",))


def _pixels(sample: Any) -> bytes:
    try:
        return bytes(sample.read().tobytes())
    except InputError as error:
        return str(error).encode()


def _native(folder: Path, stack: ExitStack) -> Iterator[Surface]:
    """The native runner's readers, under address and undefined-behaviour sanitizers, if there is a compiler."""
    from native_probe import RefusedError, probe

    class Folders:
        def mktemp(self, name: str) -> Path:
            (folder / name).mkdir(exist_ok=True)
            for link in (folder / name).iterdir():
                link.unlink()
            return folder / name

    holder: dict[int, Any] = {}

    def ask(question: Callable[[Any], object]) -> object:
        own = os.getpid()
        if own not in holder:  # each worker has a probe of its own
            holder[own] = stack.enter_context(probe("host", Folders()))  # type: ignore[arg-type]
        try:
            return question(holder[own])
        except RefusedError as error:
            if error.message != "the probe ended":
                raise InputError(error.message) from error
            del holder[own]
            raise SystemError("the sanitizers ended the probe") from error

    try:
        with probe("host", Folders()):  # type: ignore[arg-type]
            pass
    except pytest.skip.Exception as error:
        print(f"native readers are left out: {error}")
        return
    kinds = tuple(
        {name: content} for name, content in pictures().items() if name.endswith((".jpg", ".png")) and name != "d.jpg"
    )
    document = {one: content for one, content in tree(folder / "models" / "0").items() if one.endswith("fp32.json")}

    def image(path: Path) -> object:
        return ask(lambda asked: digest(asked.decoded(path).tobytes()))

    def has_digest(path: Path) -> object:
        return ask(lambda asked: asked.has_digest(path, 4))

    yield Surface("images, native", kinds, image, share=2)
    yield Surface("documents, native", (document,), has_digest, text)


def _texts(folder: Path) -> Iterator[Surface]:
    profiles = tuple({f"{name}.yaml": read_profile(name)[0]} for name in ("jetson_orin", "raspberry_pi_5"))
    yield Surface("device profile (.yaml)", profiles, lambda path: repr(load_profile(str(path))), text)
    recipe = {"recipe.yaml": (Path(te.__file__).parent / "training" / "recipes" / "quick.yaml").read_bytes()}
    yield Surface("recipe (.yaml)", (recipe,), lambda path: repr(read_recipe(str(path))), text)
    names = (
        {"names.txt": b"cat\nhound\n"},
        {"names.json": b'{"0": "cat", "1": "hound"}'},
        {"names.json": b'["cat", "hound"]'},
    )
    yield Surface("class names", names, lambda path: repr(read_labels(path)), text)


def _bundles(folder: Path) -> Iterator[Surface]:
    model = next((folder / "models" / "0").glob("*.pte"))
    out = folder / "bundles"
    if not out.exists():
        for platform in ("android", "apple"):
            te.package(model, platform, out / platform, source=platform == "android", weights_licence="MIT")
    (android,), (apple,) = list((out / "android").iterdir()), list((out / "apple").iterdir())
    found = (android, apple)
    inputs = tuple(
        {f"{one.name}/{name}": content for name, content in tree(one).items()}
        if one.is_dir()
        else {one.name: one.read_bytes()}
        for one in found
    )

    def checked(path: Path) -> object:
        top = path.parents[len(path.parents) - 1 - len(HERE[0].parts)] if HERE else path
        result = check.check_bundle(top, lambda *_: {})
        if not result.passed:
            raise InputError(" ".join(result.failures[0].split()))
        files = tree(top)
        # Of documents, the content has a digest, and blanks have none.
        return {
            name: json.loads(part) if name.endswith("provenance.json") else digest(part) for name, part in files.items()
        }

    yield Surface("bundles", inputs, checked, _by_kind, has_digest=True)

    files = {name: BundleFile(content) for name, content in tree(android).items()}
    archives = (
        {"b.aar": zip_bytes(files)},
        {"b.tar.gz": tar_gz_bytes(files, "b")},
        {"b.tar.gz": tar_bytes(files, "b")},
    )

    def zipped(name: str, content: bytes, dice: random.Random) -> bytes:
        """The archive, or what is compressed in it."""
        raw = name == "b.tar.gz" and not content.startswith(b"\x1f")
        changed = corrupt(content, dice)
        return GZIP_HEAD + gzip.compress(changed, mtime=0)[len(GZIP_HEAD) :] if raw else changed

    def unpacked(path: Path) -> object:
        content = path.read_bytes()
        if content[257:262] == b"ustar":  # the good one
            return None
        return {name: digest(file.data) for name, file in unpack(path).files.items()}

    yield Surface("archives of bundles", archives, unpacked, zipped)


HERE: list[Path] = []
"""The folder of a worker."""


def _devices() -> Iterator[Surface]:
    facts = b"arch=aarch64\nsystem=Linux\nkernel=6.1.0\ncores=4\ncpu=Cortex-A76\ntree=Raspberry Pi 5\n"
    request = TimingRequest(runs=3)
    result = {
        "method": "forward", "threads": 1, "samples_ms": [1.5, 1.25, 2], "samples_at_s": [0, 0.1, 0.2], "cpu_ms": 5, "load_ms": 3,
        "planned_bytes": 100, "peak_rss_bytes": 1000, "machine": {"arch": "aarch64", "cores_online": 4, "cpu_model": "A76"},
        "telemetry": [{"t_s": 0.5, "khz": {"0": 2400000}, "celsius": {"cpu": 51.5}}],
    }  # fmt: skip

    def over_ssh(path: Path) -> object:
        said = path.read_bytes()

        def answered(command: Any, **_: Any) -> Ended:
            return Ended(0, said.replace(b"MARK", _mark(command[-1]).encode()), said[:50])

        with mock.patch.object(ssh, "run_program", answered):
            shell = ssh.SshShell(SshAddress("pi", None, None))
            said_of_it = shell.run(["true"], timeout_s=1)
            return said_of_it.code, repr(deploy.parse_facts(said_of_it.stdout.decode(errors="replace")))

    def over_adb(path: Path) -> object:
        said = path.read_bytes()

        def answered(command: Any, **_: Any) -> Ended:
            listing, _line, answer = said.partition(b"====\n")
            return Ended(
                0, answer.replace(b"MARK", _mark(command[-1]).encode()) if "shell" in command else listing, b""
            )

        with mock.patch.object(adb, "run_program", answered):
            device = adb.connect(AdbAddress(None))
            return device.name, repr(device.run(["true"], timeout_s=1))

    def measured(path: Path) -> object:
        try:
            return repr(read_result(path.read_bytes().decode(errors="replace"), request))
        except (ValueError, KeyError, TypeError) as error:  # what its callers turn into one line
            raise InputError(" ".join(str(error).split())) from error

    frame = b"noise\nMARK\n" + facts + b"\nMARK 0\n"
    devices = b"List of devices attached\nadb-X (2)._adb-tls-connect._tcp\tdevice\n====\n" + frame
    yield Surface("replies over ssh", ({"reply": frame},), over_ssh, text)
    yield Surface("replies over adb", ({"reply": devices},), over_adb, text)
    yield Surface(
        "measurements of a device",
        ({"result.json": json.dumps(result).encode()},),
        measured,
        lambda name, content, dice: dice.choice((values, text))(name, content, dice),
    )


def _mark(line: str) -> str:
    """The mark that frames an answer: 32 hex digits in the command line."""
    found = re.search(r"\b[0-9a-f]{32}\b", line)
    return found[0] if found else ""

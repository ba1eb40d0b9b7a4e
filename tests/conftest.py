"""Small nets, checkpoints and image folders that the tests share. Everything is seeded."""

import gc
import hashlib
import io
import json
import os
import re
import resource
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from made_once import made_once, share_in
from native_builds import Built, runner
from PIL import Image
from torch import nn

from tofe_edge.errors import InputError, TofeEdgeError
from tofe_edge.io.artifact import Artifact, Manifest, open_artifact
from tofe_edge.io.documents import DIGEST, digest_of
from tofe_edge.io.labels import default_classes
from tofe_edge.io.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from tofe_edge.model.backbones import TokenCounts, create_backbone
from tofe_edge.model.checkpoint import Checkpoint, describe, save
from tofe_edge.model.tofe import ToFe
from tofe_edge.runtimes import native_build

# A busy machine is no defect: the time of one example is not asserted.
settings.register_profile("tofe-edge", deadline=None)
settings.load_profile("tofe-edge")

TINY = {"image_size": 64, "depth": 4, "dim": 48, "heads": 3, "classes": 10}
"""Overrides of a net with 16 patch tokens and one block a stage."""

TINY_COUNTS = TokenCounts((9, 5, 3))

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
"""Any JSON value, also of the wrong type for its key."""

Program = Callable[..., tuple[int, str, str]]
"""``program(*arguments)``: exit code, stdout and stderr."""

TinyModel = Callable[..., Path]
"""``tiny_model(*options)``"""


def tiny_tofe(
    name: str = "deit_tiny_patch16_224",
    seed: int = 0,
    reduction: Any = "paper",
    thaws_last: Any = False,
    **overrides: int,
) -> ToFe:
    """An eval ToFe whose every parameter and running statistic counts: none is zero, one or untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + zlib.crc32(name.encode()))
        model = ToFe(create_backbone(name, {**TINY, **overrides}, reduction=reduction, thaws_last=thaws_last))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
            for selector in model.selectors:
                for parameter in selector.parameters():
                    # Strong enough that an image's tokens get scores of both signs.
                    parameter.add_(0.2 * torch.randn_like(parameter))
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    assert module.running_mean is not None and module.running_var is not None
                    module.running_mean.normal_(std=0.1)
                    module.running_var.uniform_(0.5, 1.5)
    return model.eval()


def plain_manifest(name: str, content: bytes, **changes: Any) -> Manifest:
    """A manifest that vouches for ``content`` as an fp32 artifact of a net of 16 patch tokens."""
    plain = Manifest(
        artifact=name,
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        target="executorch",
        backend="xnnpack",
        precision="fp32",
        int8_mode=None,
        checkpoint="tiny",
        checkpoint_sha256="0" * 64,
        backbone="deit_tiny_patch16_224",
        profile=None,
        token_counts=[9, 5, 3],
        stage_blocks=[1, 1, 1, 1],
        patch_tokens=16,
        gmacs=0.5,
        delegates=4,
        fallback_ops={},
        fp32_layers=[],
        planned_memory_bytes=0,
        further_methods=[],
        batch=1,
        selection="topk",
        layout="tokens_first",
        io="tensor",
        deployment_target=None,
        quantization=None,
        preprocessing=Preprocessing(64, 0.9, "bicubic", IMAGENET_MEAN, IMAGENET_STD),
        class_names=["cat", "hound"],
        class_ids=["0", "1"],
        parity=None,
        versions={},
    )
    return replace(plain, **changes)


def manifest_for(checkpoint: Checkpoint, name: str, content: bytes, **changes: Any) -> Manifest:
    """The same as an artifact of the tiny checkpoint."""
    own: dict[str, Any] = {"checkpoint": checkpoint.name, "checkpoint_sha256": checkpoint.sha256()}
    own |= {"gmacs": checkpoint.gmacs, "preprocessing": checkpoint.preprocessing}
    own |= {"class_names": list(checkpoint.classes.names), "class_ids": list(checkpoint.classes.ids)}
    return plain_manifest(name, content, **{**own, "backbone": checkpoint.backbone_name, **changes})


def without_progress(err: str) -> str:
    """What a command said, without how far it was on a slow machine; nor what the native library says of itself, which goes
    another way in a process of its own."""
    beside = re.compile(r"\[\w+\.cpp:\d+\] |tofe-edge: .*: \d+ of \d+ [\w ]+, \d\d:\d\d")
    return "".join(line for line in err.splitlines(keepends=True) if not beside.match(line))


def is_too_wide(line: str) -> bool:
    """Whether a line is longer than the terminal's 80 columns, the paths in it, which are to be copied, left out."""
    return len(re.sub(r"/\S+", "", line)) > 80


@pytest.fixture
def program(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Program:
    """The command line, in this process, with a terminal of 80 columns."""
    from tofe_edge.cli import main

    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()  # what an earlier conversion said
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        if "--json" not in arguments:
            assert not [line for line in captured.out.splitlines() if is_too_wide(line)]
        return code, captured.out, without_progress(captured.err)

    return run


def flat(out: str) -> str:
    """What a command printed as one line, wherever the terminal's width folded it."""
    return " ".join(out.split())


def document_of(program: Program, *arguments: object, code: int = 0) -> Any:
    """The JSON document of a call, which says nothing else."""
    found, out, err = program(*arguments, "--json")
    assert (found, err) == (code, "")
    return json.loads(out)


def refusal(program: Program, *arguments: object, code: int = 2) -> str:
    """The one line on stderr of a call that fails, without its prefix."""
    found, out, err = program(*arguments)
    assert (found, out) == (code, "")
    assert err.startswith("tofe-edge: error: ") and err.count("\n") == 1 and err.endswith("\n")
    return err.removeprefix("tofe-edge: error: ").rstrip()


def refused(path: Path, action: Callable[[], object]) -> str:
    """The message of the :class:`InputError` that ``action`` raises: one line that names the file."""
    with pytest.raises(InputError) as caught:
        action()
    return _one_line(caught.value, path)


def fine_or_refused(action: Callable[[], object], *paths: Path) -> None:
    """Run ``action``; it may raise an :class:`InputError` whose one line names one of the files, and nothing else."""
    try:
        action()
    except InputError as error:
        _one_line(error, *paths)


def edit_json(path: Path, change: Callable[[Any], object]) -> None:
    """Change a JSON file in place; its digest, if it has one, becomes that of the new content."""
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(signed_again(document)), encoding="utf-8")


def signed_again(document: Any) -> Any:
    """The document with the digest of what it holds now, if it has one."""
    if isinstance(document, dict) and document.get(DIGEST):
        with suppress(InputError):  # a number that is out of range
            document[DIGEST] = digest_of(document)
    return document


def flip(path: Path, at: int = -1) -> None:
    """Turn a bit of one byte of a file."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def shell_script(path: Path, text: str) -> Path:
    """A program that ``sh`` runs."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def need(program: str, install: str) -> str:
    """The path of a program; the test is skipped without it."""
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"needs {program}: {install}")
    return path


@contextmanager
def nearly_full_disk(bytes_left: int) -> Iterator[None]:
    """Let the operating system refuse files over ``bytes_left``: the writers see it as they see a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_left, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _one_line(error: InputError, *paths: Path) -> str:
    message = str(error)
    assert message.startswith(tuple(f"{path}: " for path in paths))
    return message


@pytest.fixture(scope="session", autouse=True)
def _every_error_is_one_line() -> Iterator[None]:
    """Whichever test raises one of the package's own errors: its text is what a user sees."""

    def checked(self: TofeEdgeError, *arguments: object) -> None:
        assert not any("\n" in str(argument) for argument in arguments), arguments
        Exception.__init__(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TofeEdgeError, "__init__", checked, raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def _shared_with_the_other_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    own = tmp_path_factory.getbasetemp()
    place = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "made-once"
    place.mkdir(exist_ok=True)
    former = share_in(place)
    with pytest.MonkeyPatch.context() as patch:
        # What any process of the run has converted needs no trial.
        patch.setenv("XDG_STATE_HOME", str(place / "state"))
        yield
    share_in(former)


@pytest.fixture(scope="module", autouse=True)
def _garbage_is_looked_for_in_what_a_module_makes() -> None:
    """And not in all that was loaded before: coremltools collects in every conversion, a tenth of its time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A saved fp16 ToFe checkpoint with counts (9, 5, 3); its file is ``tiny_checkpoint.path``."""
    return _saved(tmp_path_factory.mktemp("checkpoints") / "tiny.safetensors", TINY_COUNTS)


@pytest.fixture(scope="session")
def weights(tiny_checkpoint: Checkpoint) -> Path:
    """The file of the tiny checkpoint."""
    return tiny_checkpoint.path


@pytest.fixture(scope="session")
def tiny_dense_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """The same net saved as a dense checkpoint, without selectors."""
    return _saved(tmp_path_factory.mktemp("checkpoints") / "tiny-dense.safetensors", None)


def _saved(path: Path, counts: TokenCounts | None) -> Checkpoint:
    model = tiny_tofe()
    host = model.backbone
    classes = default_classes(host.spec.classes)
    accuracy = {"top1": 70.5, "top5": 90.25, "dense_top1": 72.0, "images": 40, "dataset": "noise"}
    header = describe(path.stem, host.spec, host.preprocessing, classes, counts, accuracy, {"epochs": 1})
    return save(path, model, header)


@pytest.fixture(scope="session")
def tiny_model(tiny_checkpoint: Checkpoint) -> TinyModel:
    """What ``convert`` with these options makes of the tiny checkpoint, in fp32 unless they say otherwise.

    The path of the model; manifest and golden vectors lie beside it. Made once a run: change copies alone.
    """
    from tofe_edge.cli import main

    def convert(*options: object) -> Path:
        words = [str(option) for option in options]
        precision = [] if "--precision" in words else ["--precision", "fp32"]
        call = ["convert", "--checkpoint", str(tiny_checkpoint.path), *precision, *words, "--out"]

        def make(folder: Path) -> None:
            # Whichever test asks first, it is not what that one captures.
            said = io.StringIO()
            with redirect_stdout(said), redirect_stderr(said):
                code = main([*call, str(folder)])
            assert code == 0, said.getvalue()

        folder = made_once("-".join(["tiny", *(word.removeprefix("--") for word in words)]), make)
        (model,) = (path for suffix in ("pte", "mlpackage", "onnx") for path in folder.glob(f"*.{suffix}"))
        return model

    return convert


@pytest.fixture(scope="session")
def two_budgets(tiny_model: TinyModel) -> Path:
    """The tiny checkpoint in fp32 with a smaller budget beside its own."""
    return tiny_model("--elastic", "0.0016")


@pytest.fixture
def two_budgets_copy(two_budgets: Path, tmp_path: Path) -> Path:
    """A copy to damage: model, manifest and golden vectors."""
    return Path(shutil.copytree(two_budgets.parent, tmp_path / "copied")) / two_budgets.name


@pytest.fixture(scope="session")
def elastic_artifact(tiny_model: TinyModel) -> Artifact:
    """The tiny checkpoint in fp32 with a larger and a smaller budget beside its own, for batches of 3."""
    return open_artifact(tiny_model("--elastic", "0.0016,0.002", "--batch", "3"))


def write_images(folder: Path, per_class: int, classes: Sequence[str] = ("0", "1"), seed: int = 0) -> Path:
    """Seeded PNGs of coarse noise, ``folder/<class>/<number>.png``."""
    generator = np.random.default_rng(seed)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            coarse = generator.integers(0, 256, (6, 8, 3), np.uint8)
            picture = Image.fromarray(coarse).resize((96, 72), Image.Resampling.BICUBIC)
            picture.save(folder / name / f"{number}.png")
    return folder


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """``images/0`` and ``images/1`` with three images each: class ids of the tiny nets."""
    return write_images(tmp_path / "images", 3)


@pytest.fixture(scope="session")
def realdata() -> Path:
    """The folder that TOFE_EDGE_DATA names; the test is skipped where it names none."""
    name = os.environ.get("TOFE_EDGE_DATA")
    if not name:
        pytest.skip("needs real images and weights: set TOFE_EDGE_DATA to their folder")
    folder = Path(name)
    if not folder.is_dir():
        pytest.skip(f"TOFE_EDGE_DATA={name} is not a folder")
    return folder


@pytest.fixture(scope="session")
def host() -> Built:
    """The native runner for this machine."""
    return runner("host")


@pytest.fixture
def runner_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache of runners; what is built into it is a copy of the one that the tests of a run build."""
    built = runner("host").binary.parent
    monkeypatch.setattr(native_build, "build", lambda target, folder: shutil.copytree(built, folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
